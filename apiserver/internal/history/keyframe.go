package history

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/s2"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// A keyframe is, compressed with S2: the magic line, the revision, the number of objects,
// and for each its key, revision and bytes. Numbers are unsigned varints; keys and bytes
// have their length in front.
const keyframeMagic = "rutter keyframe 1\n"

const (
	maxKeyLength    = 4 << 10
	maxObjectLength = 64 << 20
)

var errKeyframe = errors.New("keyframe can't be read")

// encodeKeyframe writes a state.
func encodeKeyframe(p *view.Past) ([]byte, error) {
	var body bytes.Buffer
	w := s2.NewWriter(&body, s2.WriterConcurrency(1))
	buf := append([]byte(keyframeMagic), binary.AppendUvarint(nil, uint64(p.Rev))...)
	buf = binary.AppendUvarint(buf, uint64(p.Objects))
	var err error
	p.Each(func(i *view.Item) bool {
		key := i.Key[len(schemas.RegistryPrefix):]
		buf = binary.AppendUvarint(buf, uint64(len(key)))
		buf = append(buf, key...)
		buf = binary.AppendUvarint(buf, uint64(i.Rev))
		buf = binary.AppendUvarint(buf, uint64(len(i.Object)))
		buf = append(buf, i.Object...)
		_, err = w.Write(buf)
		buf = buf[:0]
		return err == nil
	})
	if err == nil && len(buf) > 0 { // no objects
		_, err = w.Write(buf)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("keyframe of revision %d: %w", p.Rev, err)
	}
	return body.Bytes(), nil
}

// decodeKeyframe reads what encodeKeyframe wrote.
func decodeKeyframe(body []byte) (int64, map[schemas.Key]*view.Item, error) {
	r := bufio.NewReaderSize(s2.NewReader(bytes.NewReader(body)), 1<<16)
	magic := make([]byte, len(keyframeMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != keyframeMagic {
		return 0, nil, fmt.Errorf("%w: it does not begin as one", errKeyframe)
	}
	rev, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: revision: %w", errKeyframe, err)
	}
	count, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: number of objects: %w", errKeyframe, err)
	}
	items := make(map[schemas.Key]*view.Item, min(count, 1<<16))
	for n := range count {
		key, item, err := readItem(r)
		if err != nil {
			return 0, nil, fmt.Errorf("%w: object %d of %d: %w", errKeyframe, n, count, err)
		}
		items[key] = item
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return 0, nil, fmt.Errorf("%w: something follows its %d objects", errKeyframe, count)
	}
	return int64(rev), items, nil
}

func readItem(r *bufio.Reader) (schemas.Key, *view.Item, error) {
	name, err := readBytes(r, maxKeyLength)
	if err != nil {
		return schemas.Key{}, nil, err
	}
	key, err := schemas.ParseKey(string(name))
	if err != nil {
		return schemas.Key{}, nil, err
	}
	rev, err := binary.ReadUvarint(r)
	if err != nil {
		return schemas.Key{}, nil, err
	}
	object, err := readBytes(r, maxObjectLength)
	return key, &view.Item{Key: key.Path(), Rev: int64(rev), Object: object}, err
}

// readBytes trusts no length: it takes memory only for what is there.
func readBytes(r *bufio.Reader, limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("length %d is above %d", n, limit)
	}
	if n <= 1<<20 {
		data := make([]byte, n)
		_, err = io.ReadFull(r, data)
		return data, err
	}
	var data bytes.Buffer
	if _, err := io.CopyN(&data, r, int64(n)); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}
