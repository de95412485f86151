package customresources

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// Mark says which definitions a table holds: equal marks, equal definitions.
func Mark(table *view.Table, prefix string) string {
	var b strings.Builder
	table.Snapshot().Ascend(prefix, "", func(i *view.Item) bool {
		fmt.Fprintf(&b, "%s@%d ", i.Key[len(prefix):], i.Rev)
		return true
	})
	return b.String()
}

// Then returns a source of the definitions that a table of the past holds. What can't
// be decoded is not served, as at its time.
func Then(table *view.Table, prefix string) Source {
	f := fixed{}
	table.Snapshot().Ascend(prefix, "", func(i *view.Item) bool {
		crd := &apiextensions.CustomResourceDefinition{}
		if json.Unmarshal(i.Object, crd) == nil {
			crd.ResourceVersion = strconv.FormatInt(i.Rev, 10)
			f[crd.Name] = Definition{CustomResourceDefinition: crd, Created: i.Created}
		}
		return true
	})
	return f
}

// tables makes the tables of one version. Columns of dates say how long ago they are, by
// the wall clock. For a request to the past these cells are those of a copy whose times
// are as much later as the instant is ago.
type tables struct{ rest.TableConvertor }

// ConvertToTable implements rest.TableConvertor.
func (t tables) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table, err := t.TableConvertor.ConvertToTable(ctx, object, options)
	at, past := view.InstantOf(ctx)
	if err != nil || !past {
		return table, err
	}
	shown := object.DeepCopyObject()
	shift := time.Since(at)
	if meta.IsListType(shown) {
		err = meta.EachListItem(shown, func(o runtime.Object) error { shiftObject(o, shift); return nil })
	} else {
		shiftObject(shown, shift)
	}
	if err != nil {
		return nil, err
	}
	aged, err := t.TableConvertor.ConvertToTable(ctx, shown, options)
	if err != nil || len(aged.Rows) != len(table.Rows) {
		return table, err
	}
	for column, definition := range table.ColumnDefinitions {
		if definition.Type != "date" {
			continue
		}
		for row := range table.Rows {
			table.Rows[row].Cells[column] = aged.Rows[row].Cells[column]
		}
	}
	return table, nil
}

func shiftObject(o runtime.Object, by time.Duration) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		shiftDates(u.Object, by)
	}
}

// shiftDates moves every string that is a time.
func shiftDates(v any, by time.Duration) any {
	switch v := v.(type) {
	case map[string]any:
		for name, each := range v {
			v[name] = shiftDates(each, by)
		}
	case []any:
		for i, each := range v {
			v[i] = shiftDates(each, by)
		}
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			return at.Add(by).Format(time.RFC3339Nano)
		}
	}
	return v
}
