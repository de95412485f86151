package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/rutter-project/rutter/schemas"
)

// A pack is, compressed with S2 as one block: the magic line and then events, each as a
// list of fields. Numbers are varints; sequences, times and revisions are differences from
// the event before. Text that repeats itself (who, kinds, namespaces, names) is written
// once in a pack and then by its number; what has no limit or never repeats has its length
// in front.
const (
	packMagic = "rutter pack 1\n"
	// maxPackBytes is more than a pack takes uncompressed: one event of the largest size
	// behind others.
	maxPackBytes = 64 << 20
)

var errPack = errors.New("pack can't be read")

// packTypes are the event types by their number in a pack.
var packTypes = [...]schemas.EventType{schemas.Added, schemas.Modified, schemas.Deleted, schemas.Left, schemas.Bookmark, schemas.Gap}

// packWriter collects events.
type packWriter struct {
	buf    []byte
	texts  map[string]uint64
	events int
	before schemas.Event
}

func newPackWriter() *packWriter {
	return &packWriter{buf: []byte(packMagic), texts: map[string]uint64{}}
}

// add appends an event, whose Seq and Recorded are set.
func (w *packWriter) add(e *schemas.Event) {
	w.number(int64(e.Seq - w.before.Seq))
	w.time(e.Recorded, w.before.Recorded)
	w.number(e.Rev - w.before.Rev)
	w.number(int64(e.Ord))
	w.number(int64(e.Cnt))
	w.number(int64(packType(e.Type)))
	w.text(e.Key.Group)
	w.text(e.Key.Resource)
	w.text(e.Key.Namespace)
	w.text(e.Key.Name)
	w.number(e.PrevRev)
	w.number(e.Resync)
	w.text(e.Epoch)
	w.bytes(e.DataRef)
	w.header(&e.Header, e.Recorded)
	w.buf = binary.AppendUvarint(w.buf, uint64(len(e.Object)))
	w.buf = append(w.buf, e.Object...)
	w.before = schemas.Event{Seq: e.Seq, Recorded: e.Recorded, Rev: e.Rev}
	w.events++
}

// packType is -1 for types that ParseEvent does not let through; a reader refuses it.
func packType(t schemas.EventType) int { return slices.Index(packTypes[:], t) }

func (w *packWriter) header(h *schemas.Header, recorded time.Time) {
	w.number(int64(h.V))
	if h.V == 0 {
		return
	}
	if h.Time.IsZero() {
		w.number(0)
	} else {
		w.number(1)
		w.time(h.Time, recorded)
	}
	w.text(h.Verb)
	w.text(h.User)
	w.number(int64(len(h.Groups)))
	for _, group := range h.Groups {
		w.text(group)
	}
	w.text(h.Manager)
	w.text(h.Agent)
	w.bytes(h.Request)
	w.bytes(h.Trace)
	w.bytes(h.TraceState)
	w.number(int64(len(h.Cause)))
	for _, rev := range h.Cause {
		w.number(rev)
	}
}

func (w *packWriter) number(n int64) { w.buf = binary.AppendVarint(w.buf, n) }

// time writes seconds as a difference, as times far apart do not fit into nanoseconds.
func (w *packWriter) time(t, from time.Time) {
	w.number(t.Unix() - from.Unix())
	w.number(int64(t.Nanosecond()))
}

func (w *packWriter) bytes(s string) {
	w.buf = binary.AppendUvarint(w.buf, uint64(len(s)))
	w.buf = append(w.buf, s...)
}

// text writes the number of a text that was written before, or 0 and the text.
func (w *packWriter) text(s string) {
	if n, ok := w.texts[s]; ok {
		w.buf = binary.AppendUvarint(w.buf, n)
		return
	}
	w.texts[s] = uint64(len(w.texts) + 1)
	w.buf = append(w.buf, 0)
	w.bytes(s)
}

// size is how many bytes the events take, uncompressed.
func (w *packWriter) size() int { return len(w.buf) }

// encode is the pack.
func (w *packWriter) encode() []byte { return s2.Encode(nil, w.buf) }

// packReader takes a pack apart. Objects alias the decompressed pack, which is as large as
// all of them: who keeps one copies it.
type packReader struct {
	room   []byte // holds the whole pack
	rest   []byte
	texts  []string
	before schemas.Event
	err    error
}

