package differential

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
)

// difference is one place in which two answers differ; absent values are "".
type difference struct{ at, rutter, upstream string }

func (d difference) String() string {
	return fmt.Sprintf("%s\n      rutter:   %s\n      upstream: %s", d.at, d.rutter, d.upstream)
}

// compare lists the places in which answers differ.
func compare(rutter, upstream answer) []difference {
	a, b := flat(rutter), flat(upstream)
	var all []difference
	for _, at := range slices.Sorted(maps.Keys(union(a, b))) {
		if a[at] != b[at] {
			all = append(all, difference{at, a[at], b[at]})
		}
	}
	return all
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// flat maps dotted paths to scalars.
func flat(a answer) map[string]string {
	out := map[string]string{"status": fmt.Sprint(a.Status)}
	for name, value := range a.Header {
		out["header."+name] = fmt.Sprintf("%q", value)
	}
	flatten("body", a.Body, out)
	return out
}

func flatten(at string, v any, out map[string]string) {
	switch x := v.(type) {
	case map[string]any:
		if len(x) == 0 {
			out[at] = "{}"
		}
		for k, item := range x {
			flatten(at+"."+strings.ReplaceAll(k, "/", "|"), item, out)
		}
	case []any:
		if len(x) == 0 {
			out[at] = "[]"
		}
		if strings.HasSuffix(at, ".managedFields") { // in order of time, which may be one second or two
			x = slices.Clone(x)
			slices.SortFunc(x, func(a, b any) int { return strings.Compare(hash(a), hash(b)) })
		}
		for i, item := range x {
			flatten(fmt.Sprintf("%s.%d", at, i), item, out)
		}
	default:
		text, err := json.Marshal(x)
		if err != nil {
			text = []byte(err.Error())
		}
		out[at] = string(text)
	}
}

// justified is a difference that is meant.
type justified struct {
	// cases and at are patterns as of path.Match.
	cases, at string
	why       string
}

// unjustified are differences without a reason in the table. Reasons that were needed
// are noted.
func unjustified(name string, all []difference, needed map[justified]bool) []difference {
	return slices.DeleteFunc(all, func(d difference) bool {
		for _, j := range differences {
			if match(j.cases, name) && match(j.at, d.at) {
				needed[j] = true
				return true
			}
		}
		return false
	})
}

func match(pattern, s string) bool {
	ok, err := path.Match(pattern, strings.ReplaceAll(s, "/", "|"))
	return err == nil && ok
}

// unneeded are reasons that no difference asked for, in the order of the table.
func unneeded(needed map[justified]bool) []string {
	var all []string
	for _, j := range differences {
		if !needed[j] {
			all = append(all, fmt.Sprintf("%s: %s (%s)", j.cases, j.at, j.why))
		}
	}
	sort.Strings(all)
	return all
}
