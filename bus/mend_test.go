package bus

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// busOnDisk is a bus that can be stopped and started again.
func busOnDisk(t *testing.T) (b *testBus, dir string) {
	t.Helper()
	dir = t.TempDir()
	b = &testBus{server: testServer(t, dir)}
	b.Client = connect(t, ClientConfig{Server: b.server})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b.epoch, b.rev = made.Epoch, 100
	b.open(t)
	return b, dir
}

// restart stops the server, calls fn, and starts it again.
func (b *testBus) restart(t *testing.T, dir string, fn func()) {
	t.Helper()
	b.window.Close()
	b.Close()
	b.server.Close()
	fn()
	b.server = testServer(t, dir)
	b.Client = connect(t, ClientConfig{Server: b.server})
}

// blocks are the files of a stream, in order.
func blocks(t *testing.T, dir, stream string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", accountCore, "streams", stream, "msgs", "*.blk"))
	require.NoError(t, err)
	slices.SortFunc(files, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return files
}

// cutFile leaves the first half of a file.
func cutFile(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()/2))
}

// cut stops the server, cuts the file of a stream in half, and starts it again.
func (b *testBus) cut(t *testing.T, dir, stream string) {
	t.Helper()
	b.restart(t, dir, func() {
		files := blocks(t, dir, stream)
		require.Len(t, files, 1)
		cutFile(t, files[0])
	})
}

// cutBus is a bus whose server was stopped and has lost the end of a stream's file.
func cutBus(t *testing.T, stream string) (b *testBus, all []schemas.Event, last int64) {
	t.Helper()
	b, dir := busOnDisk(t)
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
	b.cut(t, dir, stream)
	return b, all, last
}

func TestStateThatLostMessagesIsMadeAgain(t *testing.T) {
	b, all, _ := cutBus(t, StreamState)
	holed, err := b.mirrorHoled(t.Context(), StreamState)
	require.NoError(t, err)
	require.True(t, holed)
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.Equal(t, b.epoch, made.Epoch, "HISTORY has lost nothing")
	require.False(t, made.Partial)
	require.Equal(t, all, b.read(t, Range{}))
	objects := 0
	require.NoError(t, b.ReadState(t.Context(), schemas.AllObjects, func(schemas.Event) error { objects++; return nil }))
	require.Equal(t, 61, objects)
	holed, err = b.mirrorHoled(t.Context(), StreamState)
	require.NoError(t, err)
	require.False(t, holed)
}

