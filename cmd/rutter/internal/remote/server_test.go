package remote

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect makes a client of a server with these answers; other paths are not found.
func connect(t *testing.T, path string, answers map[string]string) (*Server, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","reason":"NotFound","code":404,"message":"not found"}`
		}
		if body == "html" {
			w.WriteHeader(http.StatusBadGateway)
			body = "<html>"
		}
		_, _ = w.Write([]byte(body))
	}))
	file := filepath.Join(t.TempDir(), "config")
	config := `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}],"clusters":[{"name":"c","cluster":{"server":"` + server.URL + path + `"}}]}`
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	s, err := Connect(Config{Kubeconfig: file})
	t.Cleanup(func() {
		if s != nil && s.http != nil {
			s.Close()
		}
		server.Close()
	})
	return s, err
}

func TestEvents(t *testing.T) {
	const one = `{"rev":1,"ord":0,"cnt":1,"type":"ADDED","key":{"resource":"pods","namespace":"a","name":"p"},"object":{"a":1}}` + "\n"
	for name, tc := range map[string]struct {
		body string
		want int
		err  string
	}{
		"none":                {"", 0, ""},
		"one":                 {one, 1, ""},
		"ends with an error":  {one + `{"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410,"message":"it is lost"}}`, 1, "it is lost"},
		"an error of nothing": {`{"type":"ERROR","object":1}`, 0, "can't be read"},
		"cut off":             {one + `{"rev":2,"or`, 1, "unexpected EOF"},
		"no events":           {"<html>", 0, "events: invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := connect(t, "", map[string]string{"/history/events": tc.body})
			require.NoError(t, err)
			got := 0
			err = s.Events(t.Context(), Query{}, func(schemas.Event) error { got++; return nil })
			require.Equal(t, tc.want, got)
			if tc.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.err)
			}
		})
	}
}

func TestEventsFetchLargeObjects(t *testing.T) {
	const path = "/at/rev-7/api/v1/namespaces/a/configmaps/m"
	events := `{"rev":7,"ord":0,"cnt":1,"type":"ADDED","key":{"resource":"configmaps","namespace":"a","name":"m"},"dataRef":"` + path + `"}`
	for name, tc := range map[string]struct {
		answers map[string]string
		want    string
	}{
		"held":     {map[string]string{"/history/events": events, path: `{"data":{}}`}, `{"data":{}}`},
		"not held": {map[string]string{"/history/events": events}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := connect(t, "", tc.answers)
			require.NoError(t, err)
			found, err := s.At(t.Context(), 7)
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.Equal(t, tc.want, string(found[0].Object))
		})
	}
}

func TestRefusals(t *testing.T) {
	s, err := connect(t, "", map[string]string{"/history/instant": "html"})
	require.NoError(t, err)
	_, err = s.Resolve(t.Context(), "now")
	require.ErrorContains(t, err, "502 Bad Gateway; is it a Rutter API server?")
	_, _, err = s.Status(t.Context())
	require.True(t, apierrors.IsNotFound(err), "%v", err)

	_, err = connect(t, "/at/rev-7", nil)
	require.ErrorContains(t, err, `context "c" is of the past (/at/rev-7)`)
	_, err = Connect(Config{Kubeconfig: "/nonexistent"})
	require.ErrorContains(t, err, "no kubeconfig /nonexistent; give --kubeconfig")
}

func TestObjectsOfAnInstantThatIsNotHeld(t *testing.T) {
	r := Resource{Version: "v1", Resource: "pods", Namespaced: true}
	s, err := connect(t, "/behind/a/proxy", map[string]string{"/behind/a/proxy/at/rev-3/api/v1/namespaces/a/pods/p": `{"a":1}`})
	require.NoError(t, err)
	object, err := s.Object(t.Context(), "rev-3", r, r.Key("a", "p"))
	require.NoError(t, err)
	require.JSONEq(t, `{"a":1}`, string(object))
	object, err = s.Object(t.Context(), "rev-4", r, r.Key("a", "p"))
	require.NoError(t, err)
	require.Nil(t, object)
}
