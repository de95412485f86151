package relay

import (
	"errors"
	"fmt"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/schemas"
)

// message is one message for HISTORY.
type message struct {
	subject string
	event   schemas.Event
}

// errPrevMissing says that etcd no longer has the state before a change, without
// which the change's messages can't be made.
var errPrevMissing = errors.New("state before the change is compacted")

// project turns the entries of one revision into its messages: first those for
// nodes' routes, then one for every object, in the order of the transaction.
func project(entries []feed.Entry, epoch string) ([]message, error) {
	messages := make([]message, 0, len(entries)+2)
	for i := range entries {
		routes, err := routesOf(&entries[i])
		if err != nil {
			return nil, err
		}
		messages = append(messages, routes...)
	}
	for i := range entries {
		e, err := eventOf(&entries[i])
		if err != nil {
			return nil, err
		}
		messages = append(messages, message{subject: e.Key.Subject(), event: e})
	}
	for i := range messages {
		e := &messages[i].event
		e.Ord, e.Cnt, e.Epoch = i, len(messages), epoch
	}
	return messages, nil
}

// eventOf is the event of one entry, without its place among the others.
func eventOf(entry *feed.Entry) (schemas.Event, error) {
	if entry.PrevMissing() {
		return schemas.Event{}, fmt.Errorf("%s at revision %d: %w", entry.Key, entry.Rev, errPrevMissing)
	}
	header, err := entry.Header()
	if err != nil {
		header = schemas.Header{V: schemas.HeaderVersion, Verb: "unknown"} // a bad header must not stop history
	}
	return schemas.Event{
		Rev: entry.Rev, Type: entry.Type.EventType(), Key: entry.Key, PrevRev: entry.PrevRev,
		Header: header, Object: entry.Object,
	}, nil
}

// routesOf is what a pod's change means to the nodes it is or was bound to.
func routesOf(entry *feed.Entry) ([]message, error) {
	if entry.Key.Group != "" || entry.Key.Resource != "pods" {
		return nil, nil
	}
	e, err := eventOf(entry)
	if err != nil {
		return nil, err
	}
	before := schemas.NodeOf(entry.PrevObject())
	if entry.Type == feed.Deleted {
		if before == "" {
			return nil, nil
		}
		return []message{{subject: schemas.NodeRoute(before), event: e}}, nil
	}
	now := schemas.NodeOf(entry.Object)
	var messages []message
	if before != "" && before != now {
		left := e
		left.Type, left.Object = schemas.Left, entry.PrevObject()
		messages = append(messages, message{subject: schemas.NodeRoute(before), event: left})
	}
	if now != "" {
		if before != now {
			e.Type = schemas.Added
		} else {
			e.Type = schemas.Modified
		}
		messages = append(messages, message{subject: schemas.NodeRoute(now), event: e})
	}
	return messages, nil
}

// revision is how many leading entries have the same revision as the first.
func revision(entries []feed.Entry) int {
	n := 1
	for n < len(entries) && entries[n].Rev == entries[0].Rev {
		n++
	}
	return n
}