// TestArchiveIsMendedFromHistory: what the archive's file has lost is read as if it were
// there, whoever reads it and whatever for, and again after the next start.
func TestArchiveIsMendedFromHistory(t *testing.T) {
	b, all, last := cutBus(t, StreamArchive)
	require.Less(t, len(b.read(t, Range{})), len(all), "nothing is lost: the test tests nothing")
	for start := range 3 {
		if start == 2 {
			require.NoError(t, b.DeleteStream(t.Context(), StreamMended))
		}
		made, err := b.MakeStreams(t.Context(), testCluster, 1)
		require.NoError(t, err)
		require.Equal(t, b.epoch, made.Epoch)
		requireEvents(t, all, b.read(t, Range{}))
		requireEvents(t, all[40:], b.read(t, Range{From: all[40].Seq}))
		requireEvents(t, all[60:], b.read(t, Range{Filter: pod("last").Subject()}))
		require.Empty(t, b.gaps(t))
		for i, e := range all {
			before, behind, err := b.Divide(t.Context(), func(have schemas.Event) bool { return have.Rev >= e.Rev })
			require.NoError(t, err)
			require.Equal(t, e.Seq, behind.Seq)
			if i > 0 {
				require.Equal(t, all[i-1].Seq, before.Seq)
			}
		}
		newest, err := b.LastEvent(t.Context(), StreamArchive)
		require.NoError(t, err)
		require.Equal(t, last, newest.Rev)
		head, err := b.Head(t.Context(), StreamArchive)
		require.NoError(t, err)
		require.Len(t, head.holes, 1)
		held, err := b.HeldBy(t.Context(), StreamArchive)
		require.NoError(t, err)
		require.EqualValues(t, len(all), held.Messages+head.Mended, "what is mended is counted")
		mended, err := b.HeldBy(t.Context(), StreamMended)
		require.NoError(t, err)
		require.Equal(t, last, mended.Last.Rev)
		b.copiesAgree(t)
	}
	b.open(t)
	b.send(t, schemas.Added, pod("new"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	require.Len(t, b.read(t, Range{}), len(all)+1)
	require.NoError(t, b.DeleteStream(t.Context(), StreamMended))
	require.NoError(t, b.DeleteStream(t.Context(), StreamHistory))
	_, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	gaps := b.gaps(t)
	require.Len(t, gaps, 1, "what is not kept is named")
	var told []schemas.Event
	for _, e := range b.read(t, Range{}) {
		if e.Lost() {
			require.Equal(t, gaps[0], e)
			require.Equal(t, told[len(told)-1].Rev, e.PrevRev)
		}
		told = append(told, e)
	}
	require.Less(t, len(told), len(all))
	b.copiesAgree(t)
}

// copiesAgree checks the archive with its holes as verify does.
func (b *testBus) copiesAgree(t testing.TB) {
	t.Helper()
	r := &Report{}
	require.NoError(t, b.verifyArchive(t.Context(), r))
	require.NoError(t, b.verifyPacks(t.Context(), r))
	require.True(t, r.OK(), "%+v", r)
	require.Len(t, r.Gaps, len(b.gaps(t)), "what is lost is told")
}

func requireEvents(t testing.TB, want, have []schemas.Event) {
	t.Helper()
	require.Equal(t, len(want), len(have))
	for i := range want {
		require.True(t, sameEvent(want[i], have[i]), "%d: %+v is not %+v", i, have[i], want[i])
	}
}

func (b *testBus) gaps(t testing.TB) []schemas.Event {
	t.Helper()
	var all []schemas.Event
	require.NoError(t, b.Gaps(t.Context(), func(e schemas.Event) error { all = append(all, e); return nil }))
	return all
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
		holed, err := b.mirrorHoled(t.Context(), StreamState)
		require.NoError(t, err)
		require.False(t, holed, "look %d", looked)
		holes, err := b.findHoles(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, holes, "look %d", looked)
		select {
		case err := <-sent:
			require.NoError(t, err)
			return
		default:
		}
	}
}

// TestOldHolesAreFoundByThePacks: what HISTORY no longer has is mended from PACKS, and what
// these have lost too is named.
func TestOldHolesAreFoundByThePacks(t *testing.T) {
	for _, packLost := range []bool{false, true} {
		t.Run(fmt.Sprintf("packLost=%t", packLost), func(t *testing.T) {
			b, dir := busOnDisk(t)
			for i := range 6 * packEvents {
				b.send(t, schemas.Added, pod(fmt.Sprint("p", i)), i)
			}
			b.flush(t)
			b.settle(t, StreamArchive)
			require.NoError(t, b.PackArchive(t.Context()))
			all := b.read(t, Range{})
			if packLost {
				packs, err := b.openPacks(t.Context())
				require.NoError(t, err)
				require.NoError(t, packs.stream.DeleteMsg(t.Context(), packs.first+4))
			}
			require.NoError(t, b.DeleteStream(t.Context(), StreamHistory))
			b.cut(t, dir, StreamArchive)
			_, err := b.MakeStreams(t.Context(), testCluster, 1)
			require.NoError(t, err)
			got := b.read(t, Range{Filter: pod("p600").Subject()})
			if !packLost {
				require.Empty(t, b.gaps(t))
				require.Len(t, got, 1)
				requireEvents(t, all, b.read(t, Range{}))
				b.copiesAgree(t)
				return
			}
			gaps := b.gaps(t)
			require.Len(t, gaps, 1)
			require.Len(t, got, 1, "only the gap")
			require.Equal(t, gaps[0], got[0])
			require.Equal(t, all[4*packEvents-1].Rev, gaps[0].PrevRev)
			require.Equal(t, all[5*packEvents].Rev, gaps[0].Rev)
			whole := b.read(t, Range{})
			requireEvents(t, all[:4*packEvents], whole[:4*packEvents])
			require.Equal(t, gaps[0], whole[4*packEvents])
			requireEvents(t, all[5*packEvents:], whole[4*packEvents+1:])
			b.copiesAgree(t)
		})
	}
}
