package netns

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		t.Skipf("not root: uid=%d", uid)
	}
}

func TestNetworkNamespace(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "net")
	require.NoError(t, PinNet(path))
	t.Cleanup(func() { require.NoError(t, Unpin(path)) })
	require.True(t, Pinned(path))
	require.NoError(t, PinNet(path), "a second time finds it")

	var l net.Listener
	require.NoError(t, Do(path, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	defer func() { _ = l.Close() }()
	conn, err := Dial(t.Context(), path, "tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = Dial(t.Context(), "", "tcp", l.Addr().String())
	require.Error(t, err, "from outside nothing listens there")
}

func TestPinnedHostname(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	p := Pins{IPC: filepath.Join(dir, "ipc"), UTS: filepath.Join(dir, "uts")}
	before, err := os.Hostname()
	require.NoError(t, err)
	require.NoError(t, Pin(p, "inside"))
	require.NoError(t, Pin(p, "ignored"), "what is pinned stays")
	after, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.True(t, Pinned(p.IPC))
	require.NoError(t, UnmountBelow(dir))
	require.False(t, Pinned(p.UTS))
	require.NoError(t, Unpin(p.UTS))
	require.NoError(t, Unpin(p.UTS), "a second time is no error")
	require.NoFileExists(t, p.UTS)
}

func TestUnmountBelowKeepsNeighbours(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"a", "a/in ner", "ab"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		require.NoError(t, unix.Mount("tmpfs", filepath.Join(dir, name), "tmpfs", 0, ""))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/in ner"), 0o755))
	}
	require.NoError(t, UnmountBelow(filepath.Join(dir, "a")))
	require.NoDirExists(t, filepath.Join(dir, "a", "in ner"))
	data, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Contains(t, string(data), filepath.Join(dir, "ab"))
	require.NoError(t, UnmountBelow(dir))
}
