package bus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func TestOutside(t *testing.T) {
	holes := []hole{{From: 10, To: 20}, {From: 30, To: 31}}
	for name, tc := range map[string]struct {
		in   span
		want []span
	}{
		"before all":       {span{1, 10}, []span{{1, 10}}},
		"across all":       {span{1, 40}, []span{{1, 10}, {20, 30}, {31, 40}}},
		"within one":       {span{12, 18}, nil},
		"from within one":  {span{12, 25}, []span{{20, 25}}},
		"to within one":    {span{22, 31}, []span{{22, 30}}},
		"behind all":       {span{31, 40}, []span{{31, 40}}},
		"nothing":          {span{5, 5}, nil},
		"between two":      {span{20, 30}, []span{{20, 30}}},
		"exactly the hole": {span{10, 20}, nil},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, outside(tc.in, holes)) })
	}
}

func TestHolesAreKeptInMetadata(t *testing.T) {
	holes := []hole{{From: 30, To: 40, After: 3, Rev: 9}, {From: 5, To: 9, First: 1, Last: 2}, {From: 10, To: 20, First: 3, Last: 3, After: 1, Rev: 2}}
	text, err := formatHoles(holes, 9)
	require.NoError(t, err)
	got, err := parseHoles(map[string]string{holesKey: text})
	require.NoError(t, err)
	require.Equal(t, []hole{holes[2], holes[0]}, got, "in order, without what is no longer held")
	text, err = formatHoles(holes, 40)
	require.NoError(t, err)
	require.Empty(t, text)
	_, err = parseHoles(map[string]string{holesKey: "{"})
	require.Error(t, err)
}

func TestTooManyHolesAreToldAsFewer(t *testing.T) {
	var holes []hole
	for i := range uint64(maxHoles + 10) {
		holes = append(holes, hole{From: 10 * i, To: 10*i + 5 + i%2, First: 1, Last: 1, After: int64(i), Rev: int64(i + 1)})
	}
	text, err := formatHoles(holes, 0)
	require.NoError(t, err)
	got, err := parseHoles(map[string]string{holesKey: text})
	require.NoError(t, err)
	require.Len(t, got, maxHoles)
	for _, h := range holes {
		require.Empty(t, outside(span{h.From, h.To}, got), "none is forgotten")
	}
}

func TestScanWants(t *testing.T) {
	e := schemas.Event{Type: schemas.Added, Key: pod("a")}
	gap := schemas.Event{Type: schemas.Gap, Resync: 7}
	for name, tc := range map[string]struct {
		s          scan
		event, gap bool
	}{
		"everything": {scan{}, true, true},
		"objects":    {scan{filter: schemas.AllObjects}, true, true},
		"the object": {scan{filter: pod("a").Subject()}, true, false},
		"another":    {scan{filter: pod("b").Subject()}, false, false},
		"both":       {scan{filters: []string{pod("b").Subject(), schemas.ResyncSubject}}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.event, tc.s.wants(e))
			require.Equal(t, tc.gap, tc.s.wants(gap))
		})
	}
}
