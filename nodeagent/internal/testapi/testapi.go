// Package testapi is a small API server for tests of the node agent: objects
// in memory over real HTTP, so that agents in other processes can use it too.
// It keeps revisions, merges status patches and deletes gracefully as far as a
// node agent can tell, and streams pods and object changes.
package testapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/schemas"
)

// Event is one line of the stream.
type Event struct {
	Type string        `json:"type"` // SYNC, UPSERT, REMOVE, CHANGED
	Rev  int64         `json:"rev"`
	Pod  *corev1.Pod   `json:"pod,omitempty"`
	Pods []*corev1.Pod `json:"pods,omitempty"`
	Kind string        `json:"kind,omitempty"`
	NS   string        `json:"ns,omitempty"`
	Name string        `json:"name,omitempty"`
}

// Write is one write that a client made.
type Write struct {
	Verb, Path string
	Cause      string // header Rutter-Cause
	Body       []byte
}

// Server is the API server.
type Server struct {
	HTTP *httptest.Server

	mu      sync.Mutex
	rev     int64
	objects map[string]map[string]any // by path; guarded by mu
	subs    map[chan Event]struct{}   // guarded by mu
	changed chan struct{}             // closed and replaced at every write; guarded by mu
	writes  []Write                   // guarded by mu
	away    bool                      // every request fails; guarded by mu
	tokens  int                       // how many were issued; guarded by mu
}

