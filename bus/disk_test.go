package bus

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/schemas"
)

// TestStreamThatGaveUpIsBroughtBack fills the disk under HISTORY alone: no mirror fails, so
// that the server itself notices nothing.
func TestStreamThatGaveUpIsBroughtBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skipf("not root: uid=%d", os.Geteuid())
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	b := &testBus{server: testServer(t, dir)}
	b.Client = connect(t, ClientConfig{Server: b.server})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b.epoch, b.rev = made.Epoch, 100
	for _, mirror := range []string{StreamState, StreamArchive, StreamLastN} {
		require.NoError(t, b.DeleteStream(t.Context(), mirror))
	}
	require.NoError(t, b.server.Healthy())
	b.open(t)
	big := make([]byte, 200<<10)
	for i := range 200 { // 40 MB
		e := b.event(schemas.Modified, pod("a"), i)
		e.Object = big
		if b.window.Publish(t.Context(), e.Key.Subject(), e, 0) != nil {
			break
		}
	}
	require.Eventually(t, func() bool { return b.server.Healthy() != nil }, time.Minute, 10*time.Millisecond)
	require.ErrorIs(t, b.server.Healthy(), ErrNoSpace)
	require.ErrorIs(t, b.server.Recover(), ErrNoSpace, "the disk is still full")

	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=400m"))
	require.NoError(t, b.server.Recover())
	require.NoError(t, b.server.Healthy())
	b.open(t)
	b.send(t, schemas.Modified, pod("a"), 1)
	b.flush(t)
	require.NoError(t, b.server.Recover(), "once more does no harm")
}
