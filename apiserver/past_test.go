package apiserver_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// past is a server with a history, and the bus that keeps it.
type past struct {
	*cluster
	bus *bus.Client
}

// withHistory starts a server of its own with an event bus and little patience between
// keyframes.
func withHistory(t testing.TB) *past {
	t.Helper()
	dir := t.TempDir()
	e, err := etcd.Start(t.Context(), etcd.Config{Dir: filepath.Join(dir, "etcd"), NoSync: true})
	require.NoError(t, err)
	server, err := bus.NewServer(bus.DefaultServerConfig(filepath.Join(dir, "bus")), zerolog.Nop())
	require.NoError(t, err)
	require.NoError(t, server.Start(t.Context()))
	client, err := bus.Connect(t.Context(), bus.ClientConfig{Name: "test", Server: server}, zerolog.Nop())
	require.NoError(t, err)
	p := &past{cluster: &cluster{etcd: e.Client(), sealFile: filepath.Join(dir, "seal.key")}, bus: client}
	stop, err := p.start(filepath.Join(dir, "pki"), "past", func(c *apiserver.Config) {
		c.Bus, c.KeyframeEvents, c.PastCacheBytes = client, 100, 1<<20
	})
	t.Cleanup(func() {
		err := stop()
		client.Close()
		server.Close()
		require.NoError(t, errors.Join(err, e.Close()))
	})
	require.NoError(t, err)
	return p
}

// at is a connection whose paths have an instant in front.
func (p *past) at(instant string) *rest.Config {
	config := rest.CopyConfig(p.config)
	config.Host += "/at/" + instant
	return config
}

func revOf(t testing.TB, a answer) int64 {
	t.Helper()
	var list struct {
		Metadata metav1.ListMeta `json:"metadata"`
	}
	require.NoError(t, json.Unmarshal(a.body, &list), "%s", a.body)
	rev, err := strconv.ParseInt(list.Metadata.ResourceVersion, 10, 64)
	require.NoError(t, err)
	return rev
}

