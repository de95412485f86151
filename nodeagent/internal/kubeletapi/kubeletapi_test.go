package kubeletapi

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestParseLogs(t *testing.T) {
	base := LogRequest{Namespace: "ns", Pod: "p", Container: "c", Tail: -1}
	with := func(f func(*LogRequest)) *LogRequest { r := base; f(&r); return &r }
	for query, want := range map[string]*LogRequest{
		"":                               &base,
		"follow=true&previous=1":         with(func(r *LogRequest) { r.Follow, r.Previous = true, true }),
		"timestamps=true&tailLines=0":    with(func(r *LogRequest) { r.Timestamps, r.Tail = true, 0 }),
		"limitBytes=9&stream=Stderr":     with(func(r *LogRequest) { r.LimitBytes, r.Stream = 9, "stderr" }),
		"sinceSeconds=60":                with(func(r *LogRequest) { r.Since = now.Add(-time.Minute) }),
		"sinceTime=2026-01-01T00:00:00Z": with(func(r *LogRequest) { r.Since = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"follow=maybe":                   nil,
		"tailLines=-1":                   nil,
		"tailLines=many":                 nil,
		"limitBytes=0":                   nil,
		"sinceTime=yesterday":            nil,
		"stream=stdlog":                  nil,
	} {
		r := httptest.NewRequest(http.MethodGet, "/?"+query, nil)
		r.SetPathValue("namespace", "ns")
		r.SetPathValue("pod", "p")
		r.SetPathValue("container", "c")
		got, err := parseLogs(r, now)
		if want == nil {
			require.ErrorIs(t, err, ErrBadRequest, query)
			continue
		}
		require.NoError(t, err, query)
		require.Equal(t, *want, got, query)
	}
}

func FuzzParseLogs(f *testing.F) {
	f.Add("follow=true&tailLines=3")
	f.Fuzz(func(t *testing.T, query string) {
		r := &http.Request{Method: http.MethodGet}
		u, err := http.NewRequest(http.MethodGet, "http://x/", nil)
		require.NoError(t, err)
		r.URL = u.URL
		r.URL.RawQuery = query
		if got, err := parseLogs(r, now); err == nil {
			require.GreaterOrEqual(t, got.Tail, int64(-1))
		}
	})
}

func TestRights(t *testing.T) {
	for path, want := range map[string][]right{
		"/stats/summary":       {{"get", "stats"}},
		"/metrics/resource":    {{"get", "metrics"}},
		"/logs/x":              {{"get", "log"}},
		"/pods":                {{"get", "pods"}, {"get", "proxy"}},
		"/healthz":             {{"get", "healthz"}, {"get", "proxy"}},
		"/containerLogs/a/b/c": {{"get", "proxy"}},
		"/exec/a/b/c":          {{"get", "proxy"}},
		"/statsx":              {{"get", "proxy"}},
	} {
		require.Equal(t, want, rightsOf(http.MethodGet, path), path)
	}
	require.Equal(t, []right{{"create", "proxy"}}, rightsOf(http.MethodPost, "/exec/a/b/c"))
}

func TestGuardAsksOnce(t *testing.T) {
	client := fake.NewClientset()
	asked := 0
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked++
		r := a.(clienttesting.CreateAction).GetObject().(*authnv1.TokenReview)
		r.Status.Authenticated = r.Spec.Token == "good"
		r.Status.User.Username = "joe"
		return true, r, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked++
		r := a.(clienttesting.CreateAction).GetObject().(*authzv1.SubjectAccessReview)
		r.Status.Allowed = r.Spec.ResourceAttributes.Subresource == "metrics"
		return true, r, nil
	})
	h := newGuard(client, "n").wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	ask := func(path, token string) int {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, http.StatusNoContent, ask("/metrics", "good"))
	require.Equal(t, http.StatusNoContent, ask("/metrics", "good"))
	require.Equal(t, 2, asked)
	require.Equal(t, http.StatusForbidden, ask("/exec/a/b/c", "good"))
	require.Equal(t, http.StatusUnauthorized, ask("/metrics", "bad"))
	require.Equal(t, http.StatusUnauthorized, ask("/metrics", ""))
}
