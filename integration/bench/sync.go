package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

// syncs measures how long it takes until many informers that begin at once have all pods.
// They ask as client-go's do, for a stream of the present state in protobuf, and count
// the events without decoding them: the client shares the machine.
func (p plan) syncs(ctx context.Context, t *table, n int, sides []*side) error {
	var wall, cpu, peak []float64
	for _, s := range sides {
		if err := s.forgetPeak(); err != nil {
			return err
		}
		before, err := s.cpu()
		if err != nil {
			return err
		}
		begin := time.Now()
		g, gctx := errgroup.WithContext(ctx)
		for range p.informers {
			g.Go(func() error { return s.sync(gctx, n) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		took := time.Since(begin)
		after, err := s.cpu()
		if err != nil {
			return err
		}
		high, err := s.memory("VmHWM")
		if err != nil {
			return err
		}
		progress("%s: %d informers have %d pods after %s", s.Name, p.informers, n, took)
		wall, cpu, peak = append(wall, took.Seconds()), append(cpu, (after-before).Seconds()), append(peak, high)
	}
	what := fmt.Sprintf("first sync of %d informers, %d pods", p.informers, n)
	t.add(what, "wall s, until all have", less, wall...)
	t.add(what, "server CPU s", less, cpu...)
	t.add(what, "peak memory MB", less, peak...)
	return nil
}

var initialEventsEnd = []byte("k8s.io/initial-events-end")

// sync reads the present state, until the bookmark that ends it.
func (s *side) sync(ctx context.Context, want int) error {
	client, err := s.newClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := s.open(ctx, client, namespace+"/pods?watch=1&timeoutSeconds=3000&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", asProtobuf)
	if err != nil {
		return err
	}
	defer body.Close()
	reader := bufio.NewReaderSize(body, 64<<10)
	var size [4]byte
	frame := make([]byte, 16<<10)
	for events := 0; ; events++ {
		if _, err := io.ReadFull(reader, size[:]); err != nil {
			return fmt.Errorf("%s: the stream ended after %d events: %w", s.Name, events, err)
		}
		n := int(binary.BigEndian.Uint32(size[:]))
		if n > cap(frame) {
			frame = make([]byte, n)
		}
		frame = frame[:n]
		if _, err := io.ReadFull(reader, frame); err != nil {
			return fmt.Errorf("%s: the stream ended after %d events: %w", s.Name, events, err)
		}
		if !bytes.Contains(frame, initialEventsEnd) {
			continue
		}
		if events < want {
			return fmt.Errorf("%s: %d events of %d pods", s.Name, events, want)
		}
		return nil
	}
}