// lists are what the past must give again: stored bytes, decoded kinds, sealed ones,
// selectors, and other encodings.
var lists = []struct{ path, accept string }{
	{"/api/v1/configmaps", "application/json"},
	{"/api/v1/secrets", "application/json"},
	{"/api/v1/configmaps?labelSelector=odd%3Dtrue", "application/json"},
	{"/apis/rbac.authorization.k8s.io/v1/roles", "application/vnd.kubernetes.protobuf"},
	{"/api/v1/secrets", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"},
}

// TestPastEqualsPresent is invariant 4.
func TestPastEqualsPresent(t *testing.T) {
	p := withHistory(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	ns := p.namespace(t)
	type moment struct {
		list int
		rev  int64
		hash [32]byte
	}
	var moments []moment
	for i := range 1500 {
		p.churn(t, ns, rng)
		if i%7 != 0 {
			continue
		}
		n := rng.IntN(len(lists))
		live := p.send(t, http.MethodGet, lists[n].path, "", "Accept: "+lists[n].accept)
		require.Equal(t, http.StatusOK, live.status, "%s", live.body)
		rev := p.revision(t)
		if !strings.Contains(lists[n].accept, "protobuf") {
			rev = revOf(t, live)
		}
		moments = append(moments, moment{n, rev, sha256.Sum256(live.body)})
	}
	require.Greater(t, len(moments), 200)
	rng.Shuffle(len(moments), func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
	for _, m := range moments {
		then := p.send(t, http.MethodGet, fmt.Sprintf("/at/rev-%d%s", m.rev, lists[m.list].path), "", "Accept: "+lists[m.list].accept)
		require.Equal(t, http.StatusOK, then.status, "%s", then.body)
		require.Equal(t, m.hash, sha256.Sum256(then.body), "%s at revision %d", lists[m.list].path, m.rev)
		require.Equal(t, fmt.Sprint(m.rev), then.header.Get("Rutter-Instant-Revision"))
	}
	frames, err := p.bus.Keyframes(t.Context())
	require.NoError(t, err)
	require.Greater(t, len(frames), 1, "states were made from keyframes")
}

// churn makes one random write.
func (p *past) churn(t testing.TB, ns string, rng *rand.Rand) {
	t.Helper()
	name := fmt.Sprint("x", rng.IntN(30))
	labels := map[string]string{"odd": fmt.Sprint(rng.IntN(2) == 1)}
	meta := metav1.ObjectMeta{Name: name, Labels: labels}
	core := p.client.CoreV1()
	var err error
	switch rng.IntN(8) {
	case 0:
		err = core.ConfigMaps(ns).Delete(t.Context(), name, metav1.DeleteOptions{})
	case 1:
		err = core.Secrets(ns).Delete(t.Context(), name, metav1.DeleteOptions{})
	case 2, 3:
		_, err = core.Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"k": fmt.Sprint(rng.Int())}}, metav1.CreateOptions{})
	case 4:
		_, err = p.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta}, metav1.CreateOptions{})
	case 5:
		err = p.client.RbacV1().Roles(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=true"})
	case 6:
		patch := fmt.Appendf(nil, `{"data":{"k":"%d"}}`, rng.Int())
		_, err = core.ConfigMaps(ns).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	default:
		_, err = core.ConfigMaps(ns).Create(t.Context(), configMap(name, labels), metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// TestPast walks through one history: one server for all, since it takes a while to start.
func TestPast(t *testing.T) {
	p := withHistory(t)
	ns := p.namespace(t)
	p.configMap(t, ns, "gone", map[string]string{"a": "b"})
	pod := p.pod(t, ns, "web", "")
	p.secret(t, ns)
	then := p.revision(t)
	require.NoError(t, p.client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "gone", metav1.DeleteOptions{}))
	deleted := p.revision(t)
	instant := fmt.Sprintf("rev-%d", then)

	t.Run("deleted objects are there", func(t *testing.T) {
		old := clientOf(t, p.at(instant))
		cm, err := old.CoreV1().ConfigMaps(ns).Get(t.Context(), "gone", metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, "1", cm.Data["a"])
		_, err = clientOf(t, p.at(fmt.Sprintf("rev-%d", deleted))).CoreV1().ConfigMaps(ns).Get(t.Context(), "gone", metav1.GetOptions{})
		require.True(t, apierrors.IsNotFound(err), "%v", err)
		s, err := old.CoreV1().Secrets(ns).Get(t.Context(), "s", metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, "CANARY", string(s.Data["p"]), "who may read Secrets reads those of the past")
	})
	t.Run("pages", func(t *testing.T) {
		old := clientOf(t, p.at(instant))
		var names []string
		for opts := (metav1.ListOptions{Limit: 2}); ; {
			list, err := old.CoreV1().Namespaces().List(t.Context(), opts)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(then), list.ResourceVersion)
			for _, n := range list.Items {
				names = append(names, n.Name)
			}
			if opts.Continue = list.Continue; opts.Continue == "" {
				break
			}
		}
		require.Contains(t, names, ns)
	})
	t.Run("ages are of the instant", func(t *testing.T) { p.ages(t, ns, pod) })
	t.Run("writes are refused", func(t *testing.T) { p.refusals(t, ns, instant) })
	t.Run("reviews are answered", func(t *testing.T) { p.reviews(t, ns, instant) })
	t.Run("bad instants are told apart", func(t *testing.T) { p.badInstants(t) })
	t.Run("today's permission", func(t *testing.T) {
		config := p.at(instant)
		config.Impersonate = rest.ImpersonationConfig{UserName: "nobody", Groups: []string{"system:authenticated"}}
		_, err := clientOf(t, config).CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		require.True(t, apierrors.IsForbidden(err), "%v", err)
	})
	t.Run("discovery and documents", func(t *testing.T) {
		for _, path := range []string{"/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/openapi/v3", "/version"} {
			now, old := p.send(t, http.MethodGet, path, ""), p.send(t, http.MethodGet, "/at/"+instant+path, "")
			require.Equal(t, now.status, old.status, path)
			require.JSONEq(t, string(now.body), string(old.body), path)
		}
	})
	t.Run("watch tells the state and is quiet", func(t *testing.T) { p.quietWatch(t, ns, then) })
	t.Run("replay tells what came", func(t *testing.T) { p.replays(t, ns, then, deleted) })
	t.Run("events", func(t *testing.T) { p.events(t, ns, then, deleted) })
	t.Run("marks", func(t *testing.T) { p.marks(t, ns, then) })
	t.Run("custom", p.customResources)
	t.Run("status", func(t *testing.T) { p.status(t, then) })
}

