package relay

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
)

// TestFullDiskLosesNothing fills the disk under the streams: writes to etcd go
// on, the server says what is wrong, and once there is space the stream has
// everything.
func TestFullDiskLosesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skipf("not root: uid=%d", os.Geteuid())
	}
	r := &rig{Etcd: feedtest.Start(t), dir: t.TempDir()}
	require.NoError(t, unix.Mount("tmpfs", r.dir, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(r.dir, unix.MNT_DETACH)) })
	r.startBus(t)
	t.Cleanup(func() { r.stopBus() })
	relay, _ := r.start(t)

	big := strings.Repeat("x", 200<<10)
	var last int64
	for i := range 200 { // 40 MB, and as much again in the archive
		last = r.Put(t.Context(), t, feedtest.PodKey(fmt.Sprint("p", i%20)), fmt.Sprintf(`{"metadata":{},"x":"%s%d"}`, big, i))
	}
	require.Eventually(t, func() bool { return r.server.Healthy() != nil }, 20*time.Second, 10*time.Millisecond)
	require.ErrorContains(t, r.server.Healthy(), "no space left on device")
	require.Less(t, relay.Position(), last, "the relay does not claim what the stream does not have")

	require.NoError(t, unix.Mount("tmpfs", r.dir, "tmpfs", unix.MS_REMOUNT, "size=400m"))
	require.Eventually(t, func() bool { return relay.Position() >= last }, 60*time.Second, 10*time.Millisecond)
	r.verify(t)
}