// New starts a server.
func New() *Server {
	s := &Server{objects: map[string]map[string]any{}, subs: map[chan Event]struct{}{}, changed: make(chan struct{})}
	s.HTTP = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Close ends the server.
func (s *Server) Close() {
	s.mu.Lock()
	for c := range s.subs {
		close(c)
		delete(s.subs, c)
	}
	s.mu.Unlock()
	s.HTTP.CloseClientConnections()
	s.HTTP.Close()
}

// Client returns a client of a server at url.
func Client(url string) (kubernetes.Interface, error) {
	return kubernetes.NewForConfig(&rest.Config{Host: url, QPS: -1, WrapTransport: schemas.CauseTransport, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
}

// SetAway makes every request fail, or not.
func (s *Server) SetAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// Writes returns the writes so far whose path contains part.
func (s *Server) Writes(part string) []Write {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Write
	for _, w := range s.writes {
		if strings.Contains(w.Path, part) {
			out = append(out, w)
		}
	}
	return out
}

// Await returns when cond holds; it is asked after every write. It fails when
// ctx ends.
func (s *Server) Await(ctx context.Context, cond func() bool) error {
	for {
		s.mu.Lock()
		next := s.changed
		s.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Get reads an object by its path, such as namespaces/a/pods/b, into out.
func (s *Server) Get(path string, out any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[path]
	if !ok {
		return false
	}
	convert(o, out)
	return true
}

// Put creates or replaces an object as a user would.
func (s *Server) Put(path string, obj any) {
	var o map[string]any
	convert(obj, &o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(path, o)
}

// DeletePod asks for a pod's graceful deletion as a user would.
func (s *Server) DeletePod(namespace, name string, grace int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := "namespaces/" + namespace + "/pods/" + name
	var pod corev1.Pod
	convert(s.objects[path], &pod)
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
	var o map[string]any
	convert(pod, &o)
	s.store(path, o)
}

// Drop removes an object at once.
func (s *Server) Drop(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(path)
}

func convert(in, out any) {
	data, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		panic(err)
	}
}

// store writes an object; s.mu is held.
func (s *Server) store(path string, o map[string]any) {
	s.rev++
	u := unstructured.Unstructured{Object: o}
	u.SetResourceVersion(strconv.FormatInt(s.rev, 10))
	if u.GetUID() == "" {
		u.SetUID(types.UID(fmt.Sprintf("uid-%d", s.rev)))
	}
	if u.GetCreationTimestamp().Time.IsZero() {
		u.SetCreationTimestamp(metav1.Now())
	}
	s.objects[path] = o
	s.tell(path, o, "UPSERT")
}

func (s *Server) drop(path string) {
	o, ok := s.objects[path]
	if !ok {
		return
	}
	s.rev++
	delete(s.objects, path)
	s.tell(path, o, "REMOVE")
}

// tell streams a change; s.mu is held.
func (s *Server) tell(path string, o map[string]any, kind string) {
	close(s.changed)
	s.changed = make(chan struct{})
	parts := strings.Split(path, "/")
	if len(parts) != 4 {
		return
	}
	ev := Event{Rev: s.rev, NS: parts[1], Name: parts[3]}
	switch parts[2] {
	case "pods":
		ev.Type, ev.Pod = kind, &corev1.Pod{}
		convert(o, ev.Pod)
	case "configmaps":
		ev.Type, ev.Kind = "CHANGED", "ConfigMap"
	case "secrets":
		ev.Type, ev.Kind = "CHANGED", "Secret"
	default:
		return
	}
	for c := range s.subs {
		c <- ev
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/stream" {
		s.stream(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	path := r.URL.Path
	for _, prefix := range []string{"/api/v1/", "/apis/coordination.k8s.io/v1/", "/apis/authentication.k8s.io/v1/", "/apis/authorization.k8s.io/v1/"} {
		path = strings.TrimPrefix(path, prefix)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	if r.Method != http.MethodGet {
		s.writes = append(s.writes, Write{r.Method, path, r.Header.Get("Rutter-Cause"), body})
	}
	status, answer := s.answer(r, path, body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func notFound(path string) (int, any) {
	e := apierrors.NewNotFound(schema.GroupResource{Resource: "objects"}, path)
	return http.StatusNotFound, e.ErrStatus
}

func (s *Server) answer(r *http.Request, path string, body []byte) (int, any) {
	target := strings.TrimSuffix(path, "/status")
	switch {
	case strings.HasSuffix(path, "/token"):
		return http.StatusCreated, s.token(body)
	case path == "tokenreviews":
		return http.StatusCreated, review(body)
	case path == "subjectaccessreviews":
		return http.StatusCreated, access(body)
	case r.Method == http.MethodGet:
		if o, ok := s.objects[path]; ok {
			return http.StatusOK, o
		}
		return notFound(path)
	case r.Method == http.MethodPost:
		var o map[string]any
		mustJSON(body, &o)
		u := unstructured.Unstructured{Object: o}
		name := u.GetName()
		if _, exists := s.objects[path+"/"+name]; exists {
			e := apierrors.NewAlreadyExists(schema.GroupResource{Resource: path}, name)
			return http.StatusConflict, e.ErrStatus
		}
		s.store(path+"/"+name, o)
		return http.StatusCreated, o
	case r.Method == http.MethodPut:
		return s.update(target, body)
	case r.Method == http.MethodPatch:
		return s.patch(target, body)
	case r.Method == http.MethodDelete:
		o, ok := s.objects[path]
		if !ok {
			return notFound(path)
		}
		s.drop(path)
		return http.StatusOK, o
	default:
		return http.StatusMethodNotAllowed, metav1.Status{}
	}
}

func mustJSON(body []byte, out any) {
	if err := json.Unmarshal(body, out); err != nil {
		panic(err)
	}
}

func (s *Server) update(path string, body []byte) (int, any) {
	have, ok := s.objects[path]
	if !ok {
		return notFound(path)
	}
	var o map[string]any
	mustJSON(body, &o)
	want := (&unstructured.Unstructured{Object: o}).GetResourceVersion()
	if is := (&unstructured.Unstructured{Object: have}).GetResourceVersion(); want != "" && want != is {
		e := apierrors.NewConflict(schema.GroupResource{}, path, fmt.Errorf("revision %s, not %s", is, want))
		return http.StatusConflict, e.ErrStatus
	}
	s.store(path, o)
	return http.StatusOK, o
}

func (s *Server) patch(path string, body []byte) (int, any) {
	o, ok := s.objects[path]
	if !ok {
		return notFound(path)
	}
	if !strings.Contains(path, "/pods/") {
		o = merge(o, body, corev1.Event{})
	} else {
		uid := struct{ Metadata struct{ UID string } }{}
		mustJSON(body, &uid)
		if is := string((&unstructured.Unstructured{Object: o}).GetUID()); uid.Metadata.UID != "" && uid.Metadata.UID != is {
			e := apierrors.NewConflict(schema.GroupResource{}, path, fmt.Errorf("uid %s", is))
			return http.StatusConflict, e.ErrStatus
		}
		o = merge(o, body, corev1.Pod{})
	}
	s.store(path, o)
	return http.StatusOK, o
}

func merge(o map[string]any, patch []byte, kind any) map[string]any {
	before, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, kind)
	if err != nil {
		panic(err)
	}
	var out map[string]any
	mustJSON(after, &out)
	return out
}

func (s *Server) token(body []byte) any {
	var t authnv1.TokenRequest
	mustJSON(body, &t)
	s.tokens++
	t.Status.Token = fmt.Sprintf("token-%d-for-%s", s.tokens, t.Spec.BoundObjectRef.Name)
	t.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*t.Spec.ExpirationSeconds) * time.Second))
	return t
}

// review knows the tokens good (who may do all) and poor (who may do nothing).
func review(body []byte) any {
	var t authnv1.TokenReview
	mustJSON(body, &t)
	t.Status.Authenticated = t.Spec.Token == "good" || t.Spec.Token == "poor"
	t.Status.User.Username = t.Spec.Token
	return t
}

func access(body []byte) any {
	var a authzv1.SubjectAccessReview
	mustJSON(body, &a)
	a.Status.Allowed = a.Spec.User == "good"
	return a
}

// stream sends the pods of a node, then every change, one JSON value a line.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	node := r.URL.Query().Get("node")
	c := make(chan Event, 10000)
	s.mu.Lock()
	sync := Event{Type: "SYNC", Rev: s.rev}
	for path, o := range s.objects {
		if strings.Contains(path, "/pods/") {
			p := &corev1.Pod{}
			convert(o, p)
			if p.Spec.NodeName == node {
				sync.Pods = append(sync.Pods, p)
			}
		}
	}
	s.subs[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, c)
	}()
	enc, rc := json.NewEncoder(w), http.NewResponseController(w)
	send := func(e Event) bool { return enc.Encode(e) == nil && rc.Flush() == nil }
	if !send(sync) {
		return
	}
	for {
		select {
		case e, ok := <-c:
			if !ok || (e.Pod == nil || e.Pod.Spec.NodeName == node) && !send(e) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
