package certfile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/util/filesystem"
)

const (
	// poll is for file systems that don't tell of changes, and for links to other places.
	poll = 30 * time.Second
	// settle is how long files that don't fit together may take until the second is
	// written as well.
	settle = 200 * time.Millisecond
)

// followed is what is made of some files, as they were when they were last right.
type followed[T any] struct {
	name  string
	paths []string
	make  func(contents [][]byte) (T, error)
	now   atomic.Pointer[read[T]]

	mu        sync.Mutex
	refused   refusal                        // guarded by mu
	listeners []dynamiccertificates.Listener // guarded by mu
}

// read is what files held, and what was made of it.
type read[T any] struct {
	contents [][]byte
	made     T
}

// refusal is what was told already: it won't get better by being read again.
type refusal struct {
	contents [][]byte
	why      string
}

// load reads the files for the first time.
func (f *followed[T]) load() error {
	next, err := f.read()
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	f.now.Store(next)
	return nil
}

func (f *followed[T]) read() (*read[T], error) {
	next := &read[T]{}
	for _, path := range f.paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return next, err
		}
		next.contents = append(next.contents, data)
	}
	var err error
	if next.made, err = f.make(next.contents); err != nil {
		return next, fmt.Errorf("%s: %w", strings.Join(f.paths, ", "), err)
	}
	return next, nil
}

// Name says what the files are for.
func (f *followed[T]) Name() string { return f.name }

// AddListener has somebody told of each change, after it.
func (f *followed[T]) AddListener(l dynamiccertificates.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners = append(f.listeners, l)
}

// Follow takes over changes of the files until the context ends, and tells how each went.
func (f *followed[T]) Follow(ctx context.Context, told func(name string, err error)) {
	var directories []string
	for _, path := range f.paths {
		directories = append(directories, filepath.Dir(path))
	}
	slices.Sort(directories)
	var g sync.WaitGroup
	for _, directory := range slices.Compact(directories) {
		g.Go(func() {
			filesystem.WatchUntil(ctx, poll, directory, func() { f.reload(ctx, told) }, func(err error) {
				told(f.name, fmt.Errorf("watch %s: %w", directory, err))
			})
		})
	}
	g.Wait()
}

// reload looks at the files. What is wrong with them is told if it stays so.
func (f *followed[T]) reload(ctx context.Context, told func(string, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, err := f.read()
	if err != nil && !f.knows(next, err) {
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return
		}
		next, err = f.read()
	}
	switch {
	case err != nil && f.knows(next, err):
		return
	case err != nil:
		f.refused = refusal{next.contents, err.Error()}
		told(f.name, err)
		return
	}
	f.refused = refusal{}
	if reflect.DeepEqual(next.contents, f.now.Load().contents) {
		return
	}
	f.now.Store(next)
	told(f.name, nil)
	for _, l := range f.listeners {
		l.Enqueue()
	}
}

// knows tells that this was refused already. The caller holds mu.
func (f *followed[T]) knows(r *read[T], err error) bool {
	return reflect.DeepEqual(f.refused, refusal{r.contents, err.Error()})
}
