package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/schemas"
)

// Instant is what the server takes an instant for.
type Instant struct {
	Rev  int64     `json:"revision"`
	Time time.Time `json:"time"`
}

// Text is the instant as it stands in paths.
func (i Instant) Text() string { return RevText(i.Rev) }

// RevText is a revision as it stands in paths.
func RevText(rev int64) string { return "rev-" + strconv.FormatInt(rev, 10) }

// Resolve asks what an instant means.
func (s *Server) Resolve(ctx context.Context, text string) (Instant, error) {
	var found Instant
	err := s.get(ctx, "/history/instant", url.Values{"at": {text}}, &found)
	return found, err
}

// Gap is a part of the past that is lost: what changed after From and before To.
type Gap struct {
	From   Instant `json:"from"`
	To     Instant `json:"to"`
	Reason string  `json:"reason"`
}

// Status is what the log holds. Fields that are not named are not ours.
type Status struct {
	Epoch     string   `json:"epoch"`
	Oldest    *Instant `json:"oldest"`
	Newest    Instant  `json:"newest"`
	Events    uint64   `json:"events"`
	Bytes     uint64   `json:"bytes"`
	Keyframes []struct {
		Instant
		Objects int   `json:"objects"`
		Bytes   int64 `json:"bytes"`
	} `json:"keyframes"`
	Packs *struct {
		Messages uint64 `json:"messages"`
		Bytes    uint64 `json:"bytes"`
	} `json:"packs"`
	Mended *struct {
		Events   uint64 `json:"events"`
		Messages uint64 `json:"messages"`
		Bytes    uint64 `json:"bytes"`
	} `json:"mended"`
	Gaps      []Gap `json:"gaps"`
	Retention struct {
		MaxAgeSeconds    int64 `json:"maxAgeSeconds"`
		MaxBytes         int64 `json:"maxBytes"`
		MaxKeyframeBytes int64 `json:"maxKeyframeBytes"`
		MaxPackBytes     int64 `json:"maxPackBytes"`
	} `json:"retention"`
}

// Status asks what the log holds; text is the whole answer.
func (s *Server) Status(ctx context.Context) (st Status, text json.RawMessage, err error) {
	if err := s.get(ctx, "/history/status", nil, &text); err != nil {
		return Status{}, nil, err
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return Status{}, nil, fmt.Errorf("history status: %w", err)
	}
	return st, text, nil
}

// Query chooses events. Nil fields are any; Since and Until are instants or empty.
type Query struct {
	Group, Resource, Namespace, Name *string
	Since, Until                     string
	// Behind begins behind a place, instead of at Since.
	Behind *Place
	follow bool
}

// Place is a place between events: behind one of a revision, or behind all of it.
type Place struct {
	Rev   int64
	Ord   int
	Whole bool
}

// BehindRev is the place behind all events of a revision.
func BehindRev(rev int64) *Place { return &Place{Rev: rev, Whole: true} }

func (p Place) text() string {
	if p.Whole {
		return strconv.FormatInt(p.Rev, 10)
	}
	return fmt.Sprintf("%d.%d", p.Rev, p.Ord)
}

// QueryOf asks for the events of one object.
func QueryOf(key schemas.Key) Query {
	return Query{Group: &key.Group, Resource: &key.Resource, Namespace: &key.Namespace, Name: &key.Name}
}

func (q Query) values() url.Values {
	v := url.Values{}
	for name, field := range map[string]*string{"group": q.Group, "resource": q.Resource, "namespace": q.Namespace, "name": q.Name} {
		if field != nil {
			v.Set(name, *field)
		}
	}
	for name, text := range map[string]string{"since": q.Since, "until": q.Until} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.follow {
		v.Set("follow", "true")
	}
	return v
}

// Events hands the events that the caller may see to fn, in order.
func (s *Server) Events(ctx context.Context, q Query, fn func(schemas.Event) error) error {
	body, err := s.events(ctx, q)
	if err != nil {
		return err
	}
	return s.read(ctx, body, fn)
}

func (s *Server) events(ctx context.Context, q Query) (io.ReadCloser, error) {
	r, err := s.request(ctx, "/history/events", q.values())
	if err != nil {
		return nil, err
	}
	if q.Behind != nil {
		r.Header.Set("Last-Event-ID", q.Behind.text())
	}
	return s.answer(r)
}

// State hands the objects at an instant to fn, as they are stored, in the order of their
// keys: those that the caller may see.
func (s *Server) State(ctx context.Context, instant string, fn func(schemas.Event) error) error {
	return s.state(ctx, url.Values{"at": {instant}}, fn)
}

func (s *Server) state(ctx context.Context, query url.Values, fn func(schemas.Event) error) error {
	body, err := s.open(ctx, "/history/state", query)
	if err != nil {
		return err
	}
	return s.read(ctx, body, fn)
}

// read hands the events of an answer to fn, and closes it.
func (s *Server) read(ctx context.Context, body io.ReadCloser, fn func(schemas.Event) error) error {
	defer body.Close()
	lines := json.NewDecoder(body)
	for {
		var e schemas.Event
		err := lines.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if e.Type == "ERROR" {
			var status metav1.Status
			if err := json.Unmarshal(e.Object, &status); err != nil {
				return fmt.Errorf("events ended with an error that can't be read: %w", err)
			}
			return &apierrors.StatusError{ErrStatus: status}
		}
		if err := s.complete(ctx, &e); err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// complete fetches an object that was too large for the bus. One that is not held any
// more stays away.
func (s *Server) complete(ctx context.Context, e *schemas.Event) error {
	if e.DataRef == "" || len(e.Object) > 0 {
		return nil
	}
	var object json.RawMessage
	err := s.get(ctx, e.DataRef, nil, &object)
	if err != nil && !gone(err) {
		return err
	}
	e.Object = schemas.WithoutValues(e.Key, object) // the API opens Secrets, events never do
	return nil
}

// NotHeld reports that an instant was refused because it lies before all that is held, or in
// a gap.
func NotHeld(err error) bool { return expired(err) }

// Lost reports that an instant was refused because it lies in a gap.
func Lost(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Type == "GapFrom" })
}

