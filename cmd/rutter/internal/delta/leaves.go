package delta

import (
	"maps"
	"slices"
	"strconv"
)

// Leaf is a field without fields of its own, with its value as JSON.
type Leaf struct {
	Path  string `json:"field"`
	Value string `json:"value"`
}

// Leaves lists all fields of an object, by path, as Of names them. An empty state has
// none.
func Leaves(object []byte) ([]Leaf, error) {
	v, err := decode(object)
	if err != nil {
		return nil, err
	}
	return leaves(nil, "", v), nil
}

func leaves(out []Leaf, path string, v any) []Leaf {
	if hidden[path] {
		return out
	}
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 && path != "" {
			break
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			out = leaves(out, member(path, key), v[key])
		}
		return out
	case []any:
		if len(v) == 0 {
			break
		}
		for i, element := range v {
			out = leaves(out, path+"["+elementName(v, i)+"]", element)
		}
		return out
	}
	return append(out, Leaf{Path: path, Value: text(v)})
}

// elementName is how an element of a list is known: by its key, else by its place.
func elementName(list []any, i int) string {
	for _, key := range listKeys {
		if _, ok := keyed(list, key); ok {
			return key + "=" + keyText(list[i], key)
		}
	}
	return strconv.Itoa(i)
}
