package bus

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// packedBus has a log of some packs, and what is in them.
func packedBus(t *testing.T) (*testBus, *packs, []schemas.Event) {
	t.Helper()
	b := startBus(t)
	b.fill(t, rand.New(rand.NewPCG(1, 2)), 900)
	all := b.read(t, Range{})
	require.NoError(t, b.PackArchive(t.Context()))
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	require.Greater(t, packs.last, uint64(4))
	return b, packs, all
}

// replace puts other packs into PACKS: those that there are, the third of them changed.
func (b *testBus) replace(t *testing.T, packs *packs, change func([]byte) []byte) {
	t.Helper()
	var kept []pack
	for seq := packs.first; seq <= packs.last; seq++ {
		p, err := packs.get(t.Context(), seq)
		require.NoError(t, err)
		kept = append(kept, p)
	}
	require.NoError(t, packs.stream.Purge(t.Context()))
	kept[2].body = change(kept[2].body)
	for _, p := range kept {
		require.NoError(t, packs.append(t.Context(), p, 0))
	}
}

// repacked changes the events of a pack.
func repacked(t *testing.T, change func([]schemas.Event) []schemas.Event) func([]byte) []byte {
	return func(body []byte) []byte {
		all := unpacked(t, body, func(schemas.EventType, schemas.Key) bool { return true })
		w := newPackWriter()
		for _, e := range change(all) {
			w.add(&e)
		}
		return w.encode()
	}
}

func TestVerifyComparesPacksWithTheArchive(t *testing.T) {
	type events = []schemas.Event
	for name, tc := range map[string]struct {
		change func(t *testing.T) func([]byte) []byte
		want   Copy // but for Events
	}{
		"nothing wrong": {func(*testing.T) func([]byte) []byte { return func(body []byte) []byte { return body } }, Copy{}},
		"another object": {func(t *testing.T) func([]byte) []byte {
			return repacked(t, func(all events) events { all[7].Object = []byte(`{"forged":true}`); return all })
		}, Copy{Different: 1}},
		"another author": {func(t *testing.T) func([]byte) []byte {
			return repacked(t, func(all events) events { all[7].Header.User = "nobody"; return all })
		}, Copy{Different: 1}},
		"another time": {func(t *testing.T) func([]byte) []byte {
			return repacked(t, func(all events) events { all[7].Recorded = all[7].Recorded.Add(1); return all })
		}, Copy{Different: 1}},
		"two missing": {func(t *testing.T) func([]byte) []byte {
			return repacked(t, func(all events) events { return slices.Delete(all, 7, 9) })
		}, Copy{Missing: 2}},
		"the end missing": {func(t *testing.T) func([]byte) []byte {
			return repacked(t, func(all events) events { return all[:len(all)-1] })
		}, Copy{Missing: 1}},
		"one twice": {func(t *testing.T) func([]byte) []byte {
			return repacked(t, func(all events) events { return slices.Insert(all, 7, all[6]) })
		}, Copy{Extra: 1}},
		"no pack": {func(*testing.T) func([]byte) []byte { return func([]byte) []byte { return []byte("no pack") } }, Copy{Damaged: 1}},
		"cut": {func(t *testing.T) func([]byte) []byte {
			return func(body []byte) []byte {
				text, err := s2.Decode(nil, body)
				require.NoError(t, err)
				return s2.Encode(nil, text[:len(text)-3])
			}
		}, Copy{Damaged: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b, packs, all := packedBus(t)
			b.replace(t, packs, tc.change(t))
			report := &Report{}
			require.NoError(t, b.verifyPacks(t.Context(), report))
			require.Equal(t, tc.want == Copy{}, report.OK(), "%+v", report)
			require.LessOrEqual(t, report.Packs.Events, len(all))
			require.Greater(t, report.Packs.Events, len(all)-4*packEvents)
			if tc.want != (Copy{}) {
				require.Len(t, report.Examples, report.Packs.Missing+report.Packs.Different+report.Packs.Extra+report.Packs.Damaged)
				require.Regexp(t, `revision \d+, message \d+ of |pack \d+, of the messages \d+ to \d+ of ARCHIVE: pack can't be read`, report.Examples[0])
			}
			report.Packs.Events = 0
			require.Equal(t, tc.want, report.Packs, "%v", report.Examples)
		})
	}
}

func TestVerifyBearsLostPacksAndAnArchiveThatForgot(t *testing.T) {
	b, packs, all := packedBus(t)
	require.NoError(t, packs.stream.DeleteMsg(t.Context(), 2))
	archive, err := b.js.Stream(t.Context(), StreamArchive)
	require.NoError(t, err)
	require.NoError(t, archive.Purge(t.Context(), jetstream.WithPurgeSequence(all[40].Seq)))
	report := &Report{}
	require.NoError(t, b.verifyArchive(t.Context(), report))
	require.NoError(t, b.verifyPacks(t.Context(), report))
	require.True(t, report.OK(), "%+v", report)
	require.Equal(t, len(all)-40, report.Archive.Events)
	require.Positive(t, report.Packs.Events)
	msg := nats.NewMsg(packSubject) // without the sequences that it covers
	_, err = b.js.PublishMsg(t.Context(), msg)
	require.NoError(t, err)
	require.NoError(t, b.verifyPacks(t.Context(), report))
	require.Equal(t, 1, report.Packs.Damaged)
}

func TestVerifyComparesTheArchiveWithHistory(t *testing.T) {
	b, _, all := packedBus(t)
	archive, err := b.js.Stream(t.Context(), StreamArchive)
	require.NoError(t, err)
	for _, e := range all[50:53] {
		require.NoError(t, archive.DeleteMsg(t.Context(), e.Seq))
	}
	report := &Report{}
	require.NoError(t, b.verifyArchive(t.Context(), report))
	require.Equal(t, Copy{Events: len(all), Missing: 3}, report.Archive, "%v", report.Examples)
	require.Contains(t, report.Examples[0], "ARCHIVE lacks revision ")
	require.NoError(t, b.verifyPacks(t.Context(), report))
	require.Equal(t, 3, report.Packs.Extra, "packs still have it: %v", report.Examples)
	require.False(t, report.OK())
}
