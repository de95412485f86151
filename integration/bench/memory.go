package main

import (
	"context"
	"fmt"
	"time"
)

// settle is how long a server has to work off what was asked of it before its memory is
// looked at. Time passes on purpose: collecting garbage is up to the server.
const settle = 15 * time.Second

// memory measures servers that hold n pods and do nothing.
func (p plan) memory(ctx context.Context, t *table, n int, sides []*side) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	var all []float64
	for _, s := range sides {
		mb, err := s.memory("VmRSS")
		if err != nil {
			return err
		}
		all = append(all, mb)
		if err := p.save(ctx, s, fmt.Sprintf("memory with %d pods", n), "/debug/pprof/heap"); err != nil {
			return err
		}
	}
	t.add(fmt.Sprintf("memory with %d pods", n), "RSS MB", less, all...)
	return nil
}

// start measures how long servers take to be ready again on what they hold.
func (p plan) start(ctx context.Context, t *table, sides []*side) error {
	var wall, used []float64
	for _, s := range sides {
		took, err := s.Restart(ctx)
		if err != nil {
			return err
		}
		cpu, err := s.cpu() // the processes are new
		if err != nil {
			return err
		}
		wall, used = append(wall, took.Seconds()), append(used, cpu.Seconds())
	}
	what := fmt.Sprintf("start with %d pods", sides[0].pods)
	t.add(what, "s until ready", less, wall...)
	t.add(what, "server CPU s", less, used...)
	return nil
}
