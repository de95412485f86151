package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// form is how a client wants to see objects: which part of them, in which encoding.
type form interface {
	// mediaType of an answer.
	mediaType(watch bool) string
	// list gives a page to write, in pieces that are only valid during the call.
	list(page store.Page, write func([]byte) error) error
	// object is the answer to a GET.
	object(i *view.Item) ([]byte, error)
	// appendFrame appends one event of a watch; first is the first one of the watch.
	appendFrame(dst []byte, event string, i *view.Item, first bool) ([]byte, error)
	// bookmark is an event that only tells a revision.
	bookmark(rev int64, initialEnd, first bool) ([]byte, error)
	// fault is the event that ends a watch.
	fault(status metav1.Status) ([]byte, error)
	// kind tells forms apart: what one makes of an item is good for others of its kind.
	// first tells that it is for the first event of a watch.
	kind(first bool) any
}

// jsonForm is what a form in JSON is of.
type jsonForm interface {
	kind(first bool) any
	// listHead appends what stands in front of the first item.
	listHead(dst []byte, page store.Page) ([]byte, error)
	// nothing is the end of a list without items.
	nothing() string
	// appendItem appends an object as it stands in a list, appendObject as on its own.
	appendItem(dst []byte, i *view.Item) ([]byte, error)
	appendObject(dst []byte, i *view.Item, first bool) ([]byte, error)
	// bookmarkObject is an object that only tells a revision.
	bookmarkObject(rev int64, initialEnd, first bool) ([]byte, error)
}

// inJSON is a form in JSON.
type inJSON struct{ jsonForm }

func (f inJSON) mediaType(bool) string { return jsonType }

func (f inJSON) list(page store.Page, write func([]byte) error) error {
	if len(page.Items) == 0 {
		buf, err := f.listHead(nil, page)
		if err != nil {
			return err
		}
		return write(append(bytes.TrimSuffix(buf, []byte("[")), f.nothing()...))
	}
	piece := takePiece()
	defer piece.give()
	buf, err := f.listHead(piece.bytes[:0], page)
	for n, i := range page.Items {
		if err != nil {
			return err
		}
		if n > 0 {
			buf = append(buf, ',')
		}
		if buf, err = f.appendItem(buf, i); err == nil && len(buf) >= writeSize {
			err = write(buf)
			buf = buf[:0]
		}
	}
	if err != nil {
		return err
	}
	buf = append(buf, "]}\n"...)
	piece.bytes = buf
	return write(buf)
}

func (f inJSON) object(i *view.Item) ([]byte, error) {
	body, err := f.appendObject(make([]byte, 0, len(i.Object)+revisionRoom), i, true)
	return append(body, '\n'), err
}

// appendFrame appends an event as a line.
func (f inJSON) appendFrame(dst []byte, event string, i *view.Item, first bool) ([]byte, error) {
	dst = slices.Grow(dst, len(i.Object)+2*revisionRoom)
	dst = append(append(append(dst, `{"type":"`...), event...), `","object":`...)
	dst, err := f.appendObject(dst, i, first)
	return append(dst, "}\n"...), err
}

func (f inJSON) bookmark(rev int64, initialEnd, first bool) ([]byte, error) {
	object, err := f.bookmarkObject(rev, initialEnd, first)
	return fmt.Appendf(nil, `{"type":"BOOKMARK","object":%s}`+"\n", object), err
}

func (f inJSON) fault(status metav1.Status) ([]byte, error) {
	object, err := json.Marshal(status)
	return fmt.Appendf(nil, `{"type":"ERROR","object":%s}`+"\n", object), err
}

// appendListMeta appends what a list says of itself. Lists without a Go type have their
// members in order of name, and always continue.
func appendListMeta(dst []byte, page store.Page, typed bool) []byte {
	next := fmt.Appendf(nil, `"continue":%q`, page.Continue)
	if page.Remaining != nil {
		next = fmt.Appendf(next, `,"remainingItemCount":%d`, *page.Remaining)
	}
	switch {
	case typed:
		return fmt.Appendf(dst, `"metadata":{%s,"resourceVersion":"%d"}`, next, page.Rev)
	case page.Continue != "":
		return fmt.Appendf(dst, `"metadata":{"resourceVersion":"%d",%s}`, page.Rev, next)
	default:
		return fmt.Appendf(dst, `"metadata":{"resourceVersion":"%d"}`, page.Rev)
	}
}

