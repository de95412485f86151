package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// change is one kind of write. What creating answered is in created.
type change struct {
	name string
	do   func(ctx context.Context, s *side, i int, created []string) error
}

var writeKinds = []change{
	{"create", func(ctx context.Context, s *side, i int, created []string) (err error) {
		created[i], err = s.exchange(ctx, http.MethodPost, namespace+"/pods", asJSON, podJSON(written(i), i))
		return err
	}},
	{"update", func(ctx context.Context, s *side, i int, created []string) error {
		return s.send(ctx, http.MethodPut, namespace+"/pods/"+written(i), asJSON, strings.Replace(created[i], `"tier":"backend"`, `"tier":"frontend"`, 1))
	}},
	{"patch", func(ctx context.Context, s *side, i int, _ []string) error {
		return s.send(ctx, http.MethodPatch, namespace+"/pods/"+written(i), "application/merge-patch+json", `{"metadata":{"labels":{"patched":"yes"}}}`)
	}},
	{"delete", func(ctx context.Context, s *side, i int, _ []string) error {
		return s.send(ctx, http.MethodDelete, namespace+"/pods/"+written(i)+"?gracePeriodSeconds=0", asJSON, "")
	}},
}

func written(i int) string { return fmt.Sprintf("write-%06d", i) }

// writing measures changes, each synced to disk before it is answered.
func (p plan) writing(ctx context.Context, t *table, sides []*side) error {
	created := make([][]string, len(sides))
	for _, kind := range writeKinds {
		var perCPU, perSecond, p50, p99 []float64
		for i, s := range sides {
			if created[i] == nil {
				created[i] = make([]string, p.writes)
			}
			w, err := p.write(ctx, s, kind, created[i])
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			perCPU = append(perCPU, float64(p.writes)/w.cpu.Seconds())
			perSecond = append(perSecond, float64(p.writes)/w.wall.Seconds())
			p50, p99 = append(p50, milliseconds(quantile(w.took, 0.5))), append(p99, milliseconds(quantile(w.took, 0.99)))
		}
		what := fmt.Sprintf("%s %d pods, %d at a time", kind.name, p.writes, writers)
		t.add(what, "per server CPU-second", more, perCPU...)
		t.add(what, "per second", more, perSecond...)
		t.add(what, "p50 ms", less, p50...)
		t.add(what, "p99 ms", less, p99...)
	}
	return nil
}

// cost is what one kind of write took.
type cost struct {
	cpu, wall time.Duration
	took      []time.Duration
}

func (p plan) write(ctx context.Context, s *side, kind change, created []string) (cost, error) {
	before, err := s.cpu()
	if err != nil {
		return cost{}, err
	}
	profiled := p.profile(ctx, s, kind.name)
	begin := time.Now()
	took, err := concurrently(ctx, p.writes, func(ctx context.Context, i int) error { return kind.do(ctx, s, i, created) })
	if err != nil {
		return cost{}, err
	}
	wall := time.Since(begin)
	after, err := s.cpu()
	return cost{after - before, wall, took}, errors.Join(err, profiled())
}
