package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// table are the columns that people see. What upstream's printer makes of an object is
// kept with it; ages are filled in for each answer.
type table struct {
	*plain
	ctx     context.Context // of the request
	include metav1.IncludeObjectPolicy
}

// tableKind tells tables apart: definitions of custom resources may change their columns.
type tableKind struct {
	include metav1.IncludeObjectPolicy
	columns any
	headed  bool
}

// table returns the form that a request wants, if that is one of the present: what upstream
// makes of the past is for the past only.
func (p *plain) table(ctx context.Context, verb string, query url.Values) (form, bool) {
	t := table{plain: p, ctx: ctx, include: metav1.IncludeObjectPolicy(query.Get("includeObject"))}
	if p.stored.Table == nil || view.PastOf(ctx) != nil {
		return nil, false
	}
	switch t.include {
	case "":
		t.include = metav1.IncludeMetadata
	case metav1.IncludeMetadata, metav1.IncludeNone:
	case metav1.IncludeObject:
		return inJSON{t}, verb != "watch"
	default:
		return nil, false
	}
	return inJSON{t}, true
}

func (t table) kind(first bool) any { return tableKind{t.include, t.stored.Columns, first} }

const tableHead = `{"kind":"Table","apiVersion":"meta.k8s.io/v1",`

func (t table) listHead(dst []byte, page store.Page) ([]byte, error) {
	columns, err := t.columns()
	if err != nil {
		return nil, err
	}
	dst = appendListMeta(append(dst, tableHead...), page, false)
	return fmt.Appendf(dst, `,"columnDefinitions":%s,"rows":[`, columns), nil
}

func (t table) nothing() string { return "[]}\n" }

// columns are the definitions of the columns.
func (t table) columns() ([]byte, error) {
	empty, err := t.stored.Table.ConvertToTable(t.ctx, t.stored.Store.NewList(), &metav1.TableOptions{})
	if err != nil {
		return nil, err
	}
	return json.Marshal(empty.ColumnDefinitions)
}

func (t table) appendItem(dst []byte, i *view.Item) ([]byte, error) {
	r, err := t.row(i)
	if err != nil {
		return nil, err
	}
	dst = r.append(dst, time.Now())
	switch t.include {
	case metav1.IncludeNone:
		dst = append(dst, "null"...)
	case metav1.IncludeObject:
		dst = schemas.AppendWithResourceVersion(dst, i.Object, i.Rev)
	default:
		dst = appendPartial(dst, i)
	}
	return append(dst, '}'), nil
}

// worthKeeping is how long a row has to hold for that.
const worthKeeping = 10 * time.Second

// rowKind marks rows among what is kept with an item.
type rowKind struct{ columns any }

// row returns the cells of an object.
func (t table) row(i *view.Item) (*row, error) {
	now, kind := time.Now(), rowKind{t.stored.Columns}
	if kept, ok := t.stored.Forms.Get(i, kind, now); ok {
		if r, ok := kept.(*row); ok && r.holds(now) {
			return r, nil
		}
	}
	obj, err := t.stored.Store.Object(i)
	if err != nil {
		return nil, err
	}
	printed, err := t.stored.Table.ConvertToTable(t.ctx, obj, &metav1.TableOptions{})
	if err != nil {
		return nil, err
	}
	if len(printed.Rows) != 1 {
		return nil, fmt.Errorf("%s prints as %d rows", i.Key, len(printed.Rows))
	}
	r, err := newRow(printed, timesIn(i.Object), now, time.Now())
	if err == nil && r.holds(now.Add(worthKeeping)) {
		t.stored.Forms.Put(i, kind, r, r.size(), now)
	}
	return r, err
}

func (t table) appendObject(dst []byte, i *view.Item, first bool) ([]byte, error) {
	columns := []byte("null")
	if first {
		var err error
		if columns, err = t.columns(); err != nil {
			return nil, err
		}
	}
	dst = append(append(dst, tableHead...), `"metadata":{"resourceVersion":"`...)
	dst = strconv.AppendInt(dst, i.Rev, 10)
	dst = fmt.Appendf(dst, `"},"columnDefinitions":%s,"rows":[`, columns)
	dst, err := t.appendItem(dst, i)
	return append(dst, "]}"...), err
}

func (t table) bookmarkObject(rev int64, initialEnd, first bool) ([]byte, error) {
	obj := t.stored.Store.NewObject()
	about, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	about.SetResourceVersion(strconv.FormatInt(rev, 10))
	if initialEnd {
		about.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	printed, err := t.stored.Table.ConvertToTable(t.ctx, obj, &metav1.TableOptions{NoHeaders: !first})
	if err != nil {
		return nil, err
	}
	printed.TypeMeta = metav1.TypeMeta{Kind: "Table", APIVersion: metav1.SchemeGroupVersion.String()}
	for n := range printed.Rows {
		printed.Rows[n].Object = runtime.RawExtension{}
		if t.include == metav1.IncludeMetadata || initialEnd {
			partial := meta.AsPartialObjectMetadata(about)
			partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind(partialOne))
			printed.Rows[n].Object.Object = partial
		}
	}
	return json.Marshal(printed)
}
