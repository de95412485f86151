package schemas

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Referring is the event with a reference in place of its object: where the API serves
// the object as it was at that revision. On Deleted and Left, whose object is the last
// state, that is the revision before.
func (e Event) Referring() (Event, error) {
	var object struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(e.Object, &object); err != nil || object.APIVersion == "" {
		return Event{}, fmt.Errorf("%s at revision %d has no apiVersion to refer to: %w", e.Key, e.Rev, ErrNotObject)
	}
	rev := e.Rev
	if e.Type == Deleted || e.Type == Left {
		rev = e.PrevRev
	}
	e.DataRef = fmt.Sprintf("/at/rev-%d%s", rev, e.Key.APIPath(object.APIVersion))
	e.Object = nil
	return e, nil
}

// APIPath is where the API serves the object in one of its versions, "v1" or
// "<group>/<version>".
func (k Key) APIPath(apiVersion string) string {
	var path strings.Builder
	if strings.Contains(apiVersion, "/") {
		path.WriteString("/apis/")
	} else {
		path.WriteString("/api/")
	}
	path.WriteString(apiVersion)
	if k.Namespace != "" {
		path.WriteString("/namespaces/" + k.Namespace)
	}
	path.WriteString("/" + k.Resource + "/" + k.Name)
	return path.String()
}
