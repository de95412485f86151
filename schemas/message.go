package schemas

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Headers of a message on the bus. The ce- ones are CloudEvents 1.0 attributes
// in binary mode.
const (
	HeaderRev     = "Rutter-Rev"
	HeaderOrd     = "Rutter-Ord"
	HeaderCnt     = "Rutter-Cnt"
	HeaderType    = "Rutter-Type"
	HeaderPrev    = "Rutter-Prev"
	HeaderResync  = "Rutter-Resync"
	HeaderEpoch   = "Rutter-Epoch"
	HeaderVerb    = "Rutter-Verb"
	HeaderGroups  = "Rutter-Groups"
	HeaderManager = "Rutter-Manager"
	HeaderAgent   = "Rutter-Agent"
	HeaderRequest = "Rutter-Request"
	HeaderCause   = "Rutter-Cause"
	HeaderTrace   = "traceparent"
	HeaderState   = "tracestate"

	ceSpecVersion = "ce-specversion"
	ceID          = "ce-id"
	ceSource      = "ce-source"
	ceType        = "ce-type"
	ceSubject     = "ce-subject"
	ceTime        = "ce-time"
	ceContentType = "ce-datacontenttype"
	ceSequence    = "ce-sequence"
	ceAuthID      = "ce-authid"
	ceAuthType    = "ce-authtype"
	ceCausation   = "ce-causationid"
	ceCorrelation = "ce-correlationid"
	ceTraceParent = "ce-traceparent"
	ceTraceState  = "ce-tracestate"
	ceDataRef     = "ce-dataref"
)

// messageHeaders is how many headers a message has at most.
const messageHeaders = 32

// ErrNotEvent says that a message is none of Rutter's events.
var ErrNotEvent = errors.New("message is no event")

// ID is the CloudEvents id, unique within its source: the revision, and for all
// but the last message of a revision a dot and the ordinal. Messages to nodes'
// routes come first, so that a change of one object has the revision as its id.
func (e Event) ID() string {
	if e.Last() {
		return strconv.FormatInt(e.Rev, 10)
	}
	return strconv.FormatInt(e.Rev, 10) + "." + strconv.Itoa(e.Ord)
}

// Message is the event as a NATS message: headers and body. The body is the
// stored object itself, not a copy.
func (e Event) Message() (headers map[string][]string, body []byte) {
	w := headerWriter{headers: make(map[string][]string, messageHeaders), values: make([]string, 0, messageHeaders)}
	w.set(HeaderRev, strconv.FormatInt(e.Rev, 10))
	w.set(HeaderOrd, strconv.Itoa(e.Ord))
	w.set(HeaderCnt, strconv.Itoa(e.Cnt))
	w.set(HeaderType, string(e.Type))
	if e.PrevRev != 0 {
		w.set(HeaderPrev, strconv.FormatInt(e.PrevRev, 10))
	}
	if e.Resync != 0 {
		w.set(HeaderResync, strconv.FormatInt(e.Resync, 10))
	}
	w.text(HeaderEpoch, e.Epoch)

	w.set(ceSpecVersion, "1.0")
	w.set(ceID, e.ID())
	w.set(ceSource, e.source())
	w.set(ceType, cloudEventType(e.Type))
	w.set(ceSequence, fmt.Sprintf("%019d.%06d", e.Rev, e.Ord))
	if e.Key != (Key{}) {
		w.text(ceSubject, e.Key.String())
	}
	if len(e.Object) > 0 || e.DataRef != "" {
		w.set(ceContentType, "application/json")
	}
	w.text(ceDataRef, e.DataRef)
	if e.Header.V != 0 {
		e.Header.write(&w)
	}
	return w.headers, e.Object
}

// source is the CloudEvents source: the cluster without the stream's generation.
func (e Event) source() string {
	cluster, _, _ := strings.Cut(e.Epoch, ".")
	if cluster == "" {
		return "/rutter"
	}
	return "/rutter/clusters/" + percentEncode(cluster, "")
}

func cloudEventType(t EventType) string {
	switch t {
	case Added:
		return "dev.rutter.resource.v1.created"
	case Modified:
		return "dev.rutter.resource.v1.updated"
	case Deleted:
		return "dev.rutter.resource.v1.deleted"
	case Left:
		return "dev.rutter.route.v1.left"
	case Bookmark:
		return "dev.rutter.stream.v1.bookmark"
	case Gap:
		return "dev.rutter.stream.v1.gap"
	default:
		return "dev.rutter.stream.v1.unknown"
	}
}

func (h Header) write(w *headerWriter) {
	if !h.Time.IsZero() {
		w.set(ceTime, h.Time.UTC().Format(time.RFC3339Nano))
	}
	w.text(HeaderVerb, h.Verb)
	w.text(ceAuthID, h.User)
	w.set(ceAuthType, authType(h.User))
	if len(h.Groups) > 0 {
		encoded := make([]string, len(h.Groups))
		for i, group := range h.Groups {
			encoded[i] = percentEncode(group, ",")
		}
		w.set(HeaderGroups, strings.Join(encoded, ","))
	}
	w.text(HeaderManager, h.Manager)
	w.text(HeaderAgent, h.Agent)
	w.text(HeaderRequest, h.Request)
	if len(h.Cause) > 0 {
		w.set(HeaderCause, FormatCause(h.Cause))
		w.set(ceCausation, strconv.FormatInt(h.Cause[len(h.Cause)-1], 10))
	}
	if h.Trace != "" {
		w.text(HeaderTrace, h.Trace)
		w.text(ceTraceParent, h.Trace)
		w.text(HeaderState, h.TraceState)
		w.text(ceTraceState, h.TraceState)
		w.text(ceCorrelation, traceID(h.Trace))
	}
}

