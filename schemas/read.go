package schemas

import (
	"bytes"
	"encoding/json"
)

// MetadataOf is the metadata of a stored object as it is written, nil if it has none.
func MetadataOf(object []byte) []byte {
	s := scanner{data: object}
	if !s.enter() || !s.member(metadataKey) {
		return nil
	}
	start := s.pos
	if start == len(object) || object[start] != '{' || !s.skip() {
		return nil
	}
	return object[start:s.pos]
}

// EachLabel calls yield with every label of a stored object until it returns false. What
// it gives is only valid during the call and must not be changed.
func EachLabel(object []byte, yield func(key, value []byte) bool) {
	s := scanner{data: object}
	if !s.enter() || !s.member(metadataKey) || !s.enter() || !s.member("labels") || !s.enter() {
		return
	}
	for {
		s.space()
		key, ok := s.text()
		if !ok || !s.colon() {
			return
		}
		value, ok := s.text()
		if !ok || !yield(key, value) {
			return
		}
		if s.space(); !s.eat(',') {
			return
		}
	}
}

// A Path is where a field lies in an object, member by member.
type Path []string

// maxPaths is how many paths Texts looks for at most.
const maxPaths = 64

// Texts finds the scalars at paths, at most 64 of them, in one pass over a stored object:
// strings as they are meant, numbers and booleans as they are written. What is missing,
// null or no scalar is nil. The result must not be changed.
func Texts(object []byte, paths []Path) [][]byte {
	w := pathWalk{scanner: scanner{data: object}, paths: paths, found: make([][]byte, len(paths))}
	if len(paths) <= maxPaths && w.enter() {
		w.left = len(paths)
		w.object(0, ^uint64(0)>>(maxPaths-len(paths)))
	}
	return w.found
}

type pathWalk struct {
	scanner
	paths []Path
	found [][]byte
	left  int // paths whose members have not all been met
}

// object goes through the members of an object, from behind its opening brace. wanted are
// the paths that lead to it, as bits.
func (w *pathWalk) object(depth int, wanted uint64) bool {
	for {
		w.space()
		if w.eat('}') {
			return true
		}
		key, ok := w.text()
		if !ok || !w.colon() {
			return false
		}
		if !w.value(depth, w.through(key, depth, wanted)) || w.left == 0 {
			return false
		}
		w.space()
		if !w.eat(',') {
			return w.eat('}')
		}
	}
}

// through picks the paths that go through a member.
func (w *pathWalk) through(key []byte, depth int, wanted uint64) uint64 {
	var some uint64
	for i, p := range w.paths {
		if wanted&(1<<i) != 0 && p[depth] == string(key) {
			some |= 1 << i
		}
	}
	return some
}

// value steps over the value of a member, keeping what is wanted of it. depth is the
// member's.
func (w *pathWalk) value(depth int, wanted uint64) bool {
	if wanted == 0 {
		return w.skip()
	}
	if w.pos < len(w.data) && w.data[w.pos] == '{' {
		for i, p := range w.paths {
			if wanted&(1<<i) != 0 && len(p) == depth+1 { // no scalar
				wanted &^= 1 << i
				w.left--
			}
		}
		w.pos++
		return w.object(depth+1, wanted)
	}
	scalar, ok := w.scalarText()
	for i, p := range w.paths {
		if wanted&(1<<i) != 0 {
			if len(p) == depth+1 {
				w.found[i] = scalar
			}
			w.left--
		}
	}
	return ok
}

// scalarText steps over a value that is no object, and returns it if it is a scalar.
func (w *pathWalk) scalarText() ([]byte, bool) {
	if w.pos < len(w.data) && w.data[w.pos] == '"' {
		return w.text()
	}
	start := w.pos
	if !w.skip() {
		return nil, false
	}
	raw := w.data[start:w.pos]
	if raw[0] == '[' || string(raw) == "null" {
		return nil, true
	}
	return raw, true
}

// text steps over a string and returns what it means.
func (s *scanner) text() ([]byte, bool) {
	start := s.pos
	raw, ok := s.str()
	if !ok || bytes.IndexByte(raw, '\\') < 0 {
		return raw, ok
	}
	var meant string
	if err := json.Unmarshal(s.data[start:s.pos], &meant); err != nil {
		return nil, false
	}
	return []byte(meant), true
}

// colon steps over what separates a member's name from its value.
func (s *scanner) colon() bool {
	s.space()
	if !s.eat(':') {
		return false
	}
	s.space()
	return true
}
