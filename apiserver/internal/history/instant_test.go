package history

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var testNow = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func TestParsePoint(t *testing.T) {
	got, err := ParsePoint("-5m", testNow)
	require.NoError(t, err)
	require.Equal(t, Point{Text: "-5m", At: testNow.Add(-5 * time.Minute)}, got)
	for text, want := range map[string]string{"rev-0": "positive revision", "-": "no duration", "yesterday": "none of: rev-N"} {
		_, err := ParsePoint(text, testNow)
		var refused *Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, Invalid, refused.Kind)
		require.ErrorContains(t, err, want)
	}
}

func TestParseSpan(t *testing.T) {
	for name, tc := range map[string]struct {
		text  string
		to    string
		speed float64
		bad   string
	}{
		"instant":         {text: "rev-5", speed: 1},
		"span":            {text: "rev-5..rev-9", to: "rev-9", speed: 1},
		"times":           {text: "-1h..now", to: "now", speed: 1},
		"fast":            {text: "-1h..now,speed=60", to: "now", speed: 60},
		"slow":            {text: "-1h..now,speed=0.5", to: "now", speed: 0.5},
		"max":             {text: "-1h..now,speed=max", to: "now", speed: 0},
		"instant, speed":  {text: "rev-5,speed=2", bad: "may follow a comma"},
		"unknown option":  {text: "-1h..now,pace=2", bad: "may follow a comma"},
		"standing still":  {text: "-1h..now,speed=0", bad: "speed wants"},
		"backwards":       {text: "-1h..now,speed=-1", bad: "speed wants"},
		"not a number":    {text: "-1h..now,speed=NaN", bad: "speed wants"},
		"infinitely fast": {text: "-1h..now,speed=Inf", bad: "speed wants"},
		"no end":          {text: "-1h..", bad: "none of"},
		"no beginning":    {text: "..now", bad: "none of"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSpan(tc.text, testNow)
			if tc.bad != "" {
				require.ErrorContains(t, err, tc.bad)
				return
			}
			require.NoError(t, err)
			require.InDelta(t, tc.speed, got.Speed, 0)
			if tc.to == "" {
				require.Nil(t, got.To)
				return
			}
			require.Equal(t, tc.to, got.To.Text)
		})
	}
}

func FuzzParseSpan(f *testing.F) {
	for _, seed := range []string{"now", "rev-1", "-5m", "-1d12h..now,speed=max", "2026-01-02T03:04:05Z..rev-9", "..", ",", "rev-1..rev-2..rev-3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		span, err := ParseSpan(text, testNow)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "instant ") {
				t.Errorf("%q: error does not say what it is about: %v", text, err)
			}
			return
		}
		points := []Point{span.From}
		if span.To != nil {
			points = append(points, *span.To)
		}
		for _, p := range points {
			if p.Rev < 0 || (p.Rev != 0 && !p.At.IsZero()) {
				t.Errorf("%q: %+v is both or neither", text, p)
			}
			again, err := ParsePoint(p.Text, testNow)
			if err != nil || again != p {
				t.Errorf("%q: %+v reads as %+v, %v", text, p, again, err)
			}
		}
		if span.Speed < 0 || math.IsNaN(span.Speed) || math.IsInf(span.Speed, 0) {
			t.Errorf("%q: speed %v", text, span.Speed)
		}
	})
}

func TestPacer(t *testing.T) {
	p := pacer{began: testNow, speed: 10}
	require.Equal(t, time.Second, p.due(testNow.Add(10*time.Second)))
	require.Zero(t, p.due(testNow.Add(-time.Second)), "clocks may go back")
	p.speed = 0
	require.Zero(t, p.due(testNow.Add(time.Hour)))
}
