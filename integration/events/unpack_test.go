package events

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// Compressed data begins with these: what JetStream compresses and keyframes (streams of
// S2), sections of bundles (frames of zstd), and packs (a block of S2, which has no mark, but
// keeps the magic line with which it begins as it is).
var (
	s2Magic   = []byte("\xff\x06\x00\x00S2sTwO")
	zstdMagic = []byte("\x28\xb5\x2f\xfd")
	packMagic = []byte("rutter pack 1\n")
)

// maxUnpacked is more than anything in a test's data directory has.
const maxUnpacked = 256 << 20

// unpacked is a file's text and, behind it, whatever in it is compressed. Where something
// only looks compressed, what it gives until it fails does no harm.
func unpacked(text []byte) []byte {
	all := bytes.Clone(text)
	for _, at := range indexes(text, s2Magic) {
		all = appendRead(all, s2.NewReader(bytes.NewReader(text[at:])))
	}
	for _, at := range indexes(text, zstdMagic) {
		r, err := zstd.NewReader(bytes.NewReader(text[at:]), zstd.WithDecoderConcurrency(1))
		if err != nil {
			continue
		}
		all = appendRead(all, r)
		r.Close()
	}
	for _, at := range indexes(text, packMagic) {
		all = append(all, unpackBlock(text, at)...)
	}
	return all
}

func appendRead(to []byte, r io.Reader) []byte {
	text, _ := io.ReadAll(io.LimitReader(r, maxUnpacked)) // ends with an error where the next message begins
	return append(to, text...)
}

func indexes(text, magic []byte) []int {
	var all []int
	for from := 0; ; {
		i := bytes.Index(text[from:], magic)
		if i < 0 {
			return all
		}
		all = append(all, from+i)
		from += i + 1
	}
}

// unpackBlock decompresses the block of S2 that begins with what stands at a place. The
// block's own length is written nowhere near: the message that it is has it, 4 bytes at the
// begin of its record, which ends with 8 bytes of a checksum.
func unpackBlock(text []byte, at int) []byte {
	for begin := at - 1; begin >= max(0, at-8); begin-- {
		for record := begin - 22; record >= max(0, begin-512); record-- {
			length := int(binary.LittleEndian.Uint32(text[record:]) &^ (1 << 31))
			end := record + length - 8
			if end <= at || end > len(text) {
				continue
			}
			if out, err := s2.Decode(nil, text[begin:end]); err == nil {
				return out
			}
		}
	}
	return nil
}

// TestWhatIsCompressedIsSearched plants a value in each form that the data directory and
// bundles have.
func TestWhatIsCompressedIsSearched(t *testing.T) {
	plain := append(bytes.Clone(packMagic), bytes.Repeat([]byte("CANARYdat, "), 100)...)
	plain = append(plain, "CANARYdata"...) // all but its end is told by where it stood before
	var stream, frame bytes.Buffer
	w := s2.NewWriter(&stream)
	_, err := w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	z, err := zstd.NewWriter(&frame)
	require.NoError(t, err)
	_, err = z.Write(plain)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	block := s2.Encode(nil, plain)
	record := make([]byte, 22)
	binary.LittleEndian.PutUint32(record, uint32(22+len("pack.archive")+len(block)+8))
	record = append(append(record, "pack.archive"...), block...)
	record = append(record, "checksum"...)
	for name, planted := range map[string][]byte{"stream of S2": stream.Bytes(), "frame of zstd": frame.Bytes(), "pack": record} {
		t.Run(name, func(t *testing.T) {
			file := append(append([]byte("something before"), planted...), "something behind"...)
			require.NotContains(t, string(file), "CANARYdata", "it is not compressed: the test tests nothing")
			require.Contains(t, string(unpacked(file)[len(file):]), "CANARYdata")
		})
	}
	require.Equal(t, "nothing", string(unpacked([]byte("nothing"))))
}
