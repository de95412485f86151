// Package volume makes the volumes of pods on this node.
//
// Volumes with content from the API (configMap, secret, downwardAPI,
// projected) are replaced as a whole: a reader inside the container sees the
// old files or the new ones, never a mix. Content that may be secret lives in
// memory only.
package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// File is one file of a payload.
type File struct {
	Data []byte
	Mode fs.FileMode // permission bits
	UID  *int64      // owner; nil means root
}

// Payload is the wanted content of a volume by relative path.
type Payload map[string]File

const dataLink, newLink = "..data", "..data_tmp"

var errPath = errors.New("must be relative and stay inside the volume")

func checkPath(p string) error {
	if p == "" || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.HasPrefix(p, "..") {
		return fmt.Errorf("path %q: %w", p, errPath)
	}
	return nil
}

// Write replaces the content of dir by the payload and reports whether it
// differed. The files sit in a directory named by time; ..data points to it and
// user-visible names point through ..data; one rename of ..data switches all.
// group, when set, owns everything and may read it.
func Write(dir string, want Payload, group *int64) (changed bool, err error) {
	for p := range want {
		if err := checkPath(p); err != nil {
			return false, err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if old != "" && same(filepath.Join(dir, old), want) {
		return false, link(dir, want)
	}
	stamp, err := os.MkdirTemp(dir, "..gen_")
	if err != nil {
		return false, err
	}
	if err := fill(stamp, want, group); err != nil {
		return false, errors.Join(err, os.RemoveAll(stamp))
	}
	tmp := filepath.Join(dir, newLink)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Base(stamp), tmp); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	if err := link(dir, want); err != nil {
		return true, err
	}
	return true, tidy(dir, want, filepath.Base(stamp))
}

// same compares the payload with what is on disk.
func same(gen string, want Payload) bool {
	count := 0
	err := filepath.WalkDir(gen, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(gen, p)
		if err != nil {
			return err
		}
		f, ok := want[rel]
		if !ok {
			return errPath
		}
		have, err := os.ReadFile(p) //nolint:gosec // only the agent writes this directory: containers see it read-only
		if err != nil || !bytes.Equal(have, f.Data) {
			return errPath
		}
		count++
		return nil
	})
	return err == nil && count == len(want)
}

func fill(gen string, want Payload, group *int64) error {
	if err := own(gen, 0o755, nil, group); err != nil {
		return err
	}
	for p, f := range want {
		full := filepath.Join(gen, p)
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if err := os.MkdirAll(filepath.Join(gen, d), 0o755); err != nil {
				return err
			}
			if err := own(filepath.Join(gen, d), 0o755, nil, group); err != nil {
				return err
			}
		}
		if err := os.WriteFile(full, f.Data, 0o600); err != nil {
			return err
		}
		mode := f.Mode.Perm()
		if group != nil {
			mode |= 0o040
		}
		if err := own(full, mode, f.UID, group); err != nil {
			return err
		}
	}
	return nil
}

func own(p string, mode fs.FileMode, user, group *int64) error {
	uid, gid := -1, -1
	if user != nil {
		uid = int(*user)
	}
	if group != nil {
		gid = int(*group)
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Lchown(p, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(p, mode)
}

// link makes the names that users see.
func link(dir string, want Payload) error {
	for _, name := range tops(want) {
		p := filepath.Join(dir, name)
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		if err := os.Symlink(path.Join(dataLink, name), p); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

func tops(want Payload) []string {
	seen := map[string]bool{}
	var out []string
	for p := range want {
		top, _, _ := strings.Cut(p, "/")
		if !seen[top] {
			seen[top] = true
			out = append(out, top)
		}
	}
	sort.Strings(out)
	return out
}

// tidy removes names and generations that are no longer used.
func tidy(dir string, want Payload, gen string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	keep := map[string]bool{gen: true, dataLink: true}
	for _, name := range tops(want) {
		keep[name] = true
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
