package daemon

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(t *testing.T, script string) Config {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "containerd")
	require.NoError(t, os.WriteFile(binary, []byte("#!/bin/sh\n"+script), 0o755))
	return Config{Binary: binary, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "s.sock")}
}

func TestRender(t *testing.T) {
	got := render(Config{Root: "/r", State: "/s", Socket: "/s/c.sock"})
	require.Contains(t, got, "version = 2\nroot = \"/r\"\nstate = \"/s\"\n")
	require.Contains(t, got, "[grpc]\naddress = \"/s/c.sock\"\n")
	require.Contains(t, got, "io.containerd.grpc.v1.cri")
}

func TestOneThatDiesTellsItsLastWords(t *testing.T) {
	d := New(config(t, "echo starting >&2; echo 'no space left' >&2; exit 1\n"), zerolog.Nop())
	err := d.Run(t.Context())
	require.ErrorIs(t, err, errDied)
	require.ErrorContains(t, err, "no space left")
}

func TestOneThatIsAbsent(t *testing.T) {
	cfg := config(t, "")
	cfg.Binary = "/absent/containerd"
	require.ErrorContains(t, New(cfg, zerolog.Nop()).Run(t.Context()), "start containerd")
}

func TestAnotherProcessIsNotAdopted(t *testing.T) {
	cfg := config(t, "")
	require.NoError(t, os.MkdirAll(cfg.State, 0o700))
	for _, content := range []string{"1", "999999999", "words", ""} {
		require.NoError(t, os.WriteFile(cfg.pidFile(), []byte(content), 0o600))
		require.Nil(t, New(cfg, zerolog.Nop()).find(), "%q", content)
	}
	require.NoError(t, Stop(context.Background(), cfg), "nothing to stop is no error")
}