// authType is the CloudEvents authtype of a Kubernetes user name.
func authType(user string) string {
	switch {
	case user == "":
		return "unknown"
	case user == "system:anonymous":
		return "unauthenticated"
	case strings.HasPrefix(user, "system:serviceaccount:"):
		return "service_account"
	case strings.HasPrefix(user, "system:"):
		return "system"
	default:
		return "user"
	}
}

// traceID is the second field of a W3C traceparent, which all requests of one
// intent share.
func traceID(traceparent string) string {
	_, rest, _ := strings.Cut(traceparent, "-")
	id, _, _ := strings.Cut(rest, "-")
	return id
}

// ParseEvent reads a message that Message wrote. The event's Object is body.
// Unknown headers are ignored.
func ParseEvent(headers map[string][]string, body []byte) (Event, error) {
	r := headerReader{headers: headers}
	e := Event{
		Rev:     r.number(HeaderRev, true),
		Ord:     int(r.number(HeaderOrd, true)),
		Cnt:     int(r.number(HeaderCnt, true)),
		Type:    EventType(r.get(HeaderType)),
		PrevRev: r.number(HeaderPrev, false),
		Resync:  r.number(HeaderResync, false),
		Epoch:   r.text(HeaderEpoch),
		DataRef: r.text(ceDataRef),
	}
	if len(body) > 0 {
		e.Object = body
	}
	switch e.Type {
	case Added, Modified, Deleted, Left, Bookmark, Gap:
	default:
		return Event{}, fmt.Errorf("%w: type %q", ErrNotEvent, e.Type)
	}
	if subject := r.text(ceSubject); subject != "" {
		key, err := ParseKey(subject)
		if err != nil {
			return Event{}, fmt.Errorf("%w: %w", ErrNotEvent, err)
		}
		e.Key = key
	}
	if r.has(ceAuthType) {
		e.Header = r.header()
	}
	if r.err != nil {
		return Event{}, r.err
	}
	return e, nil
}

func (r *headerReader) header() Header {
	h := Header{
		V:       HeaderVersion,
		Verb:    r.text(HeaderVerb),
		User:    r.text(ceAuthID),
		Manager: r.text(HeaderManager),
		Agent:   r.text(HeaderAgent),
		Request: r.text(HeaderRequest),
		Trace:   r.text(HeaderTrace),
	}
	if h.Trace != "" {
		h.TraceState = r.text(HeaderState)
	}
	if s := r.get(ceTime); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			r.fail(ceTime, s)
		}
		h.Time = t.UTC()
	}
	if s := r.get(HeaderGroups); s != "" {
		for part := range strings.SplitSeq(s, ",") {
			group, ok := percentDecode(part)
			if !ok {
				r.fail(HeaderGroups, s)
			}
			h.Groups = append(h.Groups, group)
		}
	}
	if s := r.get(HeaderCause); s != "" {
		cause, err := ParseCause(s)
		if err != nil {
			r.fail(HeaderCause, s)
		}
		h.Cause = cause
	}
	return h
}

// headerWriter fills a header map whose value slices share one array.
type headerWriter struct {
	headers map[string][]string
	values  []string
}

func (w *headerWriter) set(name, value string) {
	w.values = append(w.values, value)
	n := len(w.values)
	w.headers[name] = w.values[n-1 : n : n]
}

// text sets a header whose value may hold any bytes; an empty one is left out.
func (w *headerWriter) text(name, value string) {
	if value != "" {
		w.set(name, percentEncode(value, ""))
	}
}

// headerReader reads headers and keeps the first error.
type headerReader struct {
	headers map[string][]string
	err     error
}

func (r *headerReader) has(name string) bool { return len(r.headers[name]) > 0 }

func (r *headerReader) get(name string) string {
	if values := r.headers[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func (r *headerReader) text(name string) string {
	raw := r.get(name)
	s, ok := percentDecode(raw)
	if !ok {
		r.fail(name, raw)
	}
	return s
}

func (r *headerReader) number(name string, required bool) int64 {
	raw := r.get(name)
	if raw == "" && !required {
		return 0
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || n < 0 {
		r.fail(name, raw)
	}
	return n
}

func (r *headerReader) fail(name, value string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: header %s: %q", ErrNotEvent, name, value)
	}
}

// percentEncode encodes as CloudEvents asks of header values: everything but
// printable ASCII, and space, double quote and percent. Bytes in extra too.
func percentEncode(s, extra string) string {
	first := -1
	for i := range len(s) {
		if encodedInHeader(s[i], extra) {
			first = i
			break
		}
	}
	if first < 0 {
		return s
	}
	dst := append(make([]byte, 0, len(s)+8), s[:first]...)
	for i := first; i < len(s); i++ {
		c := s[i]
		if encodedInHeader(c, extra) {
			dst = append(dst, '%', upperHexDigits[c>>4], upperHexDigits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return string(dst)
}

func encodedInHeader(c byte, extra string) bool {
	return c <= ' ' || c >= 0x7f || c == '"' || c == '%' || strings.IndexByte(extra, c) >= 0
}

func percentDecode(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	dst := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			dst = append(dst, s[i])
			continue
		}
		if i+escapedByteSize > len(s) {
			return "", false
		}
		b, err := strconv.ParseUint(s[i+1:i+escapedByteSize], 16, 8)
		if err != nil {
			return "", false
		}
		dst = append(dst, byte(b))
		i += escapedByteSize - 1
	}
	return string(dst), true
}
