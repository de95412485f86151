package bus

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// longBus is a bus on disk whose streams have several files.
func longBus(t *testing.T) (b *testBus, dir string, all []schemas.Event) {
	t.Helper()
	b, dir = busOnDisk(t)
	noise := make([]byte, 80<<10)
	for i := range 160 {
		_, err := rand.Read(noise)
		require.NoError(t, err)
		e := b.event(schemas.Added, pod(fmt.Sprint("p", i)), i)
		e.Object = fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p%d","namespace":"default","labels":{"x":%q}}}`, i, hex.EncodeToString(noise))
		require.NoError(t, b.window.Publish(t.Context(), e.Key.Subject(), e, 0))
	}
	b.flush(t)
	for _, mirror := range []string{StreamState, StreamArchive, StreamLastN} {
		b.settle(t, mirror)
	}
	for _, stream := range []string{StreamHistory, StreamState, StreamArchive} {
		require.GreaterOrEqual(t, len(blocks(t, dir, stream)), 4, stream)
	}
	return b, dir, b.read(t, Range{})
}

// cutSecond damages the second file of a stream.
func cutSecond(t *testing.T, dir, stream string) {
	t.Helper()
	file := blocks(t, dir, stream)[1]
	if stream == StreamArchive {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(data, []byte("cmp")), "the server compresses what is full")
	}
	cutFile(t, file)
}

// forget takes away what the server has noted of a stream's files, so that it reads them.
func forget(t *testing.T, dir, stream string) {
	t.Helper()
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(blocks(t, dir, stream)[0]), "index.db")))
}

func aside(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, DamagedDir, "*"))
	require.NoError(t, err)
	return files
}

// TestDamagedFileOfTheArchiveIsAHole: the server refuses the whole stream over it, which
// would be made anew without its past.
func TestDamagedFileOfTheArchiveIsAHole(t *testing.T) {
	b, dir, all := longBus(t)
	b.restart(t, dir, func() {
		cutSecond(t, dir, StreamArchive)
		forget(t, dir, StreamArchive)
	})
	require.Len(t, aside(t, dir), 1)
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.Equal(t, b.epoch, made.Epoch)
	requireEvents(t, all, b.read(t, Range{}))
	require.Empty(t, b.gaps(t))
	head, err := b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)
	require.Len(t, head.holes, 1)
	require.Less(t, head.holes[0].To-head.holes[0].From, uint64(len(blocks(t, dir, StreamArchive))*len(all)/8), "the rest was kept")
	b.copiesAgree(t)
	b.restart(t, dir, func() {})
	require.Len(t, aside(t, dir), 1, "what is mended is sound")
	requireEvents(t, all, b.read(t, Range{}))
}

