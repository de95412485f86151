package schemas

import (
	"encoding/json"
	"maps"
	"strings"
)

// accountAnnotation begins the annotations of a Secret that say for whom it is, and not
// what is in it.
const accountAnnotation = "kubernetes.io/service-account."

// WithoutValues is an object as those may see it who may not read it itself: of a Secret,
// kind, type and metadata remain, without annotations, which may repeat the values. Other
// objects stay as they are. A Secret that can't be read is left away.
func WithoutValues(key Key, object []byte) []byte {
	if key.Group != "" || key.Resource != "secrets" || len(object) == 0 {
		return object
	}
	var outside struct {
		Kind       string                     `json:"kind"`
		APIVersion string                     `json:"apiVersion"`
		Metadata   map[string]json.RawMessage `json:"metadata"`
		Type       string                     `json:"type,omitempty"`
	}
	if err := json.Unmarshal(object, &outside); err != nil || len(outside.Metadata) == 0 {
		return nil
	}
	var annotations map[string]string
	_ = json.Unmarshal(outside.Metadata["annotations"], &annotations) // what can't be read is left away
	maps.DeleteFunc(annotations, func(name, _ string) bool { return !strings.HasPrefix(name, accountAnnotation) })
	delete(outside.Metadata, "annotations")
	delete(outside.Metadata, "managedFields") // they name the keys
	if len(annotations) > 0 {
		outside.Metadata["annotations"], _ = json.Marshal(annotations) // strings always encode
	}
	out, err := json.Marshal(outside)
	if err != nil {
		return nil
	}
	return out
}
