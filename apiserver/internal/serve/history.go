package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/schemas"
)

const (
	historyPrefix  = "/history/"
	historyEvents  = historyPrefix + "events"
	historyState   = historyPrefix + "state"
	historyStatus  = historyPrefix + "status"
	historyInstant = historyPrefix + "instant"
)

// withHistory answers below /history/. Any authenticated user may ask; what he sees is
// decided event by event.
func (c Config) withHistory(next http.Handler) http.Handler {
	serve := map[string]func(w http.ResponseWriter, r *http.Request) error{
		historyEvents:  c.events,
		historyState:   c.state,
		historyStatus:  c.historyStatus,
		historyInstant: c.instant,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := serve[r.URL.Path]
		if !ok || visitOf(r.Context()) != nil {
			next.ServeHTTP(w, r)
			return
		}
		who, known := request.UserFrom(r.Context())
		var err error
		switch {
		case !known || !slices.Contains(who.GetGroups(), user.AllAuthenticated):
			err = apierrors.NewUnauthorized("history is for authenticated users")
		case r.Method != http.MethodGet:
			err = apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "history"}, strings.ToLower(r.Method))
		case c.History == nil:
			err = errNoHistory
		default:
			err = answer(w, r)
		}
		if err != nil {
			refuse(w, r, pastError(err))
		}
	})
}

func writeJSON(w http.ResponseWriter, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // a client that is gone needs no answer
	return nil
}

func (c Config) historyStatus(w http.ResponseWriter, r *http.Request) error {
	if err := onlyParameters(r.URL.Query()); err != nil {
		return err
	}
	status, err := c.History.Status(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, status)
}

// resolved is what an instant means.
type resolved struct {
	At string `json:"at"`
	history.Instant
}

func (c Config) instant(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if err := onlyParameters(query, "at"); err != nil {
		return err
	}
	if !query.Has("at") {
		return badParameter(query, "at", history.Forms)
	}
	point, err := history.ParsePoint(query.Get("at"), c.History.Now())
	if err != nil {
		return badParameter(query, "at", history.Forms)
	}
	found, err := c.History.Resolve(r.Context(), point)
	if err != nil {
		return err
	}
	return writeJSON(w, resolved{At: point.Text, Instant: found})
}

func onlyParameters(query url.Values, known ...string) error {
	for name, values := range query {
		if !slices.Contains(known, name) {
			return apierrors.NewBadRequest(fmt.Sprintf("parameter %q is not known; known are: %s", name, strings.Join(known, ", ")))
		}
		if len(values) > 1 {
			return apierrors.NewBadRequest(fmt.Sprintf("parameter %q is given %d times", name, len(values)))
		}
	}
	return nil
}

// eventsRequest is a parsed request for events.
type eventsRequest struct {
	history.Query
	limit int // 0 for none
	sse   bool
}

func parseEvents(r *http.Request, now time.Time) (eventsRequest, error) {
	query := r.URL.Query()
	if err := onlyParameters(query, "group", "resource", "namespace", "name", "since", "until", "follow", "limit"); err != nil {
		return eventsRequest{}, err
	}
	q := eventsRequest{sse: strings.Contains(r.Header.Get("Accept"), "text/event-stream")}
	var err error
	if q.Key, err = keyParameters(query); err != nil {
		return eventsRequest{}, err
	}
	if query.Has("follow") {
		if q.Follow, err = strconv.ParseBool(query.Get("follow")); err != nil {
			return eventsRequest{}, badParameter(query, "follow", "true or false")
		}
	}
	if query.Has("limit") {
		if q.limit, err = strconv.Atoi(query.Get("limit")); err != nil || q.limit < 1 {
			return eventsRequest{}, badParameter(query, "limit", "a number above 0")
		}
	}
	if q.Since, err = pointParameter(query, "since", now); err != nil {
		return eventsRequest{}, err
	}
	if q.Until, err = pointParameter(query, "until", now); err != nil {
		return eventsRequest{}, err
	}
	if q.Until != nil && q.Follow {
		return eventsRequest{}, apierrors.NewBadRequest(`parameter "until" can't be given with follow=true, which has no end`)
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		q.Behind, err = parsePlace(id)
	}
	return q, err
}

func pointParameter(query url.Values, name string, now time.Time) (*history.Point, error) {
	if !query.Has(name) {
		return nil, nil
	}
	point, err := history.ParsePoint(query.Get(name), now)
	if err != nil {
		return nil, badParameter(query, name, history.Forms)
	}
	return &point, nil
}

// parsePlace reads an SSE id, revision.ordinal, or a revision for the whole of it.
func parsePlace(id string) (*history.Place, error) {
	rev, ord, one := strings.Cut(id, ".")
	p := history.Place{Whole: !one}
	var revErr, ordErr error
	p.Rev, revErr = strconv.ParseInt(rev, 10, 64)
	if one {
		p.Ord, ordErr = strconv.Atoi(ord)
	}
	if revErr != nil || ordErr != nil || p.Rev < 0 || p.Ord < 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("header Last-Event-ID: %q is not valid; want <revision>.<ordinal>, or <revision> for all of it", id))
	}
	return &p, nil
}

