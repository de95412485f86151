package engine

import (
	"context"
	"fmt"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// Usage is what a container uses.
type Usage struct {
	At         time.Time
	CPU        time.Duration // since it started
	Memory     uint64        // bytes charged to it
	WorkingSet uint64        // of these, what could not be taken back at once
	RSS        uint64
	Pids       uint64
}

// Usage returns what all running containers use, by id, in one call.
func (e *Engine) Usage(ctx context.Context) (map[string]Usage, error) {
	resp, err := e.client.TaskService().Metrics(e.Context(ctx), &tasksapi.MetricsRequest{})
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", errgrpc.ToNative(err))
	}
	out := make(map[string]Usage, len(resp.Metrics))
	for _, m := range resp.Metrics {
		data, err := typeurl.UnmarshalAny(m.Data)
		if err != nil {
			continue // a runtime that is not ours
		}
		u := Usage{At: m.Timestamp.AsTime()}
		switch s := data.(type) {
		case *cgroup1.Metrics:
			u.CPU = time.Duration(s.GetCPU().GetUsage().GetTotal())
			u.Memory = s.GetMemory().GetUsage().GetUsage()
			u.WorkingSet = less(u.Memory, s.GetMemory().GetTotalInactiveFile())
			u.RSS = s.GetMemory().GetTotalRSS()
			u.Pids = s.GetPids().GetCurrent()
		case *cgroup2.Metrics:
			u.CPU = time.Duration(s.GetCPU().GetUsageUsec()) * time.Microsecond
			u.Memory = s.GetMemory().GetUsage()
			u.WorkingSet = less(u.Memory, s.GetMemory().GetInactiveFile())
			u.RSS = s.GetMemory().GetAnon()
			u.Pids = s.GetPids().GetCurrent()
		default:
			continue
		}
		out[m.ID] = u
	}
	return out, nil
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
