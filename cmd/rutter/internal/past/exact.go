package past

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/rutter-project/rutter/schemas"
)

// Exact is what replaces a live object with what it was: restored, as Restored makes it, and
// of the live one what is not restored either: identity, status, the owners and finalizers
// that it has got since, and the annotations in which controllers count. Everything else
// that was added since is not in it.
func Exact(key schemas.Key, restored, live json.RawMessage) (json.RawMessage, error) {
	var want, is map[string]json.RawMessage
	if err := json.Unmarshal(restored, &want); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if err := json.Unmarshal(live, &is); err != nil {
		return nil, fmt.Errorf("%s as it is: %w", key, err)
	}
	if status, there := is["status"]; there {
		want["status"] = status
	}
	var metadata, now map[string]any
	if err := json.Unmarshal(want["metadata"], &metadata); err != nil {
		return nil, fmt.Errorf("%s: metadata: %w", key, err)
	}
	if err := json.Unmarshal(is["metadata"], &now); err != nil {
		return nil, fmt.Errorf("%s as it is: metadata: %w", key, err)
	}
	if uid, there := now["uid"]; there {
		metadata["uid"] = uid
	}
	keep(metadata, now, "finalizers", func(v any) any { return v })
	keep(metadata, now, "ownerReferences", func(v any) any {
		fields, _ := v.(map[string]any)
		return fields["uid"]
	})
	keepAnnotations(metadata, now)
	var err error
	if want["metadata"], err = json.Marshal(metadata); err != nil {
		return nil, fmt.Errorf("%s: metadata: %w", key, err)
	}
	return json.Marshal(want)
}

// keep adds the items that a list has now to what it was.
func keep(metadata, now map[string]any, list string, identity func(any) any) {
	was, _ := metadata[list].([]any)
	have := map[any]bool{}
	for _, item := range was {
		have[identity(item)] = true
	}
	is, _ := now[list].([]any)
	for _, item := range is {
		if !have[identity(item)] {
			was = append(was, item)
		}
	}
	if len(was) > 0 {
		metadata[list] = was
	}
}

// keepAnnotations keeps those that controllers and the scheduler have written.
func keepAnnotations(metadata, now map[string]any) {
	is, _ := now["annotations"].(map[string]any)
	for name, value := range is {
		if !strings.HasPrefix(name, bookkeeping) && name != decisionAnnotation {
			continue
		}
		was, _ := metadata["annotations"].(map[string]any)
		if was == nil {
			was = map[string]any{}
			metadata["annotations"] = was
		}
		was[name] = value
	}
}
