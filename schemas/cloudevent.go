package schemas

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// ceExtensions are the extension attributes that stand for Rutter's own headers in a
// structured CloudEvent. Attribute names are lower-case letters and digits, 20 at most;
// integers of CloudEvents have 32 bits, so that revisions are text.
var ceExtensions = map[string]string{
	HeaderRev: "revision", HeaderPrev: "previousrevision", HeaderResync: "resync", HeaderEpoch: "epoch", HeaderVerb: "verb",
	HeaderGroups: "authgroups", HeaderManager: "fieldmanager", HeaderAgent: "useragent", HeaderRequest: "auditid", HeaderCause: "causes",
}

const cePrefix = "ce-"

// CloudEvent is the event in the JSON format of CloudEvents 1.0: attributes and data in
// one document. It says the same as Message, and with recordedtime when the stream took
// the event, if that is known.
func (e Event) CloudEvent() ([]byte, error) {
	headers, body := e.Message()
	out := make(map[string]any, len(headers)+2)
	for name, values := range headers {
		attribute, ok := strings.CutPrefix(name, cePrefix)
		if !ok {
			attribute, ok = ceExtensions[name]
		}
		if !ok {
			continue
		}
		value, valid := percentDecode(values[0])
		if name == HeaderGroups { // its commas divide, those in names stay encoded
			value, valid = values[0], true
		}
		if !valid {
			return nil, fmt.Errorf("cloud event at revision %d: attribute %s", e.Rev, attribute)
		}
		out[attribute] = value
	}
	if !e.Recorded.IsZero() {
		out["recordedtime"] = e.Recorded.UTC().Format(time.RFC3339Nano)
	}
	if len(body) > 0 {
		out["data"] = json.RawMessage(body)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("cloud event at revision %d: %w", e.Rev, err)
	}
	return text, nil
}
