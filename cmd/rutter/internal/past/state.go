package past

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rutter-project/rutter/schemas"
)

// decisionAnnotation is where the scheduler says why it chose a node.
const decisionAnnotation = "scheduler.rutter.dev/decision"

// state is what an object says about its life, whatever its kind.
type state struct {
	Metadata struct {
		UID               string            `json:"uid"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
		Generation        int64             `json:"generation"`
		Annotations       map[string]string `json:"annotations"`
		OwnerReferences   []Reference       `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase      string      `json:"phase"`
		Reason     string      `json:"reason"`
		Message    string      `json:"message"`
		Conditions []condition `json:"conditions"`
	} `json:"status"`
}

// Reference names an owner.
type Reference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// stateOf reads what it can: kinds of others may use the same names otherwise.
func stateOf(object []byte) state {
	var outer struct {
		Metadata json.RawMessage `json:"metadata"`
		Spec     json.RawMessage `json:"spec"`
		Status   json.RawMessage `json:"status"`
	}
	var s state
	_ = json.Unmarshal(object, &outer)
	_ = json.Unmarshal(outer.Metadata, &s.Metadata)
	_ = json.Unmarshal(outer.Spec, &s.Spec)
	_ = json.Unmarshal(outer.Status, &s.Status)
	return s
}

func (s state) condition(kind string) condition {
	for _, c := range s.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return condition{}
}

func (s state) ready() string { return s.condition("Ready").Status }

// disrupted is why a pod is about to be ended by others, empty if it is not.
func (s state) disrupted() string {
	c := s.condition("DisruptionTarget")
	if c.Status != "True" {
		return ""
	}
	return reasoned(c.Reason, c.Message)
}

func reasoned(reason, message string) string {
	return strings.Trim(reason+": "+message, ": ")
}

// UID is the identity of an object.
func UID(object []byte) string { return stateOf(object).Metadata.UID }

func controller(object []byte) (Reference, bool) {
	refs := stateOf(object).Metadata.OwnerReferences
	i := slices.IndexFunc(refs, func(r Reference) bool { return r.Controller })
	if i < 0 {
		return Reference{}, false
	}
	return refs[i], true
}

// changed is what is said of a change that has no better name.
const changed = "changed"

// meaning says what an event tells about the object's life. It is empty if the event only
// keeps books. before may be empty.
func meaning(e schemas.Event, before []byte) string {
	was, now := stateOf(before), stateOf(e.Object)
	switch {
	case e.Resync != 0 && e.Type == schemas.Deleted:
		return "found gone after a gap"
	case e.Resync != 0:
		return "found after a gap"
	case e.Type == schemas.Added:
		return "created"
	case e.Type == schemas.Deleted:
		return "gone"
	case now.Metadata.DeletionTimestamp != "" && was.Metadata.DeletionTimestamp == "":
		return "deletion asked for"
	case len(before) == 0:
		return ""
	case now.disrupted() != "" && was.disrupted() == "":
		return "to be disrupted: " + now.disrupted()
	}
	switch (schemas.Key{Group: e.Key.Group, Resource: e.Key.Resource}) {
	case schemas.Key{Resource: "pods"}:
		return podMeaning(was, now)
	case schemas.Key{Resource: "nodes"}:
		return nodeMeaning(was, now)
	}
	if now.Metadata.Generation > was.Metadata.Generation {
		return changed
	}
	return ""
}

func podMeaning(was, now state) string {
	switch {
	case now.Spec.NodeName != "" && was.Spec.NodeName == "":
		return bound(now)
	case now.Status.Phase != was.Status.Phase && now.Status.Phase != "Pending":
		return phase(now)
	default:
		return ""
	}
}

func nodeMeaning(was, now state) string {
	if now.ready() == was.ready() {
		return ""
	}
	if c := now.condition("Ready"); c.Status != "True" {
		return "not ready: " + reasoned(c.Reason, c.Message)
	}
	return "ready"
}

func phase(s state) string {
	text := "is " + s.Status.Phase
	if why := reasoned(s.Status.Reason, s.Status.Message); why != "" {
		return text + ": " + why
	}
	if s.Status.Phase == "Running" && s.Spec.NodeName != "" {
		return text + " on node " + s.Spec.NodeName
	}
	return text
}

// bound says where a pod went and what the scheduler had to say.
func bound(s state) string {
	text := "bound to node " + s.Spec.NodeName
	var d struct {
		Nodes     int              `json:"nodes"`
		Feasible  int              `json:"feasible"`
		Rejected  map[string]int   `json:"rejected"`
		Scores    map[string]int64 `json:"scores"`
		RunnersUp map[string]int64 `json:"runnersUp"`
	}
	if json.Unmarshal([]byte(s.Metadata.Annotations[decisionAnnotation]), &d) != nil || d.Nodes == 0 {
		return text
	}
	text += fmt.Sprintf(": %d of %d nodes fit", d.Feasible, d.Nodes)
	for _, part := range []struct{ name, list string }{{"rejected", counts(d.Rejected)}, {"points", counts(d.Scores)}, {"runners-up", counts(d.RunnersUp)}} {
		if part.list != "" {
			text += "; " + part.name + " " + part.list
		}
	}
	return text
}

func counts[N int | int64](m map[string]N) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
	}
	return strings.Join(parts, ", ")
}
