package blockfile

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

const suffix = ".blk"

// Mended says what was done to one file.
type Mended struct {
	// Number of the file in its stream.
	Number uint32
	// Records are how many of its records could be read, and are in its place now.
	Records int
	// Aside is where the damaged file is.
	Aside string
	// Damage is what was found first.
	Damage error
}

// Described reports whether the description of a stream, which is beside its messages, is
// there and as the server wrote it.
func Described(dir, stream string) bool {
	description, err := os.ReadFile(filepath.Join(dir, natsserver.JetStreamMetaFile))
	if err != nil {
		return false
	}
	sum, err := os.ReadFile(filepath.Join(dir, natsserver.JetStreamMetaFileSum))
	if err != nil {
		return false
	}
	hash, err := newHash(stream)
	if err != nil {
		return false
	}
	_, _ = hash.Write(description) // a hash takes everything
	return hex.EncodeToString(hash.Sum(nil)) == string(sum)
}

// Damaged are the numbers of a stream's files that can't be read whole, in the directory
// dir/msgs, without the newest one: a server that has the stream open writes it.
func Damaged(dir, stream string) ([]uint32, error) {
	numbers, err := list(filepath.Join(dir, "msgs"))
	if err != nil || len(numbers) == 0 {
		return nil, err
	}
	damaged := slices.DeleteFunc(numbers[:len(numbers)-1], func(n uint32) bool {
		f, bad := readFile(filepath.Join(dir, "msgs", name(n)), stream, n)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("%s of stream %s: %w", name(n), stream, bad))
		}
		return f.damage == nil
	})
	return damaged, err // which the function above may have set
}

// Mend looks at all files of a stream in the directory dir/msgs, and puts those that are
// damaged aside, into another directory of the same file system, made if it is missing. What
// can be read of them takes their place, uncompressed. No server may have the stream open.
// After an error, which names the file, those that are named in the result are mended.
func Mend(dir, stream, aside string) ([]Mended, error) {
	numbers, err := list(filepath.Join(dir, "msgs"))
	var all []Mended
	for _, n := range numbers {
		path := filepath.Join(dir, "msgs", name(n))
		f, bad := readFile(path, stream, n)
		if bad == nil && f.damage != nil {
			m := Mended{Number: n, Records: f.records, Damage: f.damage}
			m.Aside = filepath.Join(aside, fmt.Sprintf("%s-%d-%d%s", stream, n, time.Now().UnixNano(), suffix))
			if bad = replace(path, f.sound, m.Aside); bad == nil {
				all = append(all, m)
			}
		}
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("%s of stream %s: %w", name(n), stream, bad))
		}
	}
	return all, err
}

func name(number uint32) string { return strconv.FormatUint(uint64(number), 10) + suffix }

// list are the numbers of the files in a directory, in order.
func list(dir string) ([]uint32, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint32
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), suffix)
		if n, err := strconv.ParseUint(text, 10, 32); ok && err == nil {
			numbers = append(numbers, uint32(n))
		}
	}
	slices.SortFunc(numbers, cmp.Compare)
	return numbers, nil
}

// file is what can be read of one.
type file struct {
	sound   []byte // its records, uncompressed
	records int
	damage  error // nil if that is all
}

func readFile(path, stream string, number uint32) (file, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) { // retention was faster
		return file{}, nil
	}
	if err != nil && !errors.Is(err, unix.EIO) {
		return file{}, err
	}
	f := file{damage: err} // of a bad sector; data is what lies before it
	data, err = unpack(data)
	f.damage = cmp.Or(f.damage, err)
	r, err := newReader(stream, number, data)
	if err != nil {
		return file{}, err
	}
	f.sound, f.records, err = r.sound()
	f.damage = cmp.Or(f.damage, err)
	return f, nil
}

// replace puts data into the place of a file, and the file aside. A crash leaves either the
// one or the other in place.
func replace(path string, data []byte, aside string) error {
	if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
		return err
	}
	if len(data) == 0 {
		return os.Rename(path, aside)
	}
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return errors.Join(err, os.Remove(aside))
	}
	return nil
}