// openPack decompresses a pack, into room if that is large enough.
func openPack(body, room []byte) (*packReader, error) {
	n, err := s2.DecodedLen(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPack, err)
	}
	if n > maxPackBytes {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", errPack, n, maxPackBytes)
	}
	data, err := s2.Decode(room[:cap(room)], body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPack, err)
	}
	if len(data) < len(packMagic) || string(data[:len(packMagic)]) != packMagic {
		return nil, fmt.Errorf("%w: it does not begin as one", errPack)
	}
	return &packReader{room: data, rest: data[len(packMagic):]}, nil
}

// more reports whether there is another event.
func (r *packReader) more() bool { return r.err == nil && len(r.rest) > 0 }

// next reads an event. If keep does not want its key, only its place is read.
func (r *packReader) next(keep func(schemas.EventType, schemas.Key) bool) (e schemas.Event, kept bool, err error) {
	e.Seq = r.before.Seq + uint64(r.number())
	e.Recorded = r.time(r.before.Recorded)
	e.Rev = r.before.Rev + r.number()
	r.before = schemas.Event{Seq: e.Seq, Recorded: e.Recorded, Rev: e.Rev}
	e.Ord, e.Cnt = int(r.number()), int(r.number())
	if t := r.number(); t >= 0 && t < int64(len(packTypes)) {
		e.Type = packTypes[t]
	} else {
		r.fail("type")
	}
	e.Key = schemas.Key{Group: r.text(), Resource: r.text(), Namespace: r.text(), Name: r.text()}
	e.PrevRev, e.Resync = r.number(), r.number()
	e.Epoch, e.DataRef = r.text(), string(r.bytes())
	kept = r.err == nil && keep(e.Type, e.Key)
	r.header(&e.Header, e.Recorded, kept)
	if object := r.bytes(); len(object) > 0 {
		e.Object = object
	}
	return e, kept, r.err
}

// header reads who made a change; the texts in any case, as later ones refer to them.
func (r *packReader) header(h *schemas.Header, recorded time.Time, kept bool) {
	h.V = int(r.number())
	if h.V == 0 {
		return
	}
	if r.number() != 0 {
		h.Time = r.time(recorded).UTC()
	}
	h.Verb, h.User = r.text(), r.text()
	for range r.count() {
		h.Groups = append(h.Groups, r.text())
	}
	h.Manager, h.Agent = r.text(), r.text()
	request, trace, state := r.bytes(), r.bytes(), r.bytes()
	if kept {
		h.Request, h.Trace, h.TraceState = string(request), string(trace), string(state)
	}
	for range r.count() {
		h.Cause = append(h.Cause, r.number())
	}
}

func (r *packReader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s, %d bytes before its end", errPack, what, len(r.rest))
	}
	r.rest = nil
}

// number takes back the zigzag of binary.AppendVarint.
func (r *packReader) number() int64 {
	n := r.uvarint("number")
	return int64(n>>1) ^ -int64(n&1)
}

func (r *packReader) uvarint(what string) uint64 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 { // most of them
		n := r.rest[0]
		r.rest = r.rest[1:]
		return uint64(n)
	}
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail(what)
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// count is how many of something follow, each of which takes a byte at least.
func (r *packReader) count() int {
	n := r.number()
	if n < 0 || n > int64(len(r.rest)) {
		r.fail("count")
		return 0
	}
	return int(n)
}

func (r *packReader) time(from time.Time) time.Time {
	seconds := from.Unix() + r.number()
	return time.Unix(seconds, r.number())
}

// bytes aliases the pack.
func (r *packReader) bytes() []byte {
	n := r.uvarint("length")
	if n > uint64(len(r.rest)) {
		r.fail("bytes")
		return nil
	}
	data := r.rest[:n:n]
	r.rest = r.rest[n:]
	return data
}

func (r *packReader) text() string {
	n := r.uvarint("length")
	if n == 0 {
		s := string(r.bytes())
		r.texts = append(r.texts, s)
		return s
	}
	if n > uint64(len(r.texts)) {
		r.fail("text")
		return ""
	}
	return r.texts[n-1]
}
