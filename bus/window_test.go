package bus

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func TestParseAck(t *testing.T) {
	for name, tc := range map[string]struct {
		data string
		seq  uint64
		is   error
	}{
		"stored":            {`{"stream":"HISTORY","seq":7}`, 7, nil},
		"fenced":            {`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 4"}}`, 0, ErrFenced},
		"fenced, clustered": {`{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}`, 0, ErrFenced},
		"no space":          {`{"error":{"code":503,"err_code":10077,"description":"store failed"}}`, 0, ErrNoSpace},
		"storage limit":     {`{"error":{"code":500,"err_code":10047,"description":"insufficient storage"}}`, 0, ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			seq, err := parseAck(&nats.Msg{Data: []byte(tc.data)})
			require.Equal(t, tc.seq, seq)
			require.ErrorIs(t, err, tc.is)
		})
	}
	_, err := parseAck(&nats.Msg{Header: nats.Header{"Status": []string{"503"}}})
	require.ErrorContains(t, err, "503")
}

func FuzzParseAck(f *testing.F) {
	f.Add([]byte(`{"stream":"HISTORY","seq":7}`))
	f.Add([]byte(`{"error":{"err_code":10071}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		seq, err := parseAck(&nats.Msg{Data: data})
		if err != nil && seq != 0 {
			t.Fatalf("%q is both an error and sequence %d", data, seq)
		}
	})
}
