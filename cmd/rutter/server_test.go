package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/schemas"
)

// fakeServer answers as the API server does, from a story of events.
type fakeServer struct {
	events []schemas.Event
	refuse map[string]string // why lists are refused, by resource
	behind int64             // by how many revisions and seconds the stream lags
	unwell string            // a check of readiness that fails
	epoch  string            // of the stream, if it is not c1.1
	asked  []string          // queries for events
}

var storyBegan = time.Date(2026, 1, 2, 15, 4, 0, 0, time.UTC)

// storyAt is when a revision was: a second for each.
func storyAt(rev int64) time.Time { return storyBegan.Add(time.Duration(rev) * time.Second) }

// change makes an event of the story; who is "user manager".
func change(rev, prev int64, kind schemas.EventType, key, who, verb, object string, cause ...int64) schemas.Event {
	user, manager, _ := strings.Cut(who, " ")
	k, err := schemas.ParseKey(key)
	if err != nil {
		panic(err)
	}
	return schemas.Event{Rev: rev, Cnt: 1, Type: kind, PrevRev: prev, Key: k, Object: []byte(object), Epoch: "c1.1",
		Header: schemas.Header{V: 1, Time: storyAt(rev), User: user, Manager: manager, Verb: verb, Cause: cause}}
}

const (
	deployKey = "apps/deployments/shop/web"
	rsKey     = "apps/replicasets/shop/web-1"
	podKey    = "core/pods/shop/web-1-a"
)

// story is a deployment that alice makes and bob scales to nothing.
func story() []schemas.Event {
	deploy := func(replicas, generation int, image string) string {
		return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop","uid":"d","generation":%d},"spec":{"replicas":%d,"template":{"spec":{"containers":[{"name":"web","image":"%s"}]}}}}`, generation, replicas, image)
	}
	rs := func(replicas int, image string) string {
		return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"web-1","namespace":"shop","uid":"r","generation":%d,"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"web","uid":"d","controller":true}]},"spec":{"replicas":%d}}`, 3-replicas, replicas)
	}
	pod := func(meta, node, status string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-1-a","namespace":"shop","uid":"p",%s"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"r","controller":true}]},"spec":{%s"containers":[{"name":"web"}]},"status":{"phase":"%s"}}`, meta, node, status)
	}
	decision := `"annotations":{"scheduler.rutter.dev/decision":"{\"node\":\"n1\",\"rev\":7,\"nodes\":3,\"feasible\":2,\"rejected\":{\"Insufficient cpu\":1},\"scores\":{\"LeastAllocated\":40}}"},`
	gone := `"deletionTimestamp":"2026-01-02T15:04:32Z",` + decision
	onNode := `"nodeName":"n1",`
	return []schemas.Event{
		change(5, 0, schemas.Added, "core/namespaces/shop", "alice kubectl-create", "create", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","uid":"n"}}`),
		change(6, 0, schemas.Added, "core/secrets/shop/db", "alice kubectl-create", "create", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"db","namespace":"shop","uid":"s"},"data":{"password":"b25l"}}`),
		change(10, 0, schemas.Added, deployKey, "alice kubectl-create", "create", deploy(1, 1, "web:1")),
		change(11, 0, schemas.Added, rsKey, "rutter:reconcilers deployment-controller", "create", rs(1, "web:1"), 10),
		change(12, 0, schemas.Added, podKey, "rutter:reconcilers replicaset-controller", "create", pod("", "", "Pending"), 11),
		change(13, 12, schemas.Modified, podKey, "rutter:scheduler scheduler", "create", pod(decision, onNode, "Pending"), 12),
		change(15, 13, schemas.Modified, podKey, "system:node:n1 rutter-node", "patch", pod(decision, onNode, "Running"), 13),
		change(25, 6, schemas.Modified, "core/secrets/shop/db", "bob kubectl", "patch", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"db","namespace":"shop","uid":"s"},"data":{"password":"dHdv"}}`),
		change(30, 10, schemas.Modified, deployKey, "bob kubectl", "patch", deploy(0, 2, "web:1")),
		change(31, 11, schemas.Modified, rsKey, "rutter:reconcilers deployment-controller", "update", rs(0, "web:1"), 30),
		change(32, 15, schemas.Modified, podKey, "rutter:reconcilers replicaset-controller", "delete", pod(gone, onNode, "Running"), 31),
		change(33, 32, schemas.Deleted, podKey, "system:node:n1 rutter-node", "delete", pod(gone, onNode, "Running"), 32),
		change(40, 30, schemas.Modified, deployKey, "carol helm", "update", deploy(0, 3, "web:2")),
	}
}

