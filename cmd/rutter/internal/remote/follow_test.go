package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// follow follows a server that answers each request with the next of these, and returns the
// events that came, as "type revision.ordinal", and the places that were asked for.
func follow(t *testing.T, ctx context.Context, q Query, take func(schemas.Event) error, answers ...http.HandlerFunc) (got, asked []string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := len(asked)
		asked = append(asked, r.Header.Get("Last-Event-ID"))
		require.Equal(t, "true", r.URL.Query().Get("follow"))
		answers[min(n, len(answers)-1)](w, r)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "config")
	config := `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}],"clusters":[{"name":"c","cluster":{"server":"` + server.URL + `"}}]}`
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	s, err := Connect(Config{Kubeconfig: file})
	require.NoError(t, err)
	defer s.Close()
	err = s.Follow(ctx, q, nil, func(e schemas.Event) error {
		got = append(got, fmt.Sprintf("%s %d.%d", e.Type, e.Rev, e.Ord))
		return take(e)
	})
	return got, asked, err
}

func line(rev int64, ord, cnt int, more string) string {
	return fmt.Sprintf(`{"rev":%d,"ord":%d,"cnt":%d,"type":"ADDED","key":{"resource":"pods","namespace":"a","name":"p"},"seq":%d%s}`+"\n", rev, ord, cnt, 100*rev+int64(ord), more)
}

func answers(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}
}

// cutOff answers, and breaks the connection.
func cutOff(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(body))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

var errEnough = errors.New("enough")

func until(rev int64) func(schemas.Event) error {
	return func(e schemas.Event) error {
		if e.Rev >= rev {
			return errEnough
		}
		return nil
	}
}

// TestFollowOutlivesTheServer: whatever ends an answer, the next one is asked for behind the
// last event, and so none is left out or comes twice.
func TestFollowOutlivesTheServer(t *testing.T) {
	got, asked, err := follow(t, t.Context(), Query{Behind: BehindRev(6)}, until(12),
		answers(200, ""), // it stops before anything happened
		cutOff(line(7, 0, 1, "")+line(8, 0, 2, "")+`{"rev":8,"ord":1,"cn`),
		answers(503, `{"kind":"Status","reason":"ServiceUnavailable","code":503,"message":"starting"}`),
		answers(502, "<html>"),
		answers(200, line(8, 1, 2, "")+`{"rev":10,"ord":0,"cnt":1,"type":"GAP","prevRev":8,"object":{"reason":"x"}}`+"\n"),
		answers(200, line(10, 0, 1, "")+`{"type":"ERROR","object":{"kind":"Status","reason":"Timeout","code":504,"message":"the client has not read for too long"}}`),
		answers(200, line(12, 0, 1, "")),
	)
	require.ErrorIs(t, err, errEnough)
	require.Equal(t, []string{"ADDED 7.0", "ADDED 8.0", "ADDED 8.1", "GAP 10.0", "ADDED 10.0", "ADDED 12.0"}, got)
	require.Equal(t, []string{"6", "6", "8.0", "8.0", "8.0", "8", "10"}, asked)
}

func TestFollowEndsWhereAskingAgainIsNoUse(t *testing.T) {
	forbidden := answers(403, `{"kind":"Status","reason":"Forbidden","code":403,"message":"you may not"}`)
	for name, tc := range map[string]struct {
		answers []http.HandlerFunc
		want    string
		asked   int
	}{
		"refused at once":       {[]http.HandlerFunc{forbidden}, "you may not", 1},
		"refused later":         {[]http.HandlerFunc{answers(200, line(1, 0, 1, "")), forbidden}, "you may not", 2},
		"refused in the stream": {[]http.HandlerFunc{answers(200, `{"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410,"message":"it is lost"}}`)}, "it is lost", 1},
		"not ready at first":    {[]http.HandlerFunc{answers(503, `{"kind":"Status","reason":"ServiceUnavailable","code":503,"message":"starting"}`)}, "starting", 1},
		"no API server":         {[]http.HandlerFunc{answers(200, "<html>")}, "invalid character", 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, asked, err := follow(t, t.Context(), Query{}, until(99), tc.answers...)
			require.ErrorContains(t, err, tc.want)
			require.Len(t, asked, tc.asked)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := follow(t, ctx, Query{}, func(schemas.Event) error { cancel(); return nil }, answers(200, line(1, 0, 1, "")))
	require.ErrorIs(t, err, context.Canceled)
}
