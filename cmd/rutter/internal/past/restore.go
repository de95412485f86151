package past

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/rutter-project/rutter/schemas"
)

// made is the metadata that the server gives an object, or that say what became of it.
// None of it can be asked for.
var made = []string{
	"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
}

// bookkeeping begins the annotations in which the deployment controller counts.
const bookkeeping = "deployment.kubernetes.io/"

// Restored is what asks for an object to be as it was: without its status, and without what
// the server gives. live is the object as it is, empty if it is gone; a request made of
// the result fails if that has changed meanwhile. owner finds the identity that an owner
// has now; owners that are gone are left out.
func Restored(key schemas.Key, old, live json.RawMessage, owner func(Reference) (uid string, ok bool)) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(old, &object); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	var metadata map[string]any
	if err := json.Unmarshal(object["metadata"], &metadata); err != nil {
		return nil, fmt.Errorf("%s: metadata: %w", key, err)
	}
	for _, name := range made {
		delete(metadata, name)
	}
	delete(object, "status")
	annotations, _ := metadata["annotations"].(map[string]any)
	maps.DeleteFunc(annotations, func(name string, _ any) bool {
		return strings.HasPrefix(name, bookkeeping) || name == decisionAnnotation
	})
	present(metadata, old, owner)
	if len(live) > 0 {
		var is struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(live, &is); err != nil {
			return nil, fmt.Errorf("%s as it is: %w", key, err)
		}
		if rv := is.Metadata.ResourceVersion; rv != "" {
			metadata["resourceVersion"] = rv
		}
	}
	if key.Group == "" && key.Resource == "pods" && len(live) == 0 {
		object["spec"] = without(object["spec"], "nodeName") // the scheduler finds a place anew
	}
	var err error
	if object["metadata"], err = json.Marshal(metadata); err != nil {
		return nil, fmt.Errorf("%s: metadata: %w", key, err)
	}
	return json.Marshal(object)
}

// without leaves out a member. What is no object stays as it is.
func without(object json.RawMessage, name string) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil {
		return object
	}
	delete(fields, name)
	out, err := json.Marshal(fields)
	if err != nil {
		return object
	}
	return out
}

// present makes owner references name the owners of now.
func present(metadata map[string]any, old json.RawMessage, owner func(Reference) (string, bool)) {
	refs, _ := metadata["ownerReferences"].([]any)
	if len(refs) == 0 {
		return
	}
	var kept []any
	for i, ref := range stateOf(old).Metadata.OwnerReferences {
		fields, ok := refs[i].(map[string]any)
		uid, lives := owner(ref)
		if ok && lives {
			fields["uid"] = uid
			kept = append(kept, fields)
		}
	}
	delete(metadata, "ownerReferences")
	if len(kept) > 0 {
		metadata["ownerReferences"] = kept
	}
}

// MadeBy is the owner whose controller makes an object, and makes it anew.
func MadeBy(object json.RawMessage) (Reference, bool) { return controller(object) }

// Owners are all owners of an object.
func Owners(object json.RawMessage) []Reference { return stateOf(object).Metadata.OwnerReferences }

// Ending reports that an object is being deleted.
func Ending(object json.RawMessage) bool { return stateOf(object).Metadata.DeletionTimestamp != "" }
