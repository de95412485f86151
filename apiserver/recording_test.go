package apiserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// record makes a bundle of a span, as rutter bundle does.
func (p *past) record(t *testing.T, from, to int64) *bundle.Bundle {
	t.Helper()
	w, err := bundle.NewWriter()
	require.NoError(t, err)
	read := func(path string, add func(schemas.Event) error) {
		a := p.send(t, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, a.status, "%s", a.body)
		for line := range strings.Lines(string(a.body)) {
			var e schemas.Event
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			require.NoError(t, add(e), "%s", line)
		}
	}
	read(fmt.Sprintf("/history/state?at=rev-%d", from), w.Object)
	read(fmt.Sprintf("/history/events?since=rev-%d&until=rev-%d", from+1, to), w.Event)
	h := bundle.Header{From: p.instant(t, from), To: p.instant(t, to), Cluster: p.send(t, http.MethodGet, "/history/status", "").object(t)["epoch"].(string)}
	var file bytes.Buffer
	_, err = w.WriteTo(&file, h)
	require.NoError(t, err)
	b, err := bundle.Read(file.Bytes())
	require.NoError(t, err)
	return b
}

func (p *past) instant(t *testing.T, rev int64) bundle.Instant {
	t.Helper()
	var i bundle.Instant
	require.NoError(t, json.Unmarshal(p.send(t, http.MethodGet, fmt.Sprintf("/history/instant?at=rev-%d", rev), "").body, &i))
	return i
}

