package relay

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
	"github.com/rutter-project/rutter/bus"
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
	require.ErrorIs(t, r.server.Healthy(), bus.ErrNoSpace)
	require.ErrorContains(t, r.server.Healthy(), "kB are free in "+r.dir)
	require.Less(t, relay.Position(), last, "the relay does not claim what the stream does not have")

	require.NoError(t, unix.Mount("tmpfs", r.dir, "tmpfs", unix.MS_REMOUNT, "size=400m"))
	require.Eventually(t, func() bool { return relay.Position() >= last }, 60*time.Second, 10*time.Millisecond)
	r.verify(t)
}

// TestLostTailIsWrittenAgain cuts the end off the stream's newest file, as a power
// failure does, while the mirrors keep it.
func TestLostTailIsWrittenAgain(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	r.churn(t, 70, 500)
	before := r.verify(t)
	kill()
	head, err := r.client.Head(t.Context(), bus.StreamHistory)
	require.NoError(t, err)
	r.stopBus()
	cutTail(t, r.dir, bus.StreamHistory)
	r.startBus(t)
	cut, err := r.client.Head(t.Context(), bus.StreamHistory)
	require.NoError(t, err)
	require.Less(t, cut.Seq, head.Seq, "the test has cut something off")
	t.Logf("stream cut from %d to %d", head.Seq, cut.Seq)
	r.start(t)
	after := r.verify(t)
	require.Equal(t, before.Changes, after.Changes)
	require.Empty(t, after.Gaps)
	healed, err := r.client.Head(t.Context(), bus.StreamHistory)
	require.NoError(t, err)
	require.Equal(t, head.Seq, healed.Seq)
	require.Equal(t, head.Epoch, healed.Epoch)
	r.churn(t, 71, 100)
	r.verify(t)
}

// cutTail halves the newest message block of a stream and removes its index.
func cutTail(t *testing.T, dir, stream string) {
	t.Helper()
	var newest string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.Contains(path, "/"+stream+"/msgs/") {
			return err
		}
		if filepath.Base(path) == "index.db" {
			return os.Remove(path)
		}
		if filepath.Ext(path) == ".blk" {
			newest = max(newest, path)
		}
		return nil
	})
	require.NoError(t, err)
	info, err := os.Stat(newest)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(newest, info.Size()/2+17))
}
