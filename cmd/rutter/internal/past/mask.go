package past

import (
	"bytes"
	"encoding/json"

	"github.com/rutter-project/rutter/schemas"
)

// masked stands for a value that is not shown. Where two values differ, the marks do.
const (
	masked       = "***"
	maskedBefore = "*** (before)"
	maskedAfter  = "*** (after)"
)

// Mask hides the values of a Secret in two states of it, one of which may be empty. Other
// objects stay as they are. A Secret that can't be read is nothing but its mark.
func Mask(key schemas.Key, before, after json.RawMessage) (json.RawMessage, json.RawMessage) {
	if key.Group != "" || key.Resource != "secrets" {
		return before, after
	}
	old, now := secretFields(before), secretFields(after)
	for _, field := range []string{"data", "stringData"} {
		was, is := stringsOf(old[field]), stringsOf(now[field])
		for name, value := range was {
			if other, both := is[name]; both && other != value {
				was[name], is[name] = maskedBefore, maskedAfter
				continue
			}
			was[name] = masked
			if _, both := is[name]; both {
				is[name] = masked
			}
		}
		for name := range is {
			if _, both := was[name]; !both {
				is[name] = masked
			}
		}
		put(old, field, was)
		put(now, field, is)
	}
	hideApplied(old)
	hideApplied(now)
	return encode(before, old), encode(after, now)
}

func secretFields(object json.RawMessage) map[string]any {
	fields := map[string]any{}
	if len(object) > 0 && json.Unmarshal(object, &fields) != nil {
		return map[string]any{"secret": masked}
	}
	return fields
}

func stringsOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func put(fields map[string]any, name string, values map[string]any) {
	if _, ok := fields[name]; ok {
		fields[name] = values
	}
}

// hideApplied hides the copy of all values that kubectl apply keeps.
func hideApplied(fields map[string]any) {
	annotations := stringsOf(stringsOf(fields["metadata"])["annotations"])
	const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
	if _, ok := annotations[lastApplied]; ok {
		annotations[lastApplied] = masked
	}
}

func encode(was json.RawMessage, fields map[string]any) json.RawMessage {
	if len(bytes.TrimSpace(was)) == 0 {
		return nil
	}
	out, err := json.Marshal(fields)
	if err != nil {
		return json.RawMessage(`"` + masked + `"`)
	}
	return out
}
