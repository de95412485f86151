package standalone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutter-project/rutter/netproxy"
	"github.com/rutter-project/rutter/nodeagent"
)

// Purge removes everything the cluster made on this machine: containers, namespaces,
// mounts, BPF programs and maps, cgroups, and the data. The cluster must not run.
func Purge(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.DataDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := cfg.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	c := &Cluster{cfg: cfg}
	var errs []error
	if os.Geteuid() == 0 && !cfg.NoNode {
		if err := nodeagent.Purge(ctx, c.agentConfig(), zerolog.Nop()); err != nil {
			errs = append(errs, fmt.Errorf("containers: %w", err))
		}
		network, err := c.networkConfig()
		if err == nil {
			err = netproxy.Destroy(network)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network: %w", err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(append(errs, fmt.Errorf("%s is kept, so that this can be tried again", cfg.DataDir))...)
	}
	return errors.Join(os.RemoveAll(cfg.DataDir), os.RemoveAll(cfg.RunDir))
}

// Stop asks the process that runs the cluster to stop and waits until it has.
func Stop(ctx context.Context, cfg Config) (running bool, err error) {
	pid, err := cfg.readPID()
	if err != nil || pid == 0 {
		return false, err
	}
	if err := interrupt(pid); err != nil {
		return false, fmt.Errorf("stop process %d: %w", pid, err)
	}
	ticker := time.NewTicker(50 * time.Millisecond) // another process' end has no event to wait on here
	defer ticker.Stop()
	for {
		pid, err := cfg.readPID()
		if err != nil || pid == 0 {
			return true, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return true, fmt.Errorf("process %d has not stopped: %w", pid, context.Cause(ctx))
		}
	}
}