// events streams what happened.
func (c Config) events(w http.ResponseWriter, r *http.Request) error {
	q, err := parseEvents(r, c.History.Now())
	if err != nil {
		return err
	}
	who, _ := request.UserFrom(r.Context())
	may := &permissions{authz: c.Authorizer, who: who, verb: "watch", name: q.Key.Name}
	if err := may.checkNamed(r.Context(), q.Key); err != nil {
		return err
	}
	served := c.serves(q.Key)
	if !served && q.Follow {
		warning.AddWarning(r.Context(), "", notServed(q.Key))
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	out := newEventStream(w, q.sse, cancel)
	defer out.close()
	q.Ready = out.ready
	told, left := false, q.limit
	err = c.History.Events(ctx, q.Query, func(e schemas.Event) error {
		gap := e.Type == schemas.Gap
		if !gap && !may.see(ctx, e.Key) {
			return nil
		}
		told = true
		if err := out.event(e); err != nil || gap {
			return err
		}
		if left--; left == 0 { // a limit of 0 is none
			return history.ErrStop
		}
		return nil
	})
	if cause := context.Cause(ctx); cause != nil && r.Context().Err() == nil {
		err = cause
	}
	if err == nil && !told && !served {
		err = unknown(q.Key)
	}
	if err != nil && out.refuse() {
		return err
	}
	if err != nil && r.Context().Err() == nil {
		out.fail(err)
	}
	return nil
}

// serves tells that what a key names, whose fields may be schemas.AnyToken, is served at
// present.
func (c Config) serves(key schemas.Key) bool {
	has := func(group string, all []apidiscovery.APIResourceDiscovery) bool {
		return (key.Group == schemas.AnyToken || key.Group == group) && (key.Resource == schemas.AnyToken ||
			slices.ContainsFunc(all, func(r apidiscovery.APIResourceDiscovery) bool { return r.Resource == key.Resource }))
	}
	for _, v := range c.API.Versions {
		if has(v.Group, v.Resources) {
			return true
		}
	}
	return slices.ContainsFunc(c.Custom.Discovery(), func(v Announced) bool { return has(v.Group, v.Resources) })
}

func notServed(key schemas.Key) string {
	what := fmt.Sprintf("resource %q", key.Resource)
	switch {
	case key.Resource == schemas.AnyToken:
		what = fmt.Sprintf("group %q", key.Group)
	case key.Group != schemas.AnyToken:
		what += fmt.Sprintf(" of group %q", key.Group)
	}
	return what + " is not served at present"
}

// unknown refuses what neither the present nor the past that was asked for knows: it is
// more likely a slip than an empty answer.
func unknown(key schemas.Key) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: notServed(key) + ", and nothing of it is held that you may see; resources are named as in discovery, such as deployments of the group apps",
	}}
}

// permissions are what a user may watch, or list, today (invariant 9), asked once in a while for
// each resource and namespace.
type permissions struct {
	authz authorizer.UnconditionalAuthorizer
	who   user.Info
	verb  string
	name  string // the one name that is asked for, or schemas.AnyToken

	asked time.Time
	known map[schemas.Key]bool // by group, resource and namespace
}

// permissionLife is after how long a permission is looked up again.
const permissionLife = 10 * time.Second

// checkNamed refuses a request for one resource that the user may not watch anywhere it
// asks for. Without a namespace, some may be open.
func (p *permissions) checkNamed(ctx context.Context, key schemas.Key) error {
	if key.Group == schemas.AnyToken || key.Resource == schemas.AnyToken || key.Namespace == schemas.AnyToken || p.see(ctx, key) {
		return nil
	}
	name := p.name
	if name == schemas.AnyToken {
		name = ""
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: key.Group, Resource: key.Resource}, name,
		fmt.Errorf("user %q cannot %s it in namespace %q, and so not its history", p.who.GetName(), p.verb, key.Namespace))
}

func (p *permissions) see(ctx context.Context, key schemas.Key) bool {
	if now := time.Now(); now.Sub(p.asked) > permissionLife {
		p.asked, p.known = now, map[schemas.Key]bool{}
	}
	key.Name = ""
	allowed, ok := p.known[key]
	if !ok {
		allowed = p.ask(ctx, key)
		p.known[key] = allowed
	}
	return allowed
}

func (p *permissions) ask(ctx context.Context, key schemas.Key) bool {
	attributes := authorizer.AttributesRecord{
		User: p.who, Verb: p.verb, APIGroup: key.Group, APIVersion: "*", Resource: key.Resource, Namespace: key.Namespace, ResourceRequest: true,
	}
	if p.name != schemas.AnyToken {
		attributes.Name = p.name
	}
	decision, _, err := p.authz.Authorize(ctx, attributes)
	return err == nil && decision == authorizer.DecisionAllow
}

const (
	// heartbeatEvery is how often an idle SSE stream shows that it is there.
	heartbeatEvery = 15 * time.Second
	// stallLimit is how long a client may leave the connection full. After that it has
	// stallGrace to take the event that says so.
	stallLimit = 30 * time.Second
	stallGrace = 10 * time.Second
	// eventsPerFlush is how much goes out at a time while there is more.
	bytesPerFlush = 32 << 10
)

