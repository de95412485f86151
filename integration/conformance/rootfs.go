package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// libraryDirs is where Debian's dynamic loader looks.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib", "/lib64"}

// withLibraries finds a program of this machine and all shared libraries it needs; in an
// image they have the same paths.
func withLibraries(name string) (program string, files map[string]string, err error) {
	program, err = exec.LookPath(name)
	if err != nil {
		return "", nil, fmt.Errorf("%w; `./task install-conformance` installs it", err)
	}
	files = map[string]string{}
	return program, files, addNeeded(files, program)
}

func addNeeded(files map[string]string, path string) error {
	if _, ok := files[path]; ok {
		return nil
	}
	files[path] = path
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interp := make([]byte, p.Filesz)
		if _, err := p.ReadAt(interp, 0); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		loader := strings.TrimRight(string(interp), "\x00")
		files[loader] = loader
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, library := range needed {
		found, err := findLibrary(library)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := addNeeded(files, found); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("library %s is not on this machine", name)
}

// applets are links from /bin to the static busybox for every applet it has.
func applets(busybox string) (map[string]string, error) {
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	links := map[string]string{}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			links["/bin/"+applet] = "/bin/busybox"
		}
	}
	return links, nil
}
