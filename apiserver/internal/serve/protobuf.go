package serve

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/json"

	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// protoMagic is how Kubernetes' protobuf begins: an Unknown follows, which names the kind
// and holds the object.
const protoMagic = "k8s\x00"

// What stands in front of fields that hold bytes: of an Unknown, of a list and of a
// WatchEvent.
const (
	unknownType, unknownRaw, unknownEncoding, unknownContent = 1<<3 | 2, 2<<3 | 2, 3<<3 | 2, 4<<3 | 2
	listMeta, listItem                                       = 1<<3 | 2, 2<<3 | 2
	eventType, eventObject, rawBytes                         = 1<<3 | 2, 2<<3 | 2, 1<<3 | 2
)

// appendField appends a field that holds bytes.
func appendField(dst []byte, tag byte, value []byte) []byte {
	return append(appendFieldHead(dst, tag, len(value)), value...)
}

func appendFieldHead(dst []byte, tag byte, size int) []byte {
	return binary.AppendUvarint(append(dst, tag), uint64(size))
}

// fieldSize is how long a field is that holds size bytes.
func fieldSize(size int) int {
	return 1 + (bits.Len64(uint64(size)|1)+6)/7 + size
}

// protoForm is what a form in protobuf is of: objects or their metadata.
type protoForm interface {
	kind(first bool) any
	message(i *view.Item) ([]byte, error)
	typeMeta() runtime.TypeMeta
	listType() runtime.TypeMeta
	empty() Message
}

// writeProto writes a list: the messages have to be there before the first byte, which
// tells how long they are.
func writeProto(f protoForm, page store.Page, write func([]byte) error) error {
	about := metav1.ListMeta{ResourceVersion: strconv.FormatInt(page.Rev, 10), Continue: page.Continue, RemainingItemCount: page.Remaining}
	aboutBytes, err := about.Marshal()
	if err != nil {
		return err
	}
	size := fieldSize(len(aboutBytes))
	messages := make([][]byte, len(page.Items))
	for n, i := range page.Items {
		if messages[n], err = f.message(i); err != nil {
			return err
		}
		size += fieldSize(len(messages[n]))
	}
	piece := takePiece()
	defer piece.give()
	buf := appendUnknownHead(piece.bytes[:0], f.listType(), size)
	buf = appendField(buf, listMeta, aboutBytes)
	for _, m := range messages {
		buf = appendField(buf, listItem, m)
		if len(buf) >= writeSize {
			if err := write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	buf = appendUnknownTail(buf)
	piece.bytes = buf
	return write(buf)
}

func appendUnknownHead(dst []byte, kind runtime.TypeMeta, size int) []byte {
	dst = append(dst, protoMagic...)
	dst = appendFieldHead(dst, unknownType, fieldSize(len(kind.APIVersion))+fieldSize(len(kind.Kind)))
	dst = appendField(dst, 1<<3|2, []byte(kind.APIVersion))
	dst = appendField(dst, 2<<3|2, []byte(kind.Kind))
	return appendFieldHead(dst, unknownRaw, size)
}

func appendUnknownTail(dst []byte) []byte {
	return append(dst, unknownEncoding, 0, unknownContent, 0)
}

// wrapped is a message with its kind.
func wrapped(kind runtime.TypeMeta, message []byte) []byte {
	dst := appendUnknownHead(make([]byte, 0, len(message)+unknownRoom), kind, len(message))
	return appendUnknownTail(append(dst, message...))
}

const (
	// unknownRoom is about how much longer a message gets when it is wrapped, and
	// frameRoom when it becomes an event.
	unknownRoom = 96
	frameRoom   = 32
	lengthSize  = 4
)

// appendFrameProto appends an event: its length, then a WatchEvent, in which a
// RawExtension holds the object.
func appendFrameProto(dst []byte, event string, kind runtime.TypeMeta, message []byte) []byte {
	head := appendUnknownHead(make([]byte, 0, unknownRoom), kind, len(message))
	size := len(head) + len(message) + len(appendUnknownTail(nil))
	dst = slices.Grow(dst, size+frameRoom)
	dst = binary.BigEndian.AppendUint32(dst, uint32(fieldSize(len(event))+fieldSize(fieldSize(size))))
	dst = appendField(dst, eventType, []byte(event))
	dst = appendFieldHead(dst, eventObject, fieldSize(size))
	dst = appendFieldHead(dst, rawBytes, size)
	return appendUnknownTail(append(append(dst, head...), message...))
}

func faultProto(status metav1.Status) ([]byte, error) {
	message, err := status.Marshal()
	return appendFrameProto(nil, "ERROR", runtime.TypeMeta{APIVersion: "v1", Kind: "Status"}, message), err
}

// cached returns what make builds of an item, kept with it while that is wanted.
func (p *plain) cached(i *view.Item, kind string, build func() ([]byte, error)) ([]byte, error) {
	now := time.Now()
	if kept, ok := p.stored.Forms.Get(i, kind, now); ok {
		if message, ok := kept.([]byte); ok {
			return message, nil
		}
	}
	message, err := build()
	if err == nil {
		p.stored.Forms.Put(i, kind, message, len(message), now)
	}
	return message, err
}

// protoWhole are whole objects. The message of an object is made once, from the stored
// bytes, which are in the version served.
type protoWhole struct{ *plain }

// wholeMessage marks messages of whole objects among what is kept with an item.
const wholeMessage = "protobuf"

func (f protoWhole) kind(bool) any { return wholeMessage }

func (f protoWhole) typeMeta() runtime.TypeMeta {
	return runtime.TypeMeta{APIVersion: f.gvr.GroupVersion().String(), Kind: f.stored.Kind}
}

func (f protoWhole) listType() runtime.TypeMeta {
	return runtime.TypeMeta{APIVersion: f.gvr.GroupVersion().String(), Kind: f.listKind()}
}

func (f protoWhole) message(i *view.Item) ([]byte, error) {
	return f.cached(i, wholeMessage, func() ([]byte, error) {
		object := f.stored.New()
		if err := json.UnmarshalCaseSensitivePreserveInts(i.Object, object); err != nil {
			return nil, fmt.Errorf("stored object %s: %w", i.Key, err)
		}
		object.SetResourceVersion(strconv.FormatInt(i.Rev, 10))
		return object.Marshal()
	})
}

func (f protoWhole) empty() Message { return f.stored.New() }

// protoMetadata is the metadata alone.
type protoMetadata struct{ *plain }

func (f protoMetadata) kind(bool) any { return "protobuf metadata" }

func (f protoMetadata) typeMeta() runtime.TypeMeta {
	return runtime.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: partialOne}
}

func (f protoMetadata) listType() runtime.TypeMeta {
	return runtime.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: partialMany}
}

