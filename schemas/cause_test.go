package schemas

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestCauseAccumulates(t *testing.T) {
	ctx := WithCause(t.Context(), 9, 3)
	ctx = WithCause(ctx, 5, 9, 0, -1)
	require.Equal(t, []int64{3, 5, 9}, CauseOf(ctx))
	require.Nil(t, CauseOf(t.Context()))
	require.Equal(t, t.Context(), WithCause(t.Context(), 0))
}

func TestCauseKeepsTheNewest(t *testing.T) {
	ctx := t.Context()
	for rev := int64(1); rev <= 40; rev++ {
		ctx = WithCause(ctx, rev)
	}
	revs := CauseOf(ctx)
	require.Len(t, revs, MaxCauses)
	require.Equal(t, int64(40), revs[MaxCauses-1])
	require.Equal(t, int64(25), revs[0])
}

func TestCauseTransport(t *testing.T) {
	for name, tc := range map[string]struct {
		cause []int64
		set   string
		want  string
	}{
		"none":       {},
		"one":        {cause: []int64{7}, want: "7"},
		"several":    {cause: []int64{12, 7}, want: "7,12"},
		"own header": {cause: []int64{7}, set: "5", want: "5"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(WithCause(t.Context(), tc.cause...), http.MethodGet, "http://x/", nil)
			require.NoError(t, err)
			if tc.set != "" {
				req.Header.Set(CauseHTTPHeader, tc.set)
			}
			before := req.Header.Clone()
			var got string
			_, err = CauseTransport(roundTripper(func(r *http.Request) (*http.Response, error) {
				got = r.Header.Get(CauseHTTPHeader)
				return nil, nil
			})).RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
			require.Equal(t, before, req.Header, "the caller's request is left alone")
		})
	}
}

func TestParseCause(t *testing.T) {
	got, err := ParseCause(" 12, 7,12 ")
	require.NoError(t, err)
	require.Equal(t, []int64{7, 12}, got)
	got, err = ParseCause("")
	require.NoError(t, err)
	require.Nil(t, got)
	for _, bad := range []string{",", "a", "1,", "-1", "0", "99999999999999999999"} {
		_, err := ParseCause(bad)
		require.Error(t, err, bad)
	}
}

func FuzzParseCause(f *testing.F) {
	f.Add("1,2,3")
	f.Fuzz(func(t *testing.T, s string) {
		revs, err := ParseCause(s)
		if err != nil {
			return
		}
		again, err := ParseCause(FormatCause(revs))
		if err != nil || len(again) != len(revs) {
			t.Fatalf("%q: %v, %v, %v", s, revs, again, err)
		}
	})
}
