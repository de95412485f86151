package schemas

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseInstant(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		text string
		want Instant
		bad  string
	}{
		"revision":             {text: "rev-42", want: Instant{Rev: 42}},
		"revision zero":        {text: "rev-0", bad: "positive revision"},
		"negative revision":    {text: "rev--4", bad: "positive revision"},
		"signed revision":      {text: "rev-+4", bad: "positive revision"},
		"no revision":          {text: "rev-", bad: "positive revision"},
		"revision and more":    {text: "rev-9x", bad: "positive revision"},
		"revision too large":   {text: "rev-9223372036854775808", bad: "positive revision"},
		"now":                  {text: "now"},
		"mark":                 {text: "before-upgrade", want: Instant{Mark: "before-upgrade"}},
		"time":                 {text: "2026-11-25T11:30:00Z", want: Instant{At: now.Add(-30 * time.Minute)}},
		"time with fraction":   {text: "2026-11-25T11:59:59.5Z", want: Instant{At: now.Add(-500 * time.Millisecond)}},
		"time in nanoseconds":  {text: "2026-11-25T11:59:59.999999999Z", want: Instant{At: now.Add(-1)}},
		"time with zone":       {text: "2026-11-25T13:00:00+02:00", want: Instant{At: now.Add(-time.Hour)}},
		"fraction and zone":    {text: "2026-11-25T06:29:59.25-05:30", want: Instant{At: now.Add(-750 * time.Millisecond)}},
		"time that is to come": {text: "2026-11-25T12:30:00Z", want: Instant{At: now.Add(30 * time.Minute)}},
		"lower case":           {text: "2026-11-25t11:30:00z", want: Instant{At: now.Add(-30 * time.Minute)}},
		"ago":                  {text: "-5m", want: Instant{At: now.Add(-5 * time.Minute)}},
		"days ago":             {text: "-2d", want: Instant{At: now.Add(-48 * time.Hour)}},
		"days and hours ago":   {text: "-1d12h", want: Instant{At: now.Add(-36 * time.Hour)}},
		"ahead":                {text: "--5m", bad: "no duration"},
		"plus":                 {text: "-+5m", bad: "no duration"},
		"nothing ago":          {text: "-", bad: "no duration"},
		"no days":              {text: "-d", bad: "no number of days"},
		"centuries ago":        {text: "-65000d", bad: "up to 36500 days"},
		"hours that overflow":  {text: "-60000d2562047h", bad: "up to 36500 days"},
		"no unit":              {text: "-5", bad: "no duration"},
		"no sign":              {text: "5m", bad: "no instant"},
		"a date":               {text: "2026-11-25", bad: "no instant"},
		"no zone":              {text: "2026-11-25T11:30:00", bad: "no instant"},
		"before time":          {text: "0001-01-01T00:00:00Z", bad: "no instant"},
		"empty":                {text: "", bad: "no instant"},
		"word":                 {text: "yesterday", bad: "no instant"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseInstant(tc.text, now)
			if tc.bad != "" {
				require.ErrorContains(t, err, tc.bad)
				return
			}
			require.NoError(t, err)
			tc.want.Text = tc.text
			require.Equal(t, tc.want, got)
			require.Equal(t, name == "now", got.Present())
		})
	}
}
