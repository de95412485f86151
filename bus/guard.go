package bus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bus/internal/blockfile"
)

// A server that fails to open a stream deletes it (nats-server 2.15.2: stream.stop, called by
// addStreamWithAssignment): over one file that it can't read, whatever the reason. So all
// files of streams have a second name while they are opened.

const (
	// guardDir holds the second names, in the store directory. What is there at start is of a
	// start that was cut short.
	guardDir = "opening"
	// openedDir is what guardDir becomes when all is well, until it is deleted.
	openedDir = "opened"
)

// openGuarded opens all streams. Those that the server could not open are opened again once
// their files are mended; if that does not help they are put aside.
func (s *Server) openGuarded(open, closeAll func() error) error {
	if err := s.guard(); err != nil {
		return fmt.Errorf("bus: guard the streams: %w", err)
	}
	if err := open(); err != nil {
		return err
	}
	refused, err := s.refused()
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		if err := closeAll(); err != nil {
			return err
		}
		for _, stream := range refused {
			s.log.Error().Str("stream", stream).Msg("the server could not open a stream, looking at its files")
			if err := s.restore(stream); err != nil {
				return err
			}
			s.mendFiles(stream)
			if err := s.putDescriptionAside(stream); err != nil {
				return err
			}
		}
		if err := open(); err != nil {
			return err
		}
		if refused, err = s.refused(); err != nil {
			return err
		}
		for _, stream := range refused {
			if s.undescribed(stream) {
				continue
			}
			if err := errors.Join(s.restore(stream), s.putAside(stream)); err != nil {
				return err
			}
		}
	}
	if err := s.unguard(); err != nil {
		return fmt.Errorf("bus: guard of the streams: %w", err)
	}
	return nil
}

// guard gives all files of streams a second name, after it has brought back what a server
// deleted that was ended at that.
func (s *Server) guard() error {
	streams, second := s.streamDir(""), filepath.Join(s.cfg.StoreDir, guardDir)
	if err := linkTree(second, streams); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(second), os.RemoveAll(filepath.Join(s.cfg.StoreDir, openedDir))); err != nil {
		return err
	}
	err := linkTree(streams, second)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EMLINK) {
		s.log.Warn().Err(err).Msg("the file system has no hard links: a stream that can't be opened would be lost")
		return os.RemoveAll(second)
	}
	return err
}

// unguard forgets the second names.
func (s *Server) unguard() error {
	opened := filepath.Join(s.cfg.StoreDir, openedDir)
	err := os.Rename(filepath.Join(s.cfg.StoreDir, guardDir), opened)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(opened))
}

// linkTree gives the files of one directory, and of those in it, the same names in another
// one, where they don't exist. Without the first one it does nothing.
func linkTree(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		path, second := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.IsDir() && !strings.HasPrefix(e.Name(), "."): // those are of streams that are being deleted
			err = linkTree(path, second)
		case e.Type().IsRegular():
			err = os.Link(path, second)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// refused are the streams that the server has not opened.
func (s *Server) refused() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.cfg.StoreDir, guardDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("bus: streams: %w", err)
	}
	info, err := s.nats.Jsz(&natsserver.JSzOptions{Account: accountCore, Streams: true})
	if err != nil {
		return nil, fmt.Errorf("bus: streams: %w", err)
	}
	var names []string
	for _, e := range entries {
		opened := slices.ContainsFunc(info.AccountDetails, func(a *natsserver.AccountDetail) bool {
			return slices.ContainsFunc(a.Streams, func(d natsserver.StreamDetail) bool { return d.Name == e.Name() })
		})
		if !opened {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// restore brings back what the server has deleted of a stream.
func (s *Server) restore(stream string) error {
	if err := linkTree(filepath.Join(s.cfg.StoreDir, guardDir, stream), s.streamDir(stream)); err != nil {
		return fmt.Errorf("bus: stream %s: %w", stream, err)
	}
	return nil
}

// Files of a stream that say what it is: its configuration, and the hash of that.
const (
	description    = natsserver.JetStreamMetaFile
	descriptionSum = natsserver.JetStreamMetaFileSum
)

// madeOver are the streams that can be made over the messages they have. HISTORY's epoch and
// STATE's lack of objects are known by their description only; both are made of others.
var madeOver = []string{StreamArchive, StreamPacks, StreamMended, StreamKeyframes}

// putDescriptionAside takes away the description of a stream if it is damaged and MakeStreams
// can make the stream again over its messages.
func (s *Server) putDescriptionAside(stream string) error {
	if !slices.Contains(madeOver, stream) || blockfile.Described(s.streamDir(stream), stream) {
		return nil
	}
	aside, second := s.asidePath(stream), filepath.Join(s.cfg.StoreDir, guardDir, stream)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("bus: stream %s: %w", stream, err)
	}
	for _, name := range []string{description, descriptionSum} {
		err := os.Rename(filepath.Join(s.streamDir(stream), name), filepath.Join(aside, name))
		if err = errors.Join(err, os.Remove(filepath.Join(second, name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("bus: stream %s: %w", stream, err)
		}
	}
	s.log.Error().Str("stream", stream).Str("aside", aside).Msg("the description of a stream is damaged, and is put aside")
	return nil
}

// undescribed reports whether a stream is to be made again over its messages.
func (s *Server) undescribed(stream string) bool {
	_, err := os.Stat(filepath.Join(s.streamDir(stream), description))
	return slices.Contains(madeOver, stream) && errors.Is(err, fs.ErrNotExist)
}

// asidePath is a new place for something of a stream.
func (s *Server) asidePath(stream string) string {
	return filepath.Join(s.cfg.StoreDir, DamagedDir, fmt.Sprintf("%s-%d", stream, time.Now().UnixNano()))
}

// putAside takes away a stream that the server can't open, though no message of it is damaged.
func (s *Server) putAside(stream string) error {
	aside := s.asidePath(stream)
	if err := errors.Join(os.MkdirAll(filepath.Dir(aside), 0o700), os.Rename(s.streamDir(stream), aside)); err != nil {
		return fmt.Errorf("bus: stream %s: %w", stream, err)
	}
	s.log.Error().Str("stream", stream).Str("aside", aside).Msg("a stream can't be opened, and is put aside")
	return os.RemoveAll(filepath.Join(s.cfg.StoreDir, guardDir, stream))
}
