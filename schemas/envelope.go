package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// HeaderVersion is what EncodeValue writes into a header without a version.
const HeaderVersion = 1

// ErrNoHeader says that a stored value does not begin with a header line.
var ErrNoHeader = errors.New("stored value has no header line")

// Header says who wrote an object and why. It is stored with the object, in
// front of it, and travels with the event.
type Header struct {
	// V is the version of the header's format.
	V int `json:"v" schema:"minimum=1"`
	// Time is the writer's clock shortly before the commit.
	Time time.Time `json:"time"`
	// Verb is the API verb: create, update, patch, apply, delete, deletecollection.
	Verb string `json:"verb"`
	// User is the authenticated identity behind the write.
	User string `json:"user"`
	// Groups are those of the user.
	Groups []string `json:"groups,omitempty"`
	// Manager is the field manager.
	Manager string `json:"manager,omitempty"`
	// Agent is the client's User-Agent.
	Agent string `json:"agent,omitempty"`
	// Request is the audit ID of the API request.
	Request string `json:"request,omitempty"`
	// Trace is the W3C traceparent of the request.
	Trace string `json:"trace,omitempty"`
	// TraceState is the W3C tracestate that came with it.
	TraceState string `json:"traceState,omitempty"`
	// Cause lists the revisions that the writer acted upon, oldest first.
	Cause []int64 `json:"cause,omitempty" schema:"minimum=1,maxItems=16"`
	// Dry marks a dry run. Such writes are never committed, so no event has it.
	Dry bool `json:"dry,omitempty"`
}

// Encode writes the header as one line of JSON, without the newline.
func (h Header) Encode() ([]byte, error) {
	if h.V == 0 {
		h.V = HeaderVersion
	}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	return line, nil
}

// DecodeHeader reads a line that Encode wrote.
func DecodeHeader(line []byte) (Header, error) {
	var h Header
	if err := json.Unmarshal(line, &h); err != nil {
		return Header{}, fmt.Errorf("decode header: %w", err)
	}
	return h, nil
}

// EncodeValue joins header and object into the value stored in etcd.
func EncodeValue(h Header, object []byte) ([]byte, error) {
	line, err := h.Encode()
	if err != nil {
		return nil, err
	}
	value := make([]byte, 0, len(line)+1+len(object))
	value = append(value, line...)
	value = append(value, '\n')
	return append(value, object...), nil
}

// SplitValue takes a stored value apart without parsing either half. Both
// results alias value.
func SplitValue(value []byte) (header, object []byte, err error) {
	i := bytes.IndexByte(value, '\n')
	if i < 0 || len(value) == 0 || value[0] != '{' {
		return nil, nil, ErrNoHeader
	}
	return value[:i:i], value[i+1:], nil
}

// DecodeValue takes a stored value apart and parses the header. The object
// aliases value.
func DecodeValue(value []byte) (Header, []byte, error) {
	line, object, err := SplitValue(value)
	if err != nil {
		return Header{}, nil, err
	}
	h, err := DecodeHeader(line)
	if err != nil {
		return Header{}, nil, err
	}
	return h, object, nil
}

// ObjectOf is the object in a stored value; the header is not parsed. The
// result aliases value.
func ObjectOf(value []byte) ([]byte, error) {
	_, object, err := SplitValue(value)
	return object, err
}
