package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

const (
	asJSON     = "application/json"
	asProtobuf = "application/vnd.kubernetes.protobuf"
	asTable    = "application/json;as=Table;v=v1;g=meta.k8s.io"
	pageSize   = 500
)

// listForm is a way to read all pods.
type listForm struct{ name, accept, query string }

var listForms = []listForm{
	{"JSON", asJSON, ""},
	{"protobuf", asProtobuf, ""},
	{"Table", asTable, ""},
	{"label selector, 1 %", asJSON, "labelSelector=app%3Dapp-7"},
	{"field selector, 1 %", asJSON, "fieldSelector=spec.nodeName%3Dnode-7"},
	{fmt.Sprintf("pages of %d", pageSize), asJSON, fmt.Sprintf("limit=%d", pageSize)},
}

func (p plan) lists(ctx context.Context, t *table, n int, sides []*side) error {
	for _, form := range listForms {
		var cpu, wall []float64
		for _, s := range sides {
			c, w, err := p.list(ctx, s, n, form)
			if err != nil {
				return err
			}
			cpu, wall = append(cpu, milliseconds(c)), append(wall, milliseconds(w))
		}
		what := fmt.Sprintf("LIST %d pods, %s", n, form.name)
		t.add(what, "server CPU ms", less, cpu...)
		t.add(what, "wall ms, median", less, wall...)
	}
	return nil
}

// leastCPU is how much a measurement uses at least: time is counted in ticks of 10 ms.
const leastCPU = 500 * time.Millisecond

// list reads a list as often as is wanted, and more often if that is too little to
// measure, after once that does not count.
func (p plan) list(ctx context.Context, s *side, n int, form listForm) (cpu, wall time.Duration, err error) {
	accept, path := form.accept, namespace+"/pods?"+form.query
	if err := s.readAll(ctx, accept, path); err != nil {
		return 0, 0, err
	}
	profiled := p.profile(ctx, s, fmt.Sprintf("LIST %d %s", n, form.name))
	defer func() { err = errors.Join(err, profiled()) }()
	before, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	const most = 200
	for {
		begin := time.Now()
		if err := s.readAll(ctx, accept, path); err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(begin))
		after, err := s.cpu()
		if err != nil {
			return 0, 0, err
		}
		used := after - before
		if len(took) >= p.repeat && (used >= leastCPU || len(took) >= most) {
			return max(used, clockTick) / time.Duration(len(took)), quantile(took, 0.5), nil
		}
	}
}

var continueToken = regexp.MustCompile(`"continue":"([^"]*)"`)

// readAll reads a list with all its pages, and drops it.
func (s *side) readAll(ctx context.Context, accept, path string) error {
	next := path
	for {
		token, err := s.readPage(ctx, accept, next)
		if err != nil || token == "" {
			return err
		}
		next = path + "&continue=" + token
	}
}

// readPage returns the token of the next page. It is in the list's metadata, which comes
// before the items in JSON; protobuf is never read by pages here.
func (s *side) readPage(ctx context.Context, accept, path string) (token string, err error) {
	body, err := s.open(ctx, s.client, path, accept)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	head := make([]byte, 512)
	n, err := io.ReadFull(body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("%s: GET %s: %w", s.Name, path, err)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return "", fmt.Errorf("%s: GET %s: %w", s.Name, path, err)
	}
	if accept == asProtobuf {
		return "", nil
	}
	if found := continueToken.FindSubmatch(head[:n]); found != nil {
		return string(found[1]), nil
	}
	return "", nil
}