func (f protoMetadata) message(i *view.Item) ([]byte, error) {
	if whole, ok := f.stored.Forms.Get(i, wholeMessage, time.Now()); ok {
		if message, ok := whole.([]byte); ok {
			return firstField(message), nil
		}
	}
	return f.cached(i, "protobuf metadata", func() ([]byte, error) {
		var object metav1.PartialObjectMetadata
		if metadata := schemas.MetadataOf(i.Object); metadata != nil {
			if err := json.UnmarshalCaseSensitivePreserveInts(metadata, &object.ObjectMeta); err != nil {
				return nil, fmt.Errorf("metadata of the stored object %s: %w", i.Key, err)
			}
		}
		object.ResourceVersion = strconv.FormatInt(i.Rev, 10)
		return object.Marshal()
	})
}

// firstField is the first field of a message with its tag. In all kinds that is the
// metadata, as in PartialObjectMetadata.
func firstField(message []byte) []byte {
	size, n := binary.Uvarint(message[min(1, len(message)):])
	if n <= 0 || size > uint64(len(message)-1-n) {
		return nil
	}
	return message[:1+n+int(size)]
}

func (f protoMetadata) empty() Message { return &metav1.PartialObjectMetadata{} }

// Message is an object that can be written as protobuf.
type Message interface {
	metav1.Object
	Marshal() ([]byte, error)
}

// protobuf is a form in protobuf.
type protobuf struct{ protoForm }

func (f protobuf) mediaType(watch bool) string {
	if watch {
		return protobufType + ";stream=watch"
	}
	return protobufType
}

func (f protobuf) list(page store.Page, write func([]byte) error) error {
	return writeProto(f.protoForm, page, write)
}

func (f protobuf) object(i *view.Item) ([]byte, error) {
	message, err := f.message(i)
	return wrapped(f.typeMeta(), message), err
}

func (f protobuf) appendFrame(dst []byte, event string, i *view.Item, _ bool) ([]byte, error) {
	message, err := f.message(i)
	if err != nil {
		return dst, err
	}
	return appendFrameProto(dst, event, f.typeMeta(), message), nil
}

func (f protobuf) bookmark(rev int64, initialEnd, _ bool) ([]byte, error) {
	object := f.empty()
	object.SetResourceVersion(strconv.FormatInt(rev, 10))
	if initialEnd {
		object.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	message, err := object.Marshal()
	return appendFrameProto(nil, "BOOKMARK", f.typeMeta(), message), err
}

func (f protobuf) fault(status metav1.Status) ([]byte, error) { return faultProto(status) }