// startStory serves the story and points KUBECONFIG at it.
func startStory(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{events: story()}
	server := httptest.NewServer(f)
	t.Cleanup(func() {
		server.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	path := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, []byte(`apiVersion: v1
kind: Config
clusters: [{name: prod, cluster: {server: "`+server.URL+`"}}]
users: [{name: jane, user: {}}]
contexts: [{name: prod-jane, context: {cluster: prod, user: jane, namespace: shop}}]
current-context: prod-jane
`), 0o600))
	t.Setenv("KUBECONFIG", path)
	return f
}

func (f *fakeServer) newest() int64 { return f.events[len(f.events)-1].Rev }

// rev reads an instant. -1m is revision 20, what is older is not held.
func (f *fakeServer) rev(text string) (int64, bool) {
	if text == "now" {
		return f.newest(), true
	}
	if digits, ok := strings.CutPrefix(text, "rev-"); ok {
		rev, err := strconv.ParseInt(digits, 10, 64)
		return rev, err == nil && rev <= f.newest()
	}
	if text == "-1m" {
		return 20, true
	}
	if marks, err := schemas.MarksOf(f.state(f.newest())[schemas.Marks].Object); err == nil && marks[text] != "" {
		return f.rev(marks[text])
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return int64(at.Sub(storyBegan) / time.Second), err == nil && !at.Before(storyBegan) && at.Before(storyBegan.Add(time.Hour))
}

func answer(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body + "\n"))
}

func refused(w http.ResponseWriter, code int, reason, message string) {
	answer(w, code, fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":%q}`, reason, code, message))
}

const (
	groupsV1 = `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"apps","versions":[{"groupVersion":"apps/v1","version":"v1"}],"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}}]}`
	coreV1   = `{"kind":"APIResourceList","groupVersion":"v1","resources":[
		{"name":"namespaces","singularName":"namespace","kind":"Namespace","verbs":["get","list"],"shortNames":["ns"]},
		{"name":"secrets","singularName":"secret","namespaced":true,"kind":"Secret","verbs":["get","list"]},
		{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get","list"],"shortNames":["po"]},
		{"name":"pods/log","namespaced":true,"kind":"Pod","verbs":["get"]}]}`
	appsV1 = `{"kind":"APIResourceList","groupVersion":"apps/v1","resources":[
		{"name":"deployments","singularName":"deployment","namespaced":true,"kind":"Deployment","verbs":["get","list"],"shortNames":["deploy"]},
		{"name":"replicasets","singularName":"replicaset","namespaced":true,"kind":"ReplicaSet","verbs":["get","list"],"shortNames":["rs"]}]}`
)

// ServeHTTP implements http.Handler.
func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, rev := r.URL.Path, f.newest()
	if rest, ok := strings.CutPrefix(path, "/at/"); ok {
		text, rest, _ := strings.Cut(rest, "/")
		if rev, ok = f.rev(text); !ok {
			refused(w, http.StatusGone, "Expired", "not held")
			return
		}
		path = "/" + rest
	}
	switch {
	case strings.HasPrefix(path, marksPath) && r.Method != http.MethodGet:
		f.mark(w, r)
		return
	case r.Method == http.MethodPatch, r.Method == http.MethodPut:
		f.apply(w, r)
		return
	}
	switch path {
	case "/version":
		answer(w, 200, `{"gitVersion":"v1.37.2+rutter"}`)
	case "/readyz":
		f.ready(w)
	case "/metrics":
		_, _ = fmt.Fprintf(w, "# TYPE rutter_relay_position_revision gauge\nrutter_relay_position_revision %d\nrutter_relay_resyncs_total 0\nrutter_bus_mirror_lag_seconds{stream=\"ARCHIVE\"} 0\nrutter_bus_mirror_lag_seconds{stream=\"STATE\"} %d\n", f.newest()-f.behind, f.behind)
	case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
		answer(w, 201, `{"status":{"userInfo":{"username":"carol"}}}`)
	case "/history/instant":
		f.instant(w, r.URL.Query().Get("at"))
	case "/history/events":
		f.stream(w, r)
	case "/history/state":
		f.objects(w, r.URL.Query().Get("at"))
	case "/history/status":
		answer(w, 200, `{"epoch":"`+cmp.Or(f.epoch, "c1.1")+`","oldest":{"revision":5,"time":"2026-01-02T15:04:05Z"},"newest":{"revision":40,"time":"2026-01-02T15:04:40Z"},"events":13,"bytes":5000000,
			"keyframes":[{"revision":9,"time":"2026-01-02T15:04:09Z","objects":2,"bytes":300}],"packs":{"messages":2,"bytes":40000},"mended":{"events":3,"messages":1,"bytes":2048},
			"gaps":[{"from":{"revision":2,"time":"2026-01-02T15:04:02Z"},"to":{"revision":5,"time":"2026-01-02T15:04:05Z"},"reason":"etcd was compacted"}],
			"retention":{"maxAgeSeconds":2592000,"maxBytes":2147483648,"maxKeyframeBytes":1073741824,"maxPackBytes":1073741824}}`)
	case "/api":
		answer(w, 200, `{"kind":"APIVersions","versions":["v1"]}`)
	case "/apis":
		answer(w, 200, groupsV1)
	case "/api/v1":
		answer(w, 200, coreV1)
	case "/apis/apps/v1":
		answer(w, 200, appsV1)
	default:
		f.object(w, path, rev, strings.HasPrefix(r.URL.Query().Get("fieldSelector"), "spec.nodeName="))
	}
}

