package relay

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bus"
)

// TestBusIsBroughtBackWhateverFailed: a stream that could not write one message takes those
// behind it for another relay's.
func TestBusIsBroughtBackWhateverFailed(t *testing.T) {
	for name, err := range map[string]error{
		"no space": bus.ErrNoSpace,
		"fenced":   fmt.Errorf("bus: publish: %w", bus.ErrFenced),
		"other":    errors.New("no answer"),
	} {
		t.Run(name, func(t *testing.T) {
			called := 0
			cfg := DefaultConfig()
			cfg.Recover = func() error { called++; return nil }
			New(nil, nil, nil, cfg, zerolog.Nop()).noteFailure(err, 0)
			require.Equal(t, 1, called)
		})
	}
}
