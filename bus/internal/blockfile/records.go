package blockfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
	natsserver "github.com/nats-io/nats-server/v2/server"
)

const (
	headSize = 22
	hashSize = 8
	// maxRecord is the length from which on the server takes a record for damaged, in bytes.
	maxRecord = 32 << 20
	// Bits of the length and of the sequence: the record has headers; its message was erased.
	// A tombstone has a bit of its own, and so is above the highest sequence.
	headersBit      = 1 << 31
	erasedBit       = 1 << 63
	highestSequence = 1 << 48
)

// unpack returns a file's records as they were before compression. With an error come those
// in front of what can't be decompressed.
func unpack(file []byte) ([]byte, error) {
	var info natsserver.CompressionInfo
	n, err := info.UnmarshalMetadata(file)
	if err != nil || n == 0 {
		return file, err
	}
	packed := file[n:]
	whole, err := info.Algorithm.Decompress(packed)
	switch {
	case err == nil && uint64(len(whole)) == info.OriginalSize:
		return whole, nil
	case err == nil:
		err = fmt.Errorf("%d bytes where there were %d", len(whole), info.OriginalSize)
	}
	part, _ := io.ReadAll(s2.NewReader(bytes.NewReader(packed))) // as far as it goes
	return part, err
}

// reader judges the records of one file.
type reader struct {
	hash *highwayhash.Digest64
	buf  []byte
}

func newReader(stream string, number uint32, buf []byte) (*reader, error) {
	hash, err := newHash(fmt.Sprintf("%s-%d", stream, number))
	return &reader{hash: hash, buf: buf}, err
}

func newHash(name string) (*highwayhash.Digest64, error) {
	key := sha256.Sum256([]byte(name))
	return highwayhash.NewDigest64(key[:])
}

var errRecord = errors.New("record is damaged")

// head is what a record begins with.
type head struct {
	length int // of the record, in bytes
	text   int // of the subject
	skip   int // bytes behind the subject that the hash leaves out
	seq    uint64
}

// head reads the head of a record at an offset. errRecord if it can't be one.
func (r *reader) head(offset int) (head, error) {
	rest := r.buf[offset:]
	if len(rest) < headSize+hashSize {
		return head{}, errRecord
	}
	size := binary.LittleEndian.Uint32(rest)
	h := head{
		length: int(size &^ headersBit), text: int(binary.LittleEndian.Uint16(rest[20:])),
		seq: binary.LittleEndian.Uint64(rest[4:]),
	}
	if size&headersBit != 0 {
		h.skip = 4
	}
	if h.length > len(rest) || h.length > maxRecord || headSize+h.text+h.skip+hashSize > h.length {
		return head{}, errRecord
	}
	return h, nil
}

// at returns the length of the record at an offset. errRecord if there is none, or not the one
// that was written.
func (r *reader) at(offset int) (length int, err error) {
	h, err := r.head(offset)
	if err != nil {
		return 0, err
	}
	record := r.buf[offset : offset+h.length]
	sum, body := record[h.length-hashSize:], record[headSize:h.length-hashSize]
	r.hash.Reset()
	_, _ = r.hash.Write(record[4:20]) // a hash takes everything
	_, _ = r.hash.Write(body[:h.text])
	_, _ = r.hash.Write(body[h.text+h.skip:])
	if !bytes.Equal(sum, r.hash.Sum(make([]byte, 0, hashSize))) {
		return 0, errRecord
	}
	return h.length, nil
}

// sound returns all records that are as they were written, one behind the other, and how many
// there are. With an error there is something else between or behind them.
func (r *reader) sound() (kept []byte, records int, err error) {
	from, at := 0, 0 // what lies between is sound
	for at < len(r.buf) {
		length, bad := r.at(at)
		if bad == nil {
			at += length
			records++
			continue
		}
		if err == nil {
			err = fmt.Errorf("%w: byte %d of %d", bad, at, len(r.buf))
		}
		kept = append(kept, r.buf[from:at]...)
		from = r.next(at + 1)
		at = from
	}
	if err == nil {
		return r.buf, records, nil
	}
	return append(kept, r.buf[from:]...), records, err
}

// next is the offset of the first sound record at or behind another one; the end if there is
// none. Of random bytes next to none are hashed: the sequence of a message is no such number.
func (r *reader) next(offset int) int {
	for ; offset < len(r.buf); offset++ {
		if h, err := r.head(offset); err != nil || h.seq&^erasedBit > highestSequence {
			continue
		}
		if _, err := r.at(offset); err == nil {
			return offset
		}
	}
	return len(r.buf)
}