func (f *fakeServer) ready(w http.ResponseWriter) {
	if f.unwell != "" {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprintf(w, "[+]ping ok\n[-]%s\nreadyz check failed\n", f.unwell)
		return
	}
	_, _ = fmt.Fprint(w, "[+]ping ok\nreadyz check passed\n")
}

func (f *fakeServer) instant(w http.ResponseWriter, text string) {
	rev, ok := f.rev(text)
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil && at.After(storyBegan.Add(time.Hour)) {
		refused(w, http.StatusBadRequest, "BadRequest", fmt.Sprintf("instant %q has not come yet", text))
		return
	}
	if !ok {
		refused(w, http.StatusGone, "Expired", fmt.Sprintf("instant %q is not held; the oldest instant held is rev-5", text))
		return
	}
	answer(w, 200, fmt.Sprintf(`{"at":%q,"revision":%d,"time":%q}`, text, rev, storyAt(rev).Format(time.RFC3339)))
}

func (f *fakeServer) stream(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, until := int64(0), f.newest()
	if q.Has("since") {
		since, _ = f.rev(q.Get("since"))
		if !strings.HasPrefix(q.Get("since"), "rev-") {
			since++
		}
	}
	if q.Has("until") {
		until, _ = f.rev(q.Get("until"))
	}
	if behind := r.Header.Get("Last-Event-ID"); behind != "" {
		since, _ = f.rev("rev-" + behind)
		since++
	}
	f.asked = append(f.asked, q.Encode())
	encoder := json.NewEncoder(w)
	for _, e := range f.events {
		fits := true
		for name, value := range map[string]string{"group": e.Key.Group, "resource": e.Key.Resource, "namespace": e.Key.Namespace, "name": e.Key.Name} {
			fits = fits && (!q.Has(name) || q.Get(name) == value)
		}
		if fits && e.Rev >= since && e.Rev <= until {
			_ = encoder.Encode(e)
		}
	}
	if q.Has("follow") {
		_ = http.NewResponseController(w).Flush() // the client may be gone
		<-r.Context().Done()
	}
}

// objects streams what there was.
func (f *fakeServer) objects(w http.ResponseWriter, text string) {
	rev, _ := f.rev(text)
	state := f.state(rev)
	keys := slices.SortedFunc(maps.Keys(state), func(a, b schemas.Key) int { return strings.Compare(a.String(), b.String()) })
	encoder := json.NewEncoder(w)
	for _, key := range keys {
		_ = encoder.Encode(schemas.Event{Rev: state[key].Rev, Cnt: 1, Type: schemas.Added, Key: key, Object: state[key].Object})
	}
}

// state is what was at a revision.
func (f *fakeServer) state(rev int64) map[schemas.Key]schemas.Event {
	out := map[schemas.Key]schemas.Event{}
	for _, e := range f.events {
		switch {
		case e.Rev > rev:
		case e.Type == schemas.Deleted:
			delete(out, e.Key)
		default:
			out[e.Key] = e
		}
	}
	return out
}

// keyOf reads a path of the API.
func keyOf(path string) schemas.Key {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	key := schemas.Key{}
	if parts[0] == "apis" {
		key.Group, parts = parts[1], parts[1:]
	}
	parts = parts[2:]
	if len(parts) > 2 && parts[0] == "namespaces" {
		key.Namespace, parts = parts[1], parts[2:]
	}
	key.Resource = parts[0]
	if len(parts) > 1 {
		key.Name = parts[1]
	}
	return key
}

// object serves objects and lists by path.
func (f *fakeServer) object(w http.ResponseWriter, path string, rev int64, unscheduled bool) {
	key := keyOf(path)
	state := f.state(rev)
	switch {
	case key.Name == "":
		f.list(w, state, key, unscheduled)
	case state[key].Rev == 0:
		refused(w, http.StatusNotFound, "NotFound", key.String()+" not found")
	default:
		answer(w, 200, string(state[key].Object))
	}
}

const marksPath = "/api/v1/namespaces/kube-system/configmaps"