// jsonWhole are the stored bytes with the resourceVersion in them.
type jsonWhole struct{ *plain }

func (f jsonWhole) kind(bool) any { return "json" }

func (f jsonWhole) listHead(dst []byte, page store.Page) ([]byte, error) {
	dst = fmt.Appendf(dst, `{"kind":%q,"apiVersion":%q,`, f.listKind(), f.gvr.GroupVersion())
	return append(appendListMeta(dst, page, f.stored.Typed), `,"items":[`...), nil
}

func (f jsonWhole) nothing() string { return "[]}\n" }

// appendItem leaves out kind and apiVersion, which the list has, unless the kind has no
// Go type.
func (f jsonWhole) appendItem(dst []byte, i *view.Item) ([]byte, error) {
	object := i.Object
	if !f.stored.Typed && len(object) > len(f.head) && string(object[:len(f.head)]) == string(f.head) {
		dst = append(dst, '{')
		return spliceTail(dst, object[len(f.head):], i.Rev), nil
	}
	return schemas.AppendWithResourceVersion(dst, object, i.Rev), nil
}

func (f jsonWhole) appendObject(dst []byte, i *view.Item, _ bool) ([]byte, error) {
	return schemas.AppendWithResourceVersion(dst, i.Object, i.Rev), nil
}

func (f jsonWhole) bookmarkObject(rev int64, initialEnd, _ bool) ([]byte, error) {
	return bookmarkObject(string(f.head), rev, initialEnd), nil
}

// bookmarkObject is an object with a revision, marked if it ends the initial state
// (KEP-3157).
func bookmarkObject(head string, rev int64, initialEnd bool) []byte {
	mark := ""
	if initialEnd {
		mark = fmt.Sprintf(`,"annotations":{%q:"true"}`, metav1.InitialEventsAnnotationKey)
	}
	return fmt.Appendf(nil, `%s"metadata":{"resourceVersion":"%d"%s}}`, head, rev, mark)
}

const metadataOpen = `"metadata":{`

// spliceTail appends what follows kind and apiVersion, which begins with metadata in
// the stored layout, with the resourceVersion as its first member.
func spliceTail(dst, tail []byte, rev int64) []byte {
	if len(tail) <= len(metadataOpen) || string(tail[:len(metadataOpen)]) != metadataOpen {
		return append(dst, tail...)
	}
	dst = append(dst, metadataOpen+`"resourceVersion":"`...)
	dst = strconv.AppendInt(dst, rev, 10)
	dst = append(dst, '"')
	if rest := tail[len(metadataOpen):]; rest[0] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, tail[len(metadataOpen):]...)
}

// jsonMetadata is the metadata alone, cut from the stored bytes.
type jsonMetadata struct{}

const partialHead = `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",`

func (f jsonMetadata) kind(bool) any { return "json metadata" }

func (f jsonMetadata) listHead(dst []byte, page store.Page) ([]byte, error) {
	dst = append(dst, `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1",`...)
	return append(appendListMeta(dst, page, false), `,"items":[`...), nil
}

func (f jsonMetadata) nothing() string { return "null}\n" } // as upstream has it

func (f jsonMetadata) appendItem(dst []byte, i *view.Item) ([]byte, error) {
	return appendPartial(dst, i), nil
}

func (f jsonMetadata) appendObject(dst []byte, i *view.Item, _ bool) ([]byte, error) {
	return appendPartial(dst, i), nil
}

func (f jsonMetadata) bookmarkObject(rev int64, initialEnd, _ bool) ([]byte, error) {
	return bookmarkObject(partialHead, rev, initialEnd), nil
}

// appendPartial appends a PartialObjectMetadata.
func appendPartial(dst []byte, i *view.Item) []byte {
	dst = append(dst, partialHead...)
	dst = append(dst, metadataOpen+`"resourceVersion":"`...)
	dst = strconv.AppendInt(dst, i.Rev, 10)
	dst = append(dst, '"')
	metadata := schemas.MetadataOf(i.Object)
	if len(metadata) <= len(`{}`) {
		return append(dst, "}}"...)
	}
	dst = append(dst, ',')
	return append(append(dst, metadata[1:]...), '}')
}
