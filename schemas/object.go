package schemas

import (
	"bytes"
	"encoding/json"
	"strconv"
)

const metadataKey = "metadata"

// AppendWithResourceVersion appends object to dst with
// "resourceVersion":"<rev>" as the first member of its top-level metadata, and
// returns the extended slice. It allocates only when dst has to grow.
//
// The object is not parsed: members in front of metadata are stepped over,
// which is two short strings in the layout that is stored. Any other JSON object
// is handled as well; an object without metadata gets one. Bytes that are no
// JSON object are appended as they are. The metadata must not hold a
// resourceVersion already.
func AppendWithResourceVersion(dst, object []byte, rev int64) []byte {
	s := scanner{data: object}
	if !s.enter() {
		return append(dst, object...)
	}
	open := s.pos
	if !s.member(metadataKey) {
		if s.broken {
			return append(dst, object...)
		}
		dst = append(dst, object[:open]...)
		dst = append(dst, `"metadata":{"resourceVersion":"`...)
		dst = strconv.AppendInt(dst, rev, 10)
		dst = append(dst, `"}`...)
		return appendRest(dst, object, open)
	}
	start := s.pos
	if bytes.HasPrefix(object[start:], []byte("null")) {
		dst = append(dst, object[:start]...)
		dst = append(dst, `{"resourceVersion":"`...)
		dst = strconv.AppendInt(dst, rev, 10)
		dst = append(dst, `"}`...)
		return append(dst, object[start+len("null"):]...)
	}
	if !s.enter() {
		return append(dst, object...)
	}
	dst = append(dst, object[:s.pos]...)
	dst = append(dst, `"resourceVersion":"`...)
	dst = strconv.AppendInt(dst, rev, 10)
	dst = append(dst, '"')
	return appendRest(dst, object, s.pos)
}

// appendRest appends object[pos:], which follows the opening brace of a JSON
// object into which a first member was just written.
func appendRest(dst, object []byte, pos int) []byte {
	s := scanner{data: object, pos: pos}
	s.space()
	if s.pos < len(object) && object[s.pos] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, object[pos:]...)
}

// NodeOf is the spec.nodeName of a stored pod, "" if it has none.
func NodeOf(object []byte) string {
	s := scanner{data: object}
	if !s.enter() || !s.member("spec") || !s.enter() || !s.member("nodeName") {
		return ""
	}
	start := s.pos
	raw, ok := s.str()
	if !ok {
		return ""
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	var name string
	if err := json.Unmarshal(object[start:s.pos], &name); err != nil {
		return ""
	}
	return name
}

// scanner steps through JSON without building anything. It trusts its input to
// be JSON as far as that is needed to find a member; it never reads out of
// bounds on anything else.
type scanner struct {
	data   []byte
	pos    int
	broken bool // met something that is no JSON
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// enter steps behind an opening brace.
func (s *scanner) enter() bool {
	s.space()
	return s.eat('{')
}

func (s *scanner) eat(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// member advances from behind an opening brace to the value of the named
// member. False at the end of the object.
func (s *scanner) member(name string) bool {
	for {
		s.space()
		if s.eat('}') {
			return false
		}
		key, ok := s.str()
		if !ok {
			return s.fail()
		}
		s.space()
		if !s.eat(':') {
			return s.fail()
		}
		s.space()
		if string(key) == name {
			return true
		}
		if !s.skip() {
			return s.fail()
		}
		s.space()
		if s.eat(',') {
			continue
		}
		if s.eat('}') {
			return false
		}
		return s.fail()
	}
}

func (s *scanner) fail() bool {
	s.broken = true
	return false
}

// str steps over a string and returns what is between its quotes, as written.
func (s *scanner) str() ([]byte, bool) {
	if !s.eat('"') {
		return nil, false
	}
	start := s.pos
	for ; s.pos < len(s.data); s.pos++ {
		switch s.data[s.pos] {
		case '"':
			s.pos++
			return s.data[start : s.pos-1], true
		case '\\':
			s.pos++
		}
	}
	s.pos = len(s.data)
	return nil, false
}

// skip steps over one value of any kind.
func (s *scanner) skip() bool {
	depth := 0
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case '"':
			if _, ok := s.str(); !ok {
				return false
			}
		case '{', '[':
			depth++
			s.pos++
		case '}', ']':
			if depth == 0 {
				return false
			}
			depth--
			s.pos++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return false
			}
			s.pos++
			continue
		default:
			s.scalar()
		}
		if depth == 0 {
			return true
		}
	}
	return false
}

// scalar steps over a number, true, false or null.
func (s *scanner) scalar() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ',', ':', '{', '}', '[', ']', '"', ' ', '\t', '\n', '\r':
			return
		}
		s.pos++
	}
}