func (p *past) secret(t *testing.T, ns string) {
	t.Helper()
	_, err := p.client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"p": "CANARY"}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

func (p *past) ages(t *testing.T, ns string, pod *corev1.Pod) {
	at := pod.CreationTimestamp.Add(time.Millisecond * 1500).UTC()
	eventually(t, func() error { // the instant must have come
		if time.Now().Before(at) {
			return errors.New("too early")
		}
		return nil
	})
	path := fmt.Sprintf("/at/%s/api/v1/namespaces/%s/pods", at.Format(time.RFC3339Nano), ns)
	a := p.send(t, http.MethodGet, path, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	require.Equal(t, at.Format(time.RFC3339Nano), a.header.Get("Rutter-Instant-Time"))
	var table metav1.Table
	require.NoError(t, json.Unmarshal(a.body, &table))
	require.Len(t, table.Rows, 1)
	age := -1
	for i, c := range table.ColumnDefinitions {
		if c.Name == "Age" {
			age = i
		}
	}
	require.Equal(t, "1s", table.Rows[0].Cells[age])
	var row metav1.PartialObjectMetadata
	require.NoError(t, json.Unmarshal(table.Rows[0].Object.Raw, &row))
	require.True(t, pod.CreationTimestamp.Equal(&row.CreationTimestamp), "%s, want %s", row.CreationTimestamp, pod.CreationTimestamp)
}

func (p *past) refusals(t *testing.T, ns, instant string) {
	base := "/api/v1/namespaces/" + ns
	for name, r := range map[string]struct{ method, path, what string }{
		"create":      {http.MethodPost, base + "/configmaps", "create configmaps"},
		"update":      {http.MethodPut, base + "/configmaps/gone", `update configmaps "gone"`},
		"patch":       {http.MethodPatch, base + "/configmaps/gone", `patch configmaps "gone"`},
		"delete":      {http.MethodDelete, base + "/pods/web", `delete pods "web"`},
		"delete many": {http.MethodDelete, base + "/pods", "deletecollection pods"},
		"exec":        {http.MethodPost, base + "/pods/web/exec?command=sh", `create pods/exec "web"`},
		"exec by get": {http.MethodGet, base + "/pods/web/exec?command=sh", `get pods/exec "web"`},
		"logs":        {http.MethodGet, base + "/pods/web/log", `get pods/log "web"`},
		"evict":       {http.MethodPost, base + "/pods/web/eviction", `create pods/eviction "web"`},
		"bind":        {http.MethodPost, base + "/pods/web/binding", `create pods/binding "web"`},
		"forward":     {http.MethodPost, base + "/pods/web/portforward", `create pods/portforward "web"`},
		"proxy":       {http.MethodGet, base + "/pods/web/proxy/", `get pods/proxy "web"`},
		"token":       {http.MethodPost, base + "/serviceaccounts/default/token", `create serviceaccounts/token "default"`},
		"metrics":     {http.MethodGet, "/metrics", "get /metrics"},
		"history":     {http.MethodGet, "/history/status", "get /history/status"},
	} {
		a := p.send(t, r.method, "/at/"+instant+r.path, "{}")
		require.Equal(t, http.StatusMethodNotAllowed, a.status, "%s: %s", name, a.body)
		status := a.apiStatus(t)
		live, _, _ := strings.Cut(r.path, "?")
		require.Equal(t, metav1.StatusReasonMethodNotAllowed, status.Reason)
		for _, want := range []string{r.what, instant, "the present is at " + live} {
			require.Contains(t, status.Message, want, name)
		}
	}
}

func (p *past) reviews(t *testing.T, ns, instant string) {
	ask := func(attributes string) map[string]any {
		a := p.send(t, http.MethodPost, "/at/"+instant+"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			`{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"namespace":"`+ns+`",`+attributes+`}}}`, "Content-Type: application/json")
		require.Equal(t, http.StatusCreated, a.status, "%s", a.body)
		return a.object(t)["status"].(map[string]any)
	}
	require.Equal(t, true, ask(`"verb":"list","resource":"pods"`)["allowed"])
	for _, attributes := range []string{`"verb":"delete","resource":"pods"`, `"verb":"*","resource":"pods"`, `"verb":"get","resource":"pods","subresource":"log"`} {
		status := ask(attributes)
		require.Equal(t, false, status["allowed"], attributes)
		require.Contains(t, status["reason"], "the past", attributes)
	}
	rules := p.send(t, http.MethodPost, "/at/"+instant+"/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
		`{"kind":"SelfSubjectRulesReview","apiVersion":"authorization.k8s.io/v1","spec":{"namespace":"`+ns+`"}}`, "Content-Type: application/json")
	require.Equal(t, http.StatusCreated, rules.status, "%s", rules.body)
	require.NotContains(t, string(rules.body), `"delete"`)
	require.Contains(t, string(rules.body), `"list"`)
	who := p.send(t, http.MethodPost, "/at/"+instant+"/apis/authentication.k8s.io/v1/selfsubjectreviews",
		`{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}`, "Content-Type: application/json")
	require.Equal(t, http.StatusCreated, who.status, "%s", who.body)
}

func (p *past) badInstants(t *testing.T) {
	backwards := fmt.Sprintf("now..rev-%d", p.revision(t)-1)
	for instant, tc := range map[string]struct {
		code int
		want []string
	}{
		"rev-999999999":        {http.StatusBadRequest, []string{"has not come yet", "oldest instant held is rev-", "the newest rev-"}},
		"2200-01-01T00:00:00Z": {http.StatusBadRequest, []string{"has not come yet", "the newest rev-"}},
		"yesterday":            {http.StatusBadRequest, []string{"not valid", "RFC 3339"}},
		"rev-x":                {http.StatusBadRequest, []string{"not valid", "rev-1234"}},
		"rev-9..rev-x":         {http.StatusBadRequest, []string{"not valid"}},
		"2001-01-01T00:00:00Z": {http.StatusGone, []string{"no longer held", "oldest instant held is rev-"}},
		"rev-1":                {http.StatusGone, []string{"no longer held", "oldest instant held is rev-"}},
		backwards:              {http.StatusBadRequest, []string{"before it begins"}},
		"now..now,speed=x":     {http.StatusBadRequest, []string{"speed wants"}},
	} {
		a := p.send(t, http.MethodGet, "/at/"+url.PathEscape(instant)+"/api/v1/pods", "")
		require.Equal(t, tc.code, a.status, "%s: %s", instant, a.body)
		for _, want := range tc.want {
			require.Contains(t, a.apiStatus(t).Message, want, instant)
		}
	}
	for _, path := range []string{"/api", "/version"} {
		a := p.send(t, http.MethodGet, "/at/2001-01-01T00:00:00Z"+path, "")
		require.Equal(t, http.StatusOK, a.status, "discovery goes on, so that clients show why a resource can't be had: %s", a.body)
		require.Empty(t, a.header.Get("Rutter-Instant-Revision"))
	}
	a := p.send(t, http.MethodGet, "/at/now/api/v1/pods?speed=2", "")
	require.Equal(t, http.StatusBadRequest, a.status, "%s", a.body)
	require.Equal(t, http.StatusUnauthorized, send(t, p.withToken("nonsense"), http.MethodGet, "/at/yesterday/api/v1/pods", "").status)
}

func (p *past) marks(t *testing.T, ns string, then int64) {
	marks := configMap(schemas.Marks.Name, nil)
	marks.Data = map[string]string{"before": fmt.Sprint("rev-", then), "first-of-all": "rev-1", "odd": "yesterday"}
	_, err := p.client.CoreV1().ConfigMaps(schemas.Marks.Namespace).Create(t.Context(), marks, metav1.CreateOptions{})
	require.NoError(t, err)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	a := p.send(t, http.MethodGet, "/at/before"+path, "") // at once
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	require.Equal(t, string(p.send(t, http.MethodGet, fmt.Sprintf("/at/rev-%d%s", then, path), "").body), string(a.body))
	require.Equal(t, http.StatusOK, p.send(t, http.MethodGet, "/at/before..now,speed=max"+path, "").status)
	require.EqualValues(t, then, p.send(t, http.MethodGet, "/history/instant?at=before", "").object(t)["revision"])
	require.Equal(t, http.StatusOK, p.send(t, http.MethodGet, "/history/events?since=before&until=before", "").status)
	for name, tc := range map[string]struct {
		code int
		want string
	}{
		"behind":       {http.StatusBadRequest, `instant "behind" is not valid: no mark has this name; and it is none of: rev-N`},
		"odd":          {http.StatusBadRequest, `instant "odd" is not valid: the mark of this name stands for "yesterday": not the revision of a mark`},
		"first-of-all": {http.StatusGone, `instant "first-of-all" is no longer held; the oldest instant held is rev-`},
	} {
		a := p.send(t, http.MethodGet, "/at/"+name+path, "")
		require.Equal(t, tc.code, a.status, name)
		require.Contains(t, a.apiStatus(t).Message, tc.want, name)
	}
	recording := opened(t, p.record(t, then, p.revision(t)))
	require.Equal(t, string(a.body), string(send(t, recording, http.MethodGet, "/at/before"+path, "").body), "a bundle has the marks")
}

// customResources looks at an object whose definition has gone, and at its table.
func (p *past) customResources(t *testing.T) {
	before := p.revision(t)
	var then int64
	var path string
	var live answer
	t.Run("defined", func(t *testing.T) {
		group := p.define(t, widgets)
		name := group[len("/apis/"):]
		path = group + "/v1/namespaces/default/widgets"
		created := p.send(t, "POST", path, `{"kind":"Widget","apiVersion":"`+name+`/v1","metadata":{"name":"a"},"spec":{"color":"red"}}`, jsonBody)
		require.Equal(t, 201, created.status, "%s", created.body)
		live = p.send(t, "GET", path, "")
		then = revOf(t, live)
	})
	require.Equal(t, http.StatusNotFound, p.send(t, "GET", path, "").status, "the definition is gone")
	old := fmt.Sprintf("/at/rev-%d", then)
	a := p.send(t, "GET", old+path, "")
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	require.Equal(t, string(live.body), string(a.body))
	group, _, _ := strings.Cut(path, "/namespaces")
	require.Contains(t, string(p.send(t, "GET", old+group, "").body), `"widgets"`)
	require.Contains(t, string(p.send(t, "GET", old+"/openapi/v3", "").body), group[1:])
	require.Equal(t, http.StatusNotFound, p.send(t, "GET", fmt.Sprintf("/at/rev-%d%s", before, path), "").status, "not defined yet")
	table := p.send(t, "GET", old+path, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	require.Equal(t, http.StatusOK, table.status, "%s", table.body)
	require.Contains(t, string(table.body), `"a"`)
}

func (p *past) status(t *testing.T, then int64) {
	a := p.send(t, http.MethodGet, "/history/status", "")
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	status := a.object(t)
	require.Positive(t, status["events"])
	require.NotEmpty(t, status["keyframes"])
	require.Equal(t, []any{}, status["gaps"])
	require.Positive(t, status["oldest"].(map[string]any)["revision"])
	a = p.send(t, http.MethodGet, fmt.Sprintf("/history/instant?at=rev-%d", then), "")
	require.EqualValues(t, then, a.object(t)["revision"])
	at := a.object(t)["time"].(string)
	a = p.send(t, http.MethodGet, "/history/instant?at="+url.QueryEscape(at), "")
	require.EqualValues(t, then, a.object(t)["revision"], "the time of a revision means it: %s", a.body)
	a = p.send(t, http.MethodGet, "/history/instant?at=noon", "")
	require.Equal(t, http.StatusBadRequest, a.status)
	require.Contains(t, a.apiStatus(t).Message, `parameter "at"`)
}