// opened is a bundle that is served.
func opened(t *testing.T, b *bundle.Bundle) *rest.Config {
	t.Helper()
	handler, err := apiserver.OpenRecording(t.Context(), b, "recording", zerolog.Nop())
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"

// TestRecordingEqualsThePast: what a bundle answers is what the server answered that it was
// made from, byte for byte, but for the values of Secrets.
func TestRecordingEqualsThePast(t *testing.T) {
	p := withHistory(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	ns := p.namespace(t)
	churn := func(n int) {
		for range n {
			p.churn(t, ns, rng)
		}
	}
	churn(150)
	from := p.revision(t)
	churn(100)
	var widgetsPath string
	t.Run("defined", func(t *testing.T) {
		group := p.define(t, widgets)
		widgetsPath = group + "/v1/namespaces/default/widgets"
		created := p.send(t, "POST", widgetsPath, `{"kind":"Widget","apiVersion":"`+group[len("/apis/"):]+`/v1","metadata":{"name":"a"},"spec":{"color":"red"}}`, jsonBody)
		require.Equal(t, 201, created.status, "%s", created.body)
		churn(50)
	})
	churn(100)
	to := p.revision(t)
	churn(20)
	recording := opened(t, p.record(t, from, to))

	for range 60 {
		rev := from + rng.Int64N(to-from+1)
		for path, accept := range map[string]string{
			"/api/v1/configmaps": "application/json",
			"/api/v1/configmaps?labelSelector=odd%3Dtrue&limit=4": asTable,
			"/apis/rbac.authorization.k8s.io/v1/roles":            "application/vnd.kubernetes.protobuf",
			"/api/v1/secrets":          "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
			"/api/v1/namespaces/" + ns: "application/json",
			widgetsPath:                asTable,
		} {
			path = fmt.Sprintf("/at/rev-%d%s", rev, path)
			live, then := p.send(t, http.MethodGet, path, "", "Accept: "+accept), send(t, recording, http.MethodGet, path, "", "Accept: "+accept)
			require.Equal(t, live.status, then.status, "%s: %s", path, then.body)
			if strings.Contains(accept, "PartialObject") { // of Secrets, annotations and managed fields are sealed
				require.Equal(t, listed(t, live), listed(t, then), path)
				continue
			}
			require.Equal(t, string(live.body), string(then.body), path)
			require.Equal(t, live.header.Get("Rutter-Instant-Revision"), then.header.Get("Rutter-Instant-Revision"))
		}
	}
	for range 30 { // times mean the same
		first, last := p.instant(t, from).Time, p.instant(t, to).Time
		at := first.Add(time.Duration(rng.Int64N(int64(last.Sub(first)))))
		path := "/history/instant?at=" + url.QueryEscape(at.Format(time.RFC3339Nano))
		require.Equal(t, string(p.send(t, http.MethodGet, path, "").body), string(send(t, recording, http.MethodGet, path, "").body), path)
	}
	for _, query := range []string{"", "&group=core&resource=configmaps&namespace=" + ns, "&resource=secrets"} {
		live := p.send(t, http.MethodGet, fmt.Sprintf("/history/events?since=rev-%d&until=rev-%d%s", from+1, to, query), "")
		then := send(t, recording, http.MethodGet, "/history/events?until=now"+query, "")
		require.Equal(t, withoutSeq(t, live.body), withoutSeq(t, then.body), query)
	}
}

func listed(t *testing.T, a answer) []string {
	t.Helper()
	var list metav1.PartialObjectMetadataList
	require.NoError(t, json.Unmarshal(a.body, &list))
	out := []string{list.ResourceVersion}
	for _, i := range list.Items {
		out = append(out, i.Name+"@"+i.ResourceVersion)
	}
	return out
}

// withoutSeq are events without the sequence numbers of the stream, which a bundle's own
// stand for.
func withoutSeq(t *testing.T, body []byte) []schemas.Event {
	t.Helper()
	var out []schemas.Event
	for line := range strings.Lines(string(body)) {
		var e schemas.Event
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		e.Seq = 0
		out = append(out, e)
	}
	return out
}

// TestRecording looks at what is a recording's own: its end is the present, and it is
// closed to everything that is not reading.
func TestRecording(t *testing.T) {
	p := withHistory(t)
	ns := p.namespace(t)
	from := p.revision(t)
	p.configMap(t, ns, "a", nil)
	p.secret(t, ns)
	to := p.revision(t)
	recording := opened(t, p.record(t, from, to))
	get := func(path string, headers ...string) answer {
		return send(t, recording, http.MethodGet, path, "", headers...)
	}

	t.Run("without an instant it is the end", func(t *testing.T) {
		for _, path := range []string{"/api/v1/configmaps", "/api/v1/namespaces/" + ns, "/api", "/apis", "/openapi/v3", "/version", "/"} {
			live, then := p.send(t, http.MethodGet, fmt.Sprintf("/at/rev-%d%s", to, path), ""), get(path)
			require.Equal(t, http.StatusOK, then.status, path)
			if !strings.HasPrefix(path, "/api") || strings.Contains(path, "v1") { // the others name the server's address
				require.Equal(t, string(live.body), string(then.body), path)
			}
		}
		require.EqualValues(t, to, get("/history/instant?at=now").object(t)["revision"])
		end, err := time.Parse(time.RFC3339Nano, get("/history/instant?at=now").object(t)["time"].(string))
		require.NoError(t, err)
		require.True(t, end.Equal(p.instant(t, to).Time), "its clock stands still")
		require.Equal(t, http.StatusOK, get("/readyz").status)
	})
	t.Run("writes are refused", func(t *testing.T) {
		for _, path := range []string{"", "/at/now"} {
			a := send(t, recording, http.MethodDelete, path+"/api/v1/namespaces/"+ns, "")
			require.Equal(t, http.StatusMethodNotAllowed, a.status)
			require.Contains(t, a.apiStatus(t).Message, "which can only be read; this is a recording")
		}
	})
	t.Run("what is outside is refused", func(t *testing.T) {
		for path, want := range map[string]string{
			fmt.Sprintf("/at/rev-%d/api/v1/pods", from-1): fmt.Sprintf("is no longer held; the oldest instant held is rev-%d", from),
			fmt.Sprintf("/at/rev-%d/api/v1/pods", to+1):   fmt.Sprintf("has not come yet; the oldest instant held is rev-%d", from),
			"/at/-9h/api/v1/pods":                         "is no longer held",
			"/history/instant?at=noon":                    `parameter "at": "noon" is not valid`,
			"/history/state?at=noon":                      `parameter "at": "noon" is not valid`,
			"/history/state":                              `parameter "at": "" is not valid`,
			"/history/state?at=now&kind=x":                `parameter "kind" is not known`,
		} {
			require.Contains(t, get(path).apiStatus(t).Message, want, path)
		}
		events := withoutSeq(t, get(fmt.Sprintf("/history/events?since=rev-%d", from-1)).body)
		require.Equal(t, schemas.Gap, events[0].Type, "what came before the bundle is told as lost")
		require.Equal(t, from+1, events[0].Rev)
		for _, since := range []int64{from, from + 1} {
			events = withoutSeq(t, get(fmt.Sprintf("/history/events?since=rev-%d", since)).body)
			require.NotEqual(t, schemas.Gap, events[0].Type, "since %d of %d: the state there is held", since, from)
			require.Equal(t, from+1, events[0].Rev)
		}
	})
	t.Run("Secrets have no values", func(t *testing.T) {
		a := get("/api/v1/namespaces/" + ns + "/secrets/s")
		require.Equal(t, http.StatusOK, a.status, "%s", a.body)
		require.NotContains(t, string(a.body), `"data"`)
		require.Contains(t, string(get("/history/state?at=now&resource=secrets&name=s").body), `"name":"s"`)
	})
	t.Run("a watch tells the state and is quiet", func(t *testing.T) {
		a := get("/api/v1/namespaces/" + ns + "/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1")
		told := frames(t, a.body)
		require.NotEmpty(t, told)
		require.Equal(t, "BOOKMARK", told[len(told)-1].Type)
	})
	t.Run("it plays", func(t *testing.T) {
		a := get(fmt.Sprintf("/at/rev-%d..now,speed=max/api/v1/namespaces/%s/configmaps?watch=1&resourceVersion=%d", from, ns, from))
		require.Equal(t, http.StatusOK, a.status, "%s", a.body)
		require.Len(t, frames(t, a.body), 1)
	})
}