// TestDamageIsFoundByReaders: the server has opened the stream without looking at the file.
// Whoever comes to it is told, rather than nothing or half, and the next one reads all.
func TestDamageIsFoundByReaders(t *testing.T) {
	for name, read := range map[string]func(b *testBus, all []schemas.Event) error{
		"all": func(b *testBus, _ []schemas.Event) error {
			return b.ReadRange(t.Context(), Range{}, func(schemas.Event) error { return nil })
		},
		"one object": func(b *testBus, all []schemas.Event) error {
			return b.ReadRange(t.Context(), Range{Filter: all[len(all)/2-10].Key.Subject()}, func(schemas.Event) error { return nil })
		},
		"place": func(b *testBus, all []schemas.Event) error {
			for i := range all {
				_, behind, err := b.Divide(t.Context(), func(e schemas.Event) bool { return e.Rev >= all[i].Rev })
				if err != nil {
					return err
				}
				if behind.Rev != all[i].Rev {
					t.Errorf("place of %d is %d", all[i].Rev, behind.Rev)
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, dir, all := longBus(t)
			b.restart(t, dir, func() { cutSecond(t, dir, StreamArchive) })
			_, err := b.MakeStreams(t.Context(), testCluster, 1)
			require.NoError(t, err)
			require.Empty(t, aside(t, dir), "the server has not read the file")
			err = read(b, all)
			require.ErrorIs(t, err, ErrDamaged)
			<-b.server.Mended()
			require.Len(t, aside(t, dir), 1)
			_, err = b.Head(t.Context(), StreamArchive)
			require.ErrorIs(t, err, ErrDamaged, "the hole has no name yet")
			_, err = b.MakeStreams(t.Context(), testCluster, 1)
			require.NoError(t, err)
			requireEvents(t, all, b.read(t, Range{}))
			require.NoError(t, read(b, all))
			require.Empty(t, b.gaps(t))
			b.copiesAgree(t)
		})
	}
}

// TestHistoryThatLostItsMiddleIsMadeAnew: its readers count on its sequence.
func TestHistoryThatLostItsMiddleIsMadeAnew(t *testing.T) {
	b, dir, all := longBus(t)
	b.restart(t, dir, func() {
		cutSecond(t, dir, StreamHistory)
		forget(t, dir, StreamHistory)
	})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.NotEqual(t, b.epoch, made.Epoch)
	require.True(t, made.Cut)
	requireEvents(t, all, b.read(t, Range{}))
}

// TestStreamsComeBackFromAStartThatWasCutShort: the server deletes what it can't open, and may
// be ended at that.
func TestStreamsComeBackFromAStartThatWasCutShort(t *testing.T) {
	b, dir, all := longBus(t)
	b.restart(t, dir, func() {
		s := &Server{cfg: DefaultServerConfig(dir)}
		require.NoError(t, s.guard())
		require.NoError(t, os.Remove(blocks(t, dir, StreamArchive)[1]))
		require.NoError(t, os.Remove(filepath.Join(s.streamDir(StreamArchive), "meta.inf")))
		require.NoError(t, os.RemoveAll(s.streamDir(StreamHistory)))
	})
	require.NoDirExists(t, filepath.Join(dir, guardDir))
	require.NoDirExists(t, filepath.Join(dir, openedDir))
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.Equal(t, b.epoch, made.Epoch)
	requireEvents(t, all, b.read(t, Range{}))
	head, err := b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)
	require.Empty(t, head.holes)
}

// TestStreamThatCanNotBeOpenedIsPutAside: its configuration is damaged, its messages are not.
func TestStreamThatCanNotBeOpenedIsPutAside(t *testing.T) {
	b, dir, all := longBus(t)
	b.restart(t, dir, func() {
		cutFile(t, filepath.Join((&Server{cfg: DefaultServerConfig(dir)}).streamDir(StreamState), "meta.inf"))
	})
	files := aside(t, dir)
	require.Len(t, files, 1)
	require.Contains(t, files[0], StreamState)
	kept, err := filepath.Glob(filepath.Join(files[0], "msgs", "*.blk"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(kept), 4)
	require.NoDirExists(t, filepath.Join(dir, guardDir))
	_, err = b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	objects := 0
	require.NoError(t, b.ReadState(t.Context(), schemas.AllObjects, func(schemas.Event) error { objects++; return nil }))
	require.Equal(t, len(all), objects, "it is made again")
}

// TestArchiveIsMadeOverItsMessages: of its configuration, which is damaged, it needs nothing.
func TestArchiveIsMadeOverItsMessages(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"cut":    func(dir string) error { return os.Truncate(filepath.Join(dir, description), 100) },
		"gone":   func(dir string) error { return os.Remove(filepath.Join(dir, description)) },
		"no sum": func(dir string) error { return os.Remove(filepath.Join(dir, descriptionSum)) },
	} {
		t.Run(name, func(t *testing.T) {
			b, dir, all := longBus(t)
			require.NoError(t, b.PackArchive(t.Context()))
			require.NoError(t, b.PutKeyframe(t.Context(), Keyframe{Rev: 7, Time: time.Now()}, strings.NewReader("frame")))
			b.restart(t, dir, func() {
				for _, stream := range madeOver {
					require.NoError(t, damage((&Server{cfg: DefaultServerConfig(dir)}).streamDir(stream)))
				}
			})
			require.Len(t, aside(t, dir), len(madeOver))
			_, err := b.streamInfo(t.Context(), StreamArchive)
			require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
			require.NoError(t, b.DeleteStream(t.Context(), StreamHistory), "so that it can't be made of that")
			_, err = b.MakeStreams(t.Context(), testCluster, 1)
			require.NoError(t, err)
			requireEvents(t, all, b.read(t, Range{}))
			require.Empty(t, b.gaps(t))
			b.copiesAgree(t)
			frame, err := b.ReadKeyframe(t.Context(), 7)
			require.NoError(t, err)
			require.Equal(t, "frame", string(frame))
			head, err := b.Head(t.Context(), StreamHistory)
			require.NoError(t, err)
			b.epoch = head.Epoch
			b.open(t)
			b.send(t, schemas.Added, pod("new"), 1)
			b.flush(t)
			b.settle(t, StreamArchive)
			require.Len(t, b.read(t, Range{}), len(all)+1)
		})
	}
}

