package nodeagent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/nodeagent/internal/daemon"
	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/netns"
	"github.com/rutter-project/rutter/nodeagent/internal/podwork"
)

// Purge removes everything an agent of this configuration made on the machine:
// containers, containerd, mounts, namespaces, cgroups, logs and data. No agent
// may run. The network's part is the network's to remove.
func Purge(ctx context.Context, cfg Config, log zerolog.Logger) error {
	var errs []error
	if err := purgeContainers(ctx, cfg, log); err != nil {
		errs = append(errs, err)
	}
	if cfg.ContainerdSocket == "" {
		if err := daemon.Stop(ctx, cfg.daemon()); err != nil {
			errs = append(errs, err)
		}
	}
	killLeftovers(cfg)
	if err := purgeLogs(cfg); err != nil {
		errs = append(errs, err)
	}
	for _, dir := range []string{cfg.runDir(), cfg.podsDir(), cfg.daemon().Root} {
		if err := netns.UnmountBelow(dir); err != nil {
			errs = append(errs, err)
			continue // what is mounted must not be deleted
		}
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, err)
		}
		_ = os.Remove(filepath.Dir(dir)) // if no other node uses it
	}
	if err := purgeCgroups(ctx, cfg.cgroup()); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// purgeContainers removes the node's containers by its containerd, which is
// started for this if it does not run.
func purgeContainers(ctx context.Context, cfg Config, log zerolog.Logger) error {
	if cfg.ContainerdSocket == "" {
		if _, err := os.Stat(cfg.daemon().Root); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		dctx, cancel := context.WithCancel(ctx)
		g, dctx := errgroup.WithContext(dctx)
		d := daemon.New(cfg.daemon(), log)
		g.Go(func() error { return d.Run(dctx) })
		defer func() { cancel(); _ = g.Wait() }()
		select {
		case <-d.Ready():
		case <-dctx.Done():
			return g.Wait()
		}
	}
	e, err := engine.Connect(ctx, engine.Config{Socket: cfg.socket(), Namespace: cfg.namespace(), Snapshotter: cfg.Snapshotter})
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	all, err := e.List(ctx)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, f := range all {
		g.Go(func() error { return e.Remove(gctx, f.ID) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("remove containers: %w", err)
	}
	if cfg.ContainerdSocket != "" {
		return e.RemoveImages(ctx)
	}
	return nil
}

// purgeLogs removes the logs of the pods whose state is still there.
func purgeLogs(cfg Config) error {
	dirs, err := podwork.SavedLogs(podwork.Dirs{Pods: cfg.podsDir(), Logs: cfg.LogDir})
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// killLeftovers ends shims and containers that containerd lost track of, as when
// it died in the middle of a start. All of the node's cgroup and of its
// containerd namespace is ours.
func killLeftovers(cfg Config) {
	shims, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	for _, path := range shims {
		data, err := os.ReadFile(path)
		if err == nil && bytes.Contains(data, []byte("containerd-shim-runc-v2\x00")) && bytes.Contains(data, []byte("\x00-namespace\x00"+cfg.namespace()+"\x00")) {
			kill(filepath.Base(filepath.Dir(path)))
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + cfg.cgroup() + "/*/*/cgroup.procs")
	unified, _ := filepath.Glob("/sys/fs/cgroup" + cfg.cgroup() + "/*/*/cgroup.procs")
	for _, path := range append(groups, unified...) {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it just went
		}
		for pid := range strings.FieldsSeq(string(data)) {
			kill(pid)
		}
	}
}

func kill(pid string) {
	if n, err := strconv.Atoi(pid); err == nil && n > 1 {
		_ = unix.Kill(n, unix.SIGKILL) // it may have ended meanwhile
	}
}

// purgeTimeout is how long the last shims may take to let go of their cgroups.
const purgeTimeout = 5 * time.Second

// purgeCgroups removes the node's cgroups. Shims that are just ending may hold
// them a moment longer, and nothing tells when they are done.
func purgeCgroups(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	for {
		left := removeCgroups(path)
		if left == "" {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("cgroup %s is still in use", left)
		}
	}
}

// removeCgroups removes a cgroup with all below it from every hierarchy, the
// innermost first, and returns one that could not be removed.
func removeCgroups(path string) (left string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		roots, _ := filepath.Glob(pattern) // the pattern is well-formed
		for _, root := range roots {
			for _, depth := range []string{"*/*", "*", ""} {
				dirs, _ := filepath.Glob(filepath.Join(root, path, depth))
				for _, d := range dirs {
					info, err := os.Stat(d)
					if err != nil || !info.IsDir() {
						continue
					}
					if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
						left = d
					}
				}
			}
			_ = unix.Rmdir(filepath.Join(root, filepath.Dir(path))) // if no other node uses it
		}
	}
	return left
}
