// Package delta says what differs between two states of an object, for people. It only
// computes.
package delta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Change is one field that differs. Old or New is nil if the field was added or removed.
type Change struct {
	Path string
	Old  any
	New  any
	Kind Kind
}

// Kind of a change.
type Kind byte

// The kinds, as they are printed.
const (
	Added   Kind = '+'
	Removed Kind = '-'
	Changed Kind = '~'
)

// String is the change as a line: "~ spec.replicas: 1 → 3".
func (c Change) String() string {
	switch c.Kind {
	case Added:
		return fmt.Sprintf("+ %s: %s", c.Path, text(c.New))
	case Removed:
		return fmt.Sprintf("- %s: %s", c.Path, text(c.Old))
	default:
		return fmt.Sprintf("~ %s: %s → %s", c.Path, text(c.Old), text(c.New))
	}
}

func text(v any) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}

// hidden are fields that change with every write and tell nothing.
var hidden = map[string]bool{"metadata.managedFields": true, "metadata.resourceVersion": true, "metadata.generation": true}

// Of lists what differs between two states, by path. An empty state is no object.
func Of(before, after []byte) ([]Change, error) {
	old, err := decode(before)
	if err != nil {
		return nil, fmt.Errorf("state before: %w", err)
	}
	now, err := decode(after)
	if err != nil {
		return nil, fmt.Errorf("state after: %w", err)
	}
	return compare("", old, now), nil
}

func decode(object []byte) (any, error) {
	if len(object) == 0 {
		return map[string]any{}, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber()
	var v any
	return v, decoder.Decode(&v)
}

func compare(path string, old, now any) []Change {
	if hidden[path] {
		return nil
	}
	switch old := old.(type) {
	case map[string]any:
		if now, ok := now.(map[string]any); ok {
			return fields(path, old, now, member)
		}
	case []any:
		if now, ok := now.([]any); ok {
			return lists(path, old, now)
		}
	case json.Number, string, bool, nil:
		if old == now {
			return nil
		}
	}
	return []Change{{Path: path, Old: old, New: now, Kind: Changed}}
}

// fields compares by key. A field that is only on one side is one change, however much
// there is in it.
func fields(path string, old, now map[string]any, join func(path, key string) string) []Change {
	keys := maps.Clone(old)
	maps.Copy(keys, now)
	var out []Change
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		at := join(path, key)
		was, had := old[key]
		is, has := now[key]
		switch {
		case hidden[at]:
		case !had:
			out = append(out, Change{Path: at, New: is, Kind: Added})
		case !has:
			out = append(out, Change{Path: at, Old: was, Kind: Removed})
		default:
			out = append(out, compare(at, was, is)...)
		}
	}
	return out
}

func member(path, key string) string {
	if strings.ContainsAny(key, ".[]/ ") || key == "" {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// listKeys identify the elements of lists, as Kubernetes' own lists of objects do; the
// first that all elements have, each another value, counts.
var listKeys = []string{"name", "type", "ip", "key", "uid", "containerPort", "port"}

func lists(path string, old, now []any) []Change {
	for _, key := range listKeys {
		was, ok := keyed(old, key)
		is, ok2 := keyed(now, key)
		if ok && ok2 {
			return fields(path, was, is, func(path, value string) string { return path + "[" + key + "=" + value + "]" })
		}
	}
	was, is := map[string]any{}, map[string]any{}
	index := func(i int) string { return fmt.Sprintf("%06d", i) }
	for i, v := range old {
		was[index(i)] = v
	}
	for i, v := range now {
		is[index(i)] = v
	}
	return fields(path, was, is, func(path, i string) string {
		n, _ := strconv.Atoi(i)
		return path + "[" + strconv.Itoa(n) + "]"
	})
}

// keyed is a list as a map, false if not every element has the key, each another value.
func keyed(list []any, key string) (map[string]any, bool) {
	out := make(map[string]any, len(list))
	for _, v := range list {
		element, ok := v.(map[string]any)
		if !ok || element[key] == nil {
			return nil, false
		}
		out[keyText(element, key)] = v
	}
	return out, len(out) == len(list)
}

// keyText is the value of an element's key. The element is known to have it.
func keyText(element any, key string) string {
	return fmt.Sprint(element.(map[string]any)[key])
}