var errStalled = errors.New("the client has not read for too long; begin again after the last event")

// eventStream writes events to one client. What is not written yet is bounded: the
// reader of the log waits for the connection. A goroutine of its own flushes what is
// left when nothing follows, sends heartbeats, and cuts a client off that does not read.
type eventStream struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	sse    bool
	cancel context.CancelCauseFunc
	stop   chan struct{}
	done   chan struct{}

	mu      sync.Mutex // held while writing
	begun   bool       // guarded by mu
	refused bool       // somebody else answers; guarded by mu
	buf     bytes.Buffer
	writing chan time.Time // has the time at which a write began, while it lasts
	follows atomic.Bool    // nothing that happens from now on is missed
}

func newEventStream(w http.ResponseWriter, sse bool, cancel context.CancelCauseFunc) *eventStream {
	s := &eventStream{w: w, rc: http.NewResponseController(w), sse: sse, cancel: cancel,
		stop: make(chan struct{}), done: make(chan struct{}), writing: make(chan time.Time, 1)}
	go s.tend()
	return s
}

// ready lets the response begin although there is no event yet.
func (s *eventStream) ready() { s.follows.Store(true) }

// close flushes and waits for the stream's goroutine.
func (s *eventStream) close() {
	s.mu.Lock()
	_ = s.flush() // the client may be gone
	s.mu.Unlock()
	close(s.stop)
	<-s.done
}

// refuse leaves the response to the caller, if nothing has been sent.
func (s *eventStream) refuse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = !s.begun
	return s.refused
}

// begin sends the response's header. The caller holds mu.
func (s *eventStream) begin() {
	if s.begun {
		return
	}
	s.begun = true
	kind := "application/x-ndjson"
	if s.sse {
		kind = "text/event-stream"
	}
	s.w.Header().Set("Content-Type", kind)
	s.w.Header().Set("Cache-Control", "no-store")
	s.w.WriteHeader(http.StatusOK)
}

func (s *eventStream) event(e schemas.Event) error {
	line, err := json.Marshal(redacted(e))
	if err != nil {
		return fmt.Errorf("event of revision %d: %w", e.Rev, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.sse && e.Seq == 0: // a gap that was found while reading is no place to begin behind
		fmt.Fprintf(&s.buf, "event: %s\ndata: %s\n\n", e.Type, line)
	case s.sse:
		fmt.Fprintf(&s.buf, "id: %d.%d\nevent: %s\ndata: %s\n\n", e.Rev, e.Ord, e.Type, line)
	default:
		s.buf.Write(line)
		s.buf.WriteByte('\n')
	}
	if s.buf.Len() < bytesPerFlush {
		return nil
	}
	return s.flush()
}

// flush writes what has gathered. The caller holds mu.
func (s *eventStream) flush() error {
	if s.refused {
		return nil
	}
	s.begin()
	s.writing <- time.Now()
	defer func() { <-s.writing }()
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	if err == nil {
		err = s.rc.Flush()
	}
	return err
}

// flushDelay is how long an event may wait for others.
const flushDelay = 5 * time.Millisecond

// tend looks after the stream while nobody writes.
func (s *eventStream) tend() {
	defer close(s.done)
	tick := time.NewTicker(flushDelay)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			if !s.mu.TryLock() {
				s.watchStall(now)
				continue
			}
			if s.sse && now.Sub(last) >= heartbeatEvery {
				last = now
				s.buf.WriteString(": still here\n\n")
			}
			if s.buf.Len() > 0 || (s.follows.Load() && !s.begun) {
				if err := s.flush(); err != nil {
					s.cancel(err)
				}
			}
			s.mu.Unlock()
		}
	}
}

// watchStall cuts off a client that has not read for too long: no further event is sent
// to it but the one that says so, if it takes that in time.
func (s *eventStream) watchStall(now time.Time) {
	select {
	case began := <-s.writing:
		s.writing <- began
		if now.Sub(began) < stallLimit {
			return
		}
		s.cancel(errStalled)
		_ = s.rc.SetWriteDeadline(began.Add(stallLimit + stallGrace))
	default:
	}
}

// fail ends the stream with what went wrong.
func (s *eventStream) fail(err error) {
	err = pastError(err)
	status := apierrors.NewInternalError(err).Status()
	var known apierrors.APIStatus
	switch {
	case errors.As(err, &known):
		status = known.Status()
	case errors.Is(err, errStalled):
		status = apierrors.NewTimeoutError(err.Error(), 0).Status()
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	line, err := json.Marshal(map[string]any{"type": "ERROR", "object": status})
	if err != nil {
		return // a Status always encodes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sse {
		fmt.Fprintf(&s.buf, "event: ERROR\ndata: %s\n\n", line)
		return
	}
	s.buf.Write(line)
	s.buf.WriteByte('\n')
}

// redacted hides what only those see who read the object itself (invariant 8): of a
// sealed object, the metadata remain.
func redacted(e schemas.Event) schemas.Event {
	e.Object = schemas.WithoutValues(e.Key, e.Object)
	return e
}
