package bus

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// cutBus is a bus whose server was stopped and has lost the end of a stream's file.
func cutBus(t *testing.T, stream string) (b *testBus, all []schemas.Event, last int64) {
	t.Helper()
	dir := t.TempDir()
	b = &testBus{server: testServer(t, dir)}
	b.Client = connect(t, ClientConfig{Server: b.server})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b.epoch, b.rev = made.Epoch, 100
	b.open(t)
	for i := range 60 {
		b.send(t, schemas.Added, pod(string(rune('a'+i%26))+string(rune('a'+i/26))), i)
		b.sendRoute(t, "n1", schemas.Modified, "p")
	}
	last = b.send(t, schemas.Added, pod("last"), 1)
	b.flush(t)
	for _, mirror := range []string{StreamState, StreamArchive, StreamLastN} {
		b.settle(t, mirror)
	}
	all = b.read(t, Range{})
	b.window.Close()
	b.Close()
	b.server.Close()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	info, err := os.Stat(files[0])
	require.NoError(t, err)
	require.NoError(t, os.Truncate(files[0], info.Size()/2))
	b.server = testServer(t, dir)
	b.Client = connect(t, ClientConfig{Server: b.server})
	return b, all, last
}

func TestMirrorThatLostMessagesIsMadeAgain(t *testing.T) {
	for _, stream := range []string{StreamArchive, StreamState} {
		t.Run(stream, func(t *testing.T) {
			b, all, _ := cutBus(t, stream)
			holed, err := b.mirrorHoled(t.Context(), stream)
			require.NoError(t, err)
			require.True(t, holed)
			made, err := b.MakeStreams(t.Context(), testCluster, 1)
			require.NoError(t, err)
			require.Equal(t, b.epoch, made.Epoch, "HISTORY has lost nothing")
			require.False(t, made.Partial)
			b.settle(t, StreamArchive)
			require.Equal(t, all, b.read(t, Range{}))
			objects := 0
			require.NoError(t, b.ReadState(t.Context(), schemas.AllObjects, func(schemas.Event) error { objects++; return nil }))
			require.Equal(t, 61, objects)
			for _, mirror := range []string{StreamArchive, StreamState} {
				holed, err := b.mirrorHoled(t.Context(), mirror)
				require.NoError(t, err)
				require.False(t, holed, mirror)
			}
		})
	}
}

func TestHistoryThatLostItsEndIsMadeAnew(t *testing.T) {
	b, all, last := cutBus(t, StreamHistory)
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.NotEqual(t, b.epoch, made.Epoch)
	head, err := b.Head(t.Context(), StreamHistory)
	require.NoError(t, err)
	require.True(t, head.Empty, "it begins anew, so that the relay does")
	require.Equal(t, all, b.read(t, Range{}), "the archive has kept what it had")
	newest, err := b.LastEvent(t.Context(), StreamArchive)
	require.NoError(t, err)
	require.Equal(t, last, newest.Rev, "behind which the relay names a gap")
	b.epoch = made.Epoch
	b.open(t)
	b.send(t, schemas.Added, pod("new"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	require.Len(t, b.read(t, Range{}), len(all)+1)
}

func TestStreamsThatLostNothingAreLeftAlone(t *testing.T) {
	b, _, _ := packedBus(t)
	before, err := b.streamInfo(t.Context(), StreamArchive)
	require.NoError(t, err)
	_, err = b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	after, err := b.streamInfo(t.Context(), StreamArchive)
	require.NoError(t, err)
	require.Equal(t, before.Created, after.Created)
}

// TestMirrorsThatCatchUpAreLeftAlone: they are counted while messages come.
func TestMirrorsThatCatchUpAreLeftAlone(t *testing.T) {
	b := startBus(t)
	const messages = 5000
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			key := pod(fmt.Sprint("p", i%500))
			if err := b.window.Publish(t.Context(), key.Subject(), b.event(schemas.Modified, key, i), 0); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for looked := 0; ; looked++ {
		for _, mirror := range []string{StreamState, StreamArchive} {
			holed, err := b.mirrorHoled(t.Context(), mirror)
			require.NoError(t, err)
			require.False(t, holed, "%s, look %d", mirror, looked)
		}
		select {
		case err := <-sent:
			require.NoError(t, err)
			return
		default:
		}
	}
}