// TestStateIsLookedAtBeforeItIsOpened: the server believes its notes, and who lists from STATE
// would miss objects for good.
func TestStateIsLookedAtBeforeItIsOpened(t *testing.T) {
	b, dir, all := longBus(t)
	b.restart(t, dir, func() { cutSecond(t, dir, StreamState) })
	require.Len(t, aside(t, dir), 1)
	_, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	objects := 0
	require.NoError(t, b.ReadState(t.Context(), schemas.AllObjects, func(schemas.Event) error { objects++; return nil }))
	require.Equal(t, len(all), objects)
}

// TestFileThatTheServerCutsIsNoticed: of a file that is not compressed it throws away what is
// behind the damage, when somebody reads it, and goes on.
func TestFileThatTheServerCutsIsNoticed(t *testing.T) {
	b, dir, all := longBus(t)
	b.restart(t, dir, func() { cutSecond(t, dir, StreamHistory) })
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.Equal(t, b.epoch, made.Epoch)
	// Whether the reader goes over the hole or is interrupted is a matter of moments.
	_ = b.scan(t.Context(), scan{stream: StreamHistory}, func(schemas.Event) error { return nil })
	<-b.server.Mended()
	made, err = b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.NotEqual(t, b.epoch, made.Epoch, "its readers begin anew")
	requireEvents(t, all, b.read(t, Range{}))
}

// TestSlowlyOpenedStreamsAreOpenedOnceMore: mirrors that asked for a HISTORY that was still
// being read would not follow for 12 s.
func TestSlowlyOpenedStreamsAreOpenedOnceMore(t *testing.T) {
	b, dir := busOnDisk(t)
	b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	b.settle(t, StreamState)
	b.restart(t, dir, func() {})
	b.Close()
	b.server.Close()
	var log bytes.Buffer
	s, err := NewServer(DefaultServerConfig(dir), zerolog.New(&log).Level(zerolog.InfoLevel))
	require.NoError(t, err)
	s.patience = 0 // all are slow
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(s.Close)
	require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("opened once more")))
	b.server, b.Client = s, connect(t, ClientConfig{Server: s})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.Equal(t, b.epoch, made.Epoch)
	b.open(t)
	b.send(t, schemas.Added, pod("b"), 1)
	b.flush(t)
	b.settle(t, StreamState)
	info, err := b.streamInfo(t.Context(), StreamState)
	require.NoError(t, err)
	require.Nil(t, info.Mirror.Error)
	require.EqualValues(t, 2, info.State.Msgs)
}

// TestPacksAreUsedBeforeTheyAreDropped: they are made anew with a HISTORY that lost its end,
// and may be all there is of what ARCHIVE has lost.
func TestPacksAreUsedBeforeTheyAreDropped(t *testing.T) {
	b, dir, all := longBus(t)
	require.NoError(t, b.PackArchive(t.Context()))
	b.restart(t, dir, func() {
		cutSecond(t, dir, StreamArchive)
		forget(t, dir, StreamArchive)
		cutSecond(t, dir, StreamHistory)
		history := blocks(t, dir, StreamHistory) // the server still knows where it ended
		cutFile(t, history[len(history)-1])
	})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.NotEqual(t, b.epoch, made.Epoch)
	requireEvents(t, all, b.read(t, Range{}))
	require.Empty(t, b.gaps(t))
}
