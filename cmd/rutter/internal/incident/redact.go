package incident

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rutter-project/rutter/schemas"
)

// What can be hidden beside Secrets, which always are.
const (
	Env        = "env"        // the values of environment variables
	ConfigMaps = "configmaps" // the values in ConfigMaps
)

// Hidden are all of them.
var Hidden = []string{Env, ConfigMaps}

// Redaction hides values. Mark stands for a value: equal marks, equal values, so that a
// reader sees that something has changed, and not into what.
type Redaction struct {
	What []string
	Mark func(value string) string
}

// CheckRedaction names what can't be hidden.
func CheckRedaction(what []string) error {
	for _, w := range what {
		if !slices.Contains(Hidden, w) {
			return fmt.Errorf("--redact %q: want %s", w, strings.Join(Hidden, ", "))
		}
	}
	return nil
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Apply returns the event with what is hidden replaced, in the annotation of kubectl apply
// too. An object that can't be read is left away.
func (r Redaction) Apply(e schemas.Event) schemas.Event {
	if len(r.What) == 0 || len(e.Object) == 0 || e.Type == schemas.Gap || e.Key == schemas.Marks {
		return e
	}
	e.Object = r.object(e.Key, e.Object)
	return e
}

func (r Redaction) object(key schemas.Key, text []byte) []byte {
	lines := json.NewDecoder(bytes.NewReader(text))
	lines.UseNumber()
	var object map[string]any
	if lines.Decode(&object) != nil {
		return nil
	}
	if !r.hide(key, object) {
		return text
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(object) != nil {
		return nil
	}
	return bytes.TrimRight(out.Bytes(), "\n")
}

// hide changes an object, and tells whether it did.
func (r Redaction) hide(key schemas.Key, object map[string]any) bool {
	changed := false
	if slices.Contains(r.What, Env) {
		changed = r.env(object)
	}
	if slices.Contains(r.What, ConfigMaps) && key.Group == "" && key.Resource == "configmaps" {
		plain := r.values(object["data"], r.Mark)
		binary := r.values(object["binaryData"], func(v string) string { return base64.StdEncoding.EncodeToString([]byte(r.Mark(v))) })
		changed = plain || binary || changed
	}
	metadata, _ := object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if applied, ok := annotations[lastApplied].(string); ok {
		if hidden := string(r.object(key, []byte(applied))); hidden != applied {
			annotations[lastApplied], changed = hidden, true
		}
	}
	return changed
}

func (r Redaction) values(in any, mark func(string) string) bool {
	fields, _ := in.(map[string]any)
	for name, value := range fields {
		text, _ := value.(string)
		fields[name] = mark(text)
	}
	return len(fields) > 0
}

// env hides the values in every list "env" of names and values, wherever it is: pods,
// templates of pods, and kinds of others that have either.
func (r Redaction) env(in any) bool {
	changed := false
	switch in := in.(type) {
	case []any:
		for _, item := range in {
			changed = r.env(item) || changed
		}
	case map[string]any:
		for name, value := range in {
			if list, ok := value.([]any); ok && name == "env" {
				changed = r.variables(list) || changed
			}
			changed = r.env(value) || changed
		}
	}
	return changed
}

func (r Redaction) variables(list []any) bool {
	changed := false
	for _, item := range list {
		variable, _ := item.(map[string]any)
		if value, ok := variable["value"].(string); ok && variable["name"] != nil {
			variable["value"], changed = r.Mark(value), true
		}
	}
	return changed
}

// Hides reports that an object in a bundle, of which these were hidden, lacks values.
func Hides(redacted []string, key schemas.Key, object []byte) bool {
	if key.Group == "" && key.Resource == "secrets" {
		return true
	}
	r := Redaction{Mark: func(value string) string { return value + "?" }} // any other value
	for _, what := range Hidden {
		if slices.Contains(redacted, what) {
			r.What = append(r.What, what)
		}
	}
	var fields map[string]any
	return json.Unmarshal(object, &fields) != nil || r.hide(key, fields)
}