// mark creates or merges the ConfigMap of marks.
func (f *fakeServer) mark(w http.ResponseWriter, r *http.Request) {
	var patch struct {
		Metadata struct{ ResourceVersion string }
		Data     map[string]*string
	}
	live := f.state(f.newest())[schemas.Marks]
	fits := r.Method == http.MethodPost && live.Rev == 0 || r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/merge-patch+json" && live.Rev != 0
	if json.NewDecoder(r.Body).Decode(&patch) != nil || !fits {
		refused(w, http.StatusBadRequest, "BadRequest", "no patch of marks")
		return
	}
	if r.Method == http.MethodPatch && patch.Metadata.ResourceVersion != fmt.Sprint(live.Rev) || f.refuse["marks"] != "" {
		refused(w, http.StatusConflict, "Conflict", "the object has been modified")
		return
	}
	data := map[string]string{}
	if live.Rev != 0 {
		data, _ = schemas.MarksOf(live.Object)
	}
	for name, value := range patch.Data {
		if delete(data, name); value != nil {
			data[name] = *value
		}
	}
	text, _ := json.Marshal(map[string]any{"metadata": map[string]string{"resourceVersion": fmt.Sprint(f.newest() + 1)}, "data": data})
	f.events = append(f.events, change(f.newest()+1, live.Rev, schemas.Modified, schemas.Marks.String(), "carol rutter-mark", "patch", string(text)))
	answer(w, 200, string(text))
}

// apply does what a server-side apply does to objects without lists: what is asked for is
// what comes of it. A label "refuse" is refused.
func (f *fakeServer) apply(w http.ResponseWriter, r *http.Request) {
	key := keyOf(r.URL.Path)
	var object map[string]any
	kinds := map[string]string{http.MethodPatch: "application/apply-patch+yaml", http.MethodPut: "application/json"}
	if json.NewDecoder(r.Body).Decode(&object) != nil || r.Header.Get("Content-Type") != kinds[r.Method] || r.URL.Query().Get("fieldManager") == "" {
		refused(w, http.StatusBadRequest, "BadRequest", "not an apply")
		return
	}
	metadata := object["metadata"].(map[string]any)
	if _, ok := metadata["uid"]; r.Method == http.MethodPatch && (ok || object["status"] != nil) {
		refused(w, http.StatusBadRequest, "BadRequest", "identity or status asked for")
		return
	}
	if reason := f.refuse["apply "+key.Resource]; reason != "" {
		refused(w, http.StatusConflict, "Conflict", reason)
		return
	}
	live := f.state(f.newest())[key]
	kind := schemas.Modified
	if metadata["uid"] = past.UID(live.Object); live.Rev == 0 {
		metadata["uid"], kind = "new-"+key.Name, schemas.Added
	}
	text, _ := json.Marshal(object)
	if r.URL.Query().Get("dryRun") != "All" {
		f.events = append(f.events, change(f.newest()+1, live.Rev, kind, key.String(), "carol "+r.URL.Query().Get("fieldManager"), "apply", string(text)))
	}
	answer(w, 200, string(text))
}

func (f *fakeServer) list(w http.ResponseWriter, state map[schemas.Key]schemas.Event, want schemas.Key, unscheduled bool) {
	switch reason := f.refuse[want.Resource]; reason {
	case "Forbidden":
		refused(w, http.StatusForbidden, reason, "jane cannot list "+want.Resource)
		return
	case "MethodNotAllowed":
		refused(w, http.StatusMethodNotAllowed, reason, want.Resource+" are of the present")
		return
	}
	var items []string
	for _, e := range state {
		if unscheduled && strings.Contains(string(e.Object), `"nodeName"`) {
			continue
		}
		if e.Key.Group == want.Group && e.Key.Resource == want.Resource && (want.Namespace == "" || e.Key.Namespace == want.Namespace) {
			items = append(items, string(e.Object))
		}
	}
	slices.Sort(items)
	answer(w, 200, fmt.Sprintf(`{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[`, f.newest())+strings.Join(items, ",")+`]}`)
}

// golden compares what a command prints with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "%s; rewrite it with -update if the change is wanted", path)
}

// command is a test of a whole command against the story.
type command struct {
	args   []string
	code   int
	stderr string
}

// runStory runs commands and compares what they print with testdata/<name>.txt.
func runStory(t *testing.T, prefix string, tests map[string]command) {
	t.Helper()
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			startStory(t)
			t.Setenv("RUTTER_TEST_CHILD", "1")
			code, out, errs := rutter(t, tc.args...)
			require.Equal(t, tc.stderr, errs)
			require.Equal(t, tc.code, code)
			if tc.code == exitFailed {
				require.Empty(t, out)
				return
			}
			golden(t, prefix+"-"+name, out)
		})
	}
}
