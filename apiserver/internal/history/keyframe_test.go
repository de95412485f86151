package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

func testPast(n int) *view.Past {
	items := map[schemas.Key]*view.Item{}
	for i := range n {
		key := schemas.Key{Resource: "pods", Namespace: "default", Name: fmt.Sprint("p", i)}
		if i%3 == 0 {
			key = schemas.Key{Group: "apps", Resource: "deployments", Namespace: "default", Name: fmt.Sprint("d", i)}
		}
		items[key] = &view.Item{Key: key.Path(), Rev: int64(i + 1), Object: fmt.Appendf(nil, `{"metadata":{"name":%q}}`, key.Name)}
	}
	return view.NewPast(int64(n+5), testNow, nil, items)
}

func TestKeyframeRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 1000} {
		want := testPast(n)
		body, err := encodeKeyframe(want)
		require.NoError(t, err)
		rev, items, err := decodeKeyframe(body)
		require.NoError(t, err)
		require.Equal(t, want.Rev, rev)
		got := view.NewPast(rev, testNow, nil, items)
		require.Equal(t, n, got.Objects)
		require.Equal(t, want.Bytes, got.Bytes)
		want.Each(func(i *view.Item) bool {
			key, err := schemas.ParsePath(i.Key)
			require.NoError(t, err)
			require.Equal(t, i.Object, items[key].Object)
			require.Equal(t, i.Rev, items[key].Rev)
			return true
		})
	}
}

func TestCutOrAlteredKeyframeIsRefused(t *testing.T) {
	body, err := encodeKeyframe(testPast(50))
	require.NoError(t, err)
	for cut := range len(body) {
		_, _, err := decodeKeyframe(body[:cut])
		require.ErrorIs(t, err, errKeyframe, "cut at %d of %d", cut, len(body))
	}
	_, _, err = decodeKeyframe(append([]byte("something else"), body...))
	require.ErrorIs(t, err, errKeyframe)
}

func FuzzDecodeKeyframe(f *testing.F) {
	for _, n := range []int{0, 1, 20} {
		body, err := encodeKeyframe(testPast(n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, items, err := decodeKeyframe(body)
		if err == nil && items == nil {
			t.Error("neither objects nor an error")
		}
	})
}

func TestStatesAreBoundedByBytes(t *testing.T) {
	one := testPast(100)
	s := newStates(3*one.Bytes + 10)
	for rev := range int64(5) {
		s.put(&state{Past: view.NewPast(rev+100, time.Time{}, one, nil)})
		if s.get(100) == nil && rev < 4 {
			t.Fatalf("revision 100 was dropped although it was asked for last, at %d", rev)
		}
	}
	n, bytes := s.size()
	require.Equal(t, 3, n)
	require.Equal(t, 3*one.Bytes, bytes)
	require.NotNil(t, s.get(104))
	require.Nil(t, s.get(101), "not asked for")
	require.EqualValues(t, 103, s.before(101, 103).Rev)
	require.Nil(t, s.before(101, 102))
}
