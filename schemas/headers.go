package schemas

// HeaderSpec describes one header of a message on the bus. The AsyncAPI document is
// generated from these.
type HeaderSpec struct {
	Name        string
	Description string
	Required    bool
	Pattern     string // a regular expression, "" for any text
	Enum        []string
}

const number = "^[0-9]+$"

// HeaderSpecs are all headers that a message can have, in the order of the documents.
func HeaderSpecs() []HeaderSpec {
	types := make([]string, 0, len(EventTypes()))
	names := make([]string, 0, len(EventTypes()))
	for _, t := range EventTypes() {
		types, names = append(types, string(t.Type)), append(names, t.Name)
	}
	return []HeaderSpec{
		{Name: HeaderRev, Required: true, Pattern: number, Description: "etcd revision of the commit: the object's new resourceVersion."},
		{Name: HeaderOrd, Required: true, Pattern: number, Description: "Place among the messages of the revision, from 0."},
		{Name: HeaderCnt, Required: true, Pattern: number, Description: "Number of messages of the revision."},
		{Name: HeaderType, Required: true, Enum: types, Description: "What happened."},
		{Name: HeaderPrev, Pattern: number, Description: "Revision of the object's previous state; on a gap the last one before it."},
		{Name: HeaderResync, Pattern: number, Description: "Present on messages that stand for lost changes: the revision at which the state was read."},
		{Name: HeaderEpoch, Description: "Cluster and generation of the stream, divided by a dot."},
		{Name: HeaderVerb, Description: "API verb."},
		{Name: HeaderGroups, Description: "Groups of the user, comma-separated."},
		{Name: HeaderManager, Description: "Field manager."},
		{Name: HeaderAgent, Description: "User-Agent."},
		{Name: HeaderRequest, Description: "Audit ID of the API request."},
		{Name: HeaderCause, Pattern: "^[0-9]+(,[0-9]+)*$", Description: "Revisions that the writer acted upon, comma-separated, oldest first."},
		{Name: HeaderTrace, Description: "W3C trace context of the API request."},
		{Name: HeaderState, Description: "W3C trace state of the API request."},
		{Name: ceSpecVersion, Required: true, Enum: []string{"1.0"}, Description: "Version of CloudEvents."},
		{Name: ceID, Required: true, Pattern: `^[0-9]+(\.[0-9]+)?$`, Description: "Unique within the source: the revision, and the ordinal of all but its last message."},
		{Name: ceSource, Required: true, Pattern: "^/rutter", Description: "The cluster."},
		{Name: ceType, Required: true, Enum: names, Description: "What happened, versioned."},
		{Name: ceSubject, Description: "The object: group/resource/namespace/name."},
		{Name: ceTime, Description: "The writer's clock shortly before the commit (RFC 3339)."},
		{Name: ceContentType, Enum: []string{"application/json"}, Description: "Absent without a body."},
		{Name: ceDataRef, Pattern: "^/at/rev-[0-9]+/", Description: "Where the API serves an object that is too large for the bus; there is no body then."},
		{Name: ceSequence, Required: true, Pattern: `^[0-9]{19}\.[0-9]{6}$`, Description: "Revision and ordinal, sorting as text."},
		{Name: ceAuthID, Description: "The user."},
		{Name: ceAuthType, Enum: []string{"user", "service_account", "system", "unauthenticated", "unknown"}, Description: "What kind of user."},
		{Name: ceCausation, Pattern: number, Description: "The last of the causes: the ce-id of the event that led to this one."},
		{Name: ceCorrelation, Description: "The trace id, which all changes of one intent share."},
		{Name: ceTraceParent, Description: "traceparent as the CloudEvents extension for distributed tracing has it."},
		{Name: ceTraceState, Description: "tracestate as the CloudEvents extension for distributed tracing has it."},
	}
}

// EventTypeSpec describes one type of event.
type EventTypeSpec struct {
	Type        EventType
	Name        string // the CloudEvents type
	Description string
}

// EventTypes are all types that a message can have.
func EventTypes() []EventTypeSpec {
	return []EventTypeSpec{
		{Added, cloudEventType(Added), "The object was created; on a node's route, the pod was bound to the node."},
		{Modified, cloudEventType(Modified), "The object was changed."},
		{Deleted, cloudEventType(Deleted), "The object was removed; the body is its last state."},
		{Left, cloudEventType(Left), "On a node's route: the pod is bound elsewhere now; the body is its last state here."},
		{Bookmark, cloudEventType(Bookmark), "No change: everything up to the revision has been seen."},
		{Gap, cloudEventType(Gap), "Changes after Rutter-Prev and up to Rutter-Rev are lost to the stream."},
	}
}