// gone reports that something is not held, or was never there.
func gone(err error) bool {
	return apierrors.IsNotFound(err) || expired(err)
}

func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// At lists the events of one revision; none if it is not held.
func (s *Server) At(ctx context.Context, rev int64) ([]schemas.Event, error) {
	return s.list(ctx, Query{Since: RevText(rev), Until: RevText(rev)}, false)
}

// Of lists the events of one object up to a revision, with the gaps that hide changes of it.
// A state that only such a gap can have led to is an event with Resync, which tells nobody
// who made it; of DELETED it is the last state that is known.
func (s *Server) Of(ctx context.Context, key schemas.Key, until int64) ([]schemas.Event, error) {
	q := QueryOf(key)
	q.Until = RevText(until)
	events, err := s.list(ctx, q, true)
	n := len(events)
	if err != nil || n == 0 || !events[n-1].Lost() {
		return hiding(events), err
	}
	now, held, err := s.lookUp(ctx, RevText(until), key)
	if err != nil || !held {
		return hiding(events), err
	}
	if now.Rev != 0 && now.Rev <= events[n-1].PrevRev {
		return hiding(events[:n-1]), nil
	}
	return append(hiding(events), unseen(key, events, now, until)...), nil
}

// hiding leaves out the gaps across which the object stayed as it was: its next event says
// which state came before.
func hiding(events []schemas.Event) []schemas.Event {
	var out []schemas.Event
	for i, e := range events {
		if e.Type == schemas.Gap && i+1 < len(events) {
			next := events[i+1]
			if next.Type != schemas.Gap && next.PrevRev != 0 && next.PrevRev <= e.PrevRev {
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// unseen stands for what a gap behind an object's events hides, if it hides anything: now is
// the object at a revision behind the gap.
func unseen(key schemas.Key, events []schemas.Event, now schemas.Event, until int64) []schemas.Event {
	var last schemas.Event
	for _, e := range events {
		if e.Type != schemas.Gap {
			last = e
		}
	}
	there := last.Rev != 0 && last.Type != schemas.Deleted
	found := schemas.Event{Rev: now.Rev, Cnt: 1, Type: schemas.Modified, Key: key, Object: now.Object, Resync: until}
	switch {
	case now.Rev == 0 && there:
		found.Rev, found.Type, found.Object = until, schemas.Deleted, last.Object
	case now.Rev == 0:
		return nil
	case last.Rev == 0 || last.Type == schemas.Deleted:
		found.Type = schemas.Added
	}
	return []schemas.Event{found}
}

// Since lists the events of one object behind a revision, with the gaps that hide changes
// of it.
func (s *Server) Since(ctx context.Context, key schemas.Key, behind int64) ([]schemas.Event, error) {
	q := QueryOf(key)
	q.Since = RevText(behind + 1)
	events, err := s.list(ctx, q, true)
	return hiding(events), err
}

func (s *Server) list(ctx context.Context, q Query, gaps bool) ([]schemas.Event, error) {
	var out []schemas.Event
	err := s.Events(ctx, q, func(e schemas.Event) error {
		if e.Type != schemas.Gap || gaps && e.Lost() {
			out = append(out, e)
		}
		return nil
	})
	if err != nil && !gone(err) {
		return nil, err
	}
	return out, nil
}

// Before is the event of the same object before another one; Rev is 0 if it is not held.
// Of a change whose event is not held any more, it is the state that it left, if that is.
func (s *Server) Before(ctx context.Context, e schemas.Event) (schemas.Event, error) {
	if e.PrevRev == 0 {
		return schemas.Event{}, nil
	}
	q := QueryOf(e.Key)
	q.Since, q.Until = RevText(e.PrevRev), RevText(e.PrevRev)
	events, err := s.list(ctx, q, false)
	if err != nil {
		return schemas.Event{}, err
	}
	if len(events) == 0 {
		return s.stored(ctx, RevText(e.Rev-1), e.Key)
	}
	return events[len(events)-1], nil
}

// stored is an object as it was stored at an instant; Rev is 0 if that is not held.
func (s *Server) stored(ctx context.Context, instant string, key schemas.Key) (schemas.Event, error) {
	found, _, err := s.lookUp(ctx, instant, key)
	return found, err
}

// lookUp is an object as it was stored at an instant; Rev is 0 if it was not there. held is
// false if the instant is not held, or not the caller's to see.
func (s *Server) lookUp(ctx context.Context, instant string, key schemas.Key) (found schemas.Event, held bool, err error) {
	query := QueryOf(key).values()
	query.Set("at", instant)
	err = s.state(ctx, query, func(e schemas.Event) error {
		if e.Key == key {
			found = e
		}
		return nil
	})
	if gone(err) || apierrors.IsForbidden(err) { // who may watch may still not list
		return schemas.Event{}, false, nil
	}
	return found, err == nil, err
}
