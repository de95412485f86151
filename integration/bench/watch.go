package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// streams is how many watches share a connection: what kube-apiserver allows.
	streams = 100
	// stalled watchers are connected and never read.
	stalled = 10
	// watched is the object whose changes all get, of about 1 kB.
	watched = namespace + "/configmaps/watched"
	// burst is written where only stalled watchers see it, until their connections are
	// full: more than the kernel's buffers hold.
	burstObjects, burstBytes = 400, 20 << 10
	deliveryTimeout          = 2 * time.Minute
	// leastWatchers is how many it takes to tell their memory from the garbage around it.
	leastWatchers = 1000
)

// fanOut measures how changes of one object reach many watchers, and what ten that do not
// read do to the others.
func (p plan) fanOut(ctx context.Context, t *table, sides []*side) error {
	for _, s := range sides {
		if err := s.makeWatched(ctx); err != nil {
			return err
		}
	}
	for _, n := range p.watchers {
		if err := p.fanOutTo(ctx, t, sides, n, 0); err != nil {
			return err
		}
	}
	return p.fanOutTo(ctx, t, sides, p.watchers[min(1, len(p.watchers)-1)], stalled)
}

// makeWatched makes the object whose changes are watched.
func (s *side) makeWatched(ctx context.Context) error {
	body := fmt.Sprintf(`{"metadata":{"name":"watched"},"data":{"pad":"%01000d"}}`, 0)
	return s.send(ctx, http.MethodPost, namespace+"/configmaps", asJSON, body)
}

func (p plan) fanOutTo(ctx context.Context, t *table, sides []*side, n, slow int) error {
	var p50, p99, writes, perCPU, memory []float64
	for _, s := range sides {
		f, err := p.fan(ctx, s, n, slow)
		if err != nil {
			return fmt.Errorf("%s: %d watchers: %w", s.Name, n, err)
		}
		p50, p99 = append(p50, milliseconds(quantile(f.took, 0.5))), append(p99, milliseconds(quantile(f.took, 0.99)))
		writes = append(writes, milliseconds(quantile(f.wrote, 0.99)))
		perCPU, memory = append(perCPU, float64(len(f.took))/f.cpu.Seconds()), append(memory, f.memory*1024/float64(n))
	}
	what := fmt.Sprintf("%d watchers", n)
	if slow > 0 {
		what += fmt.Sprintf(" and %d stalled ones", slow)
	}
	t.add(what, "deliveries per server CPU-second", more, perCPU...)
	t.add(what, "p50 ms", less, p50...)
	t.add(what, "p99 ms", less, p99...)
	t.add(what, "p99 ms of the writes alone", less, writes...)
	if slow == 0 && n >= leastWatchers {
		t.add(what, "heap and stacks per watcher, kB", less, memory...)
	}
	return nil
}

// fan is what the deliveries to many watchers took.
type fan struct {
	took   []time.Duration
	wrote  []time.Duration // until each change was acknowledged, which took has in it
	cpu    time.Duration
	memory float64 // MB that the watchers added
}

// fan starts watchers and changes the object until enough has been delivered.
func (p plan) fan(ctx context.Context, s *side, n, slow int) (f fan, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle, err := s.inUse(ctx)
	if err != nil {
		return f, err
	}
	w := &watching{seen: make(chan time.Duration, 1<<16), failed: make(chan error, 1)}
	defer w.wait()
	defer cancel()
	if err := w.start(ctx, s, n); err != nil {
		return f, err
	}
	busy, err := s.inUse(ctx)
	if err != nil {
		return f, err
	}
	f.memory = busy - idle
	if slow > 0 {
		closeAll, err := s.stall(ctx, slow)
		if err != nil {
			return f, err
		}
		defer closeAll()
	}
	before, err := s.cpu()
	if err != nil {
		return f, err
	}
	profiled := p.profile(ctx, s, fmt.Sprintf("%d watchers %d stalled", n, slow))
	if err := p.deliver(ctx, s, w, n, &f); err != nil {
		return f, err
	}
	after, err := s.cpu()
	f.cpu = after - before
	return f, errors.Join(err, profiled())
}

// deliver changes the object at a rate that both sides can keep up with, and waits for
// every delivery.
func (p plan) deliver(ctx context.Context, s *side, w *watching, n int, f *fan) error {
	changes := max(p.deliveries/n, 20)
	f.took = make([]time.Duration, 0, changes*n)
	pause := time.NewTicker(max(time.Duration(n)*100*time.Microsecond, 20*time.Millisecond))
	defer pause.Stop()
	for range changes {
		began := time.Now()
		if err := s.change(ctx); err != nil {
			return err
		}
		f.wrote = append(f.wrote, time.Since(began))
		for next := false; !next; {
			select {
			case d := <-w.seen:
				f.took = append(f.took, d)
			case err := <-w.failed:
				return err
			case <-pause.C:
				next = true
			}
		}
	}
	for len(f.took) < changes*n {
		select {
		case d := <-w.seen:
			f.took = append(f.took, d)
		case err := <-w.failed:
			return err
		case <-time.After(deliveryTimeout):
			return fmt.Errorf("%d of %d deliveries came", len(f.took), changes*n)
		}
	}
	return nil
}

// change writes the time into the object.
func (s *side) change(ctx context.Context) error {
	return s.send(ctx, http.MethodPatch, watched, "application/merge-patch+json", fmt.Sprintf(`{"data":{"sent":"%d"}}`, time.Now().UnixNano()))
}

// watching are watchers that read.
type watching struct {
	seen   chan time.Duration // from before the write to receipt
	failed chan error         // the first failure
	group  sync.WaitGroup
}

func (w *watching) wait() { w.group.Wait() }

// start opens n watches from now on and reads them until the context ends.
func (w *watching) start(ctx context.Context, s *side, n int) error {
	text, err := s.exchange(ctx, http.MethodGet, namespace+"/configmaps?limit=1", asJSON, "")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(text, `"resourceVersion":"`)
	rv, _, _ := strings.Cut(rest, `"`)
	var client *http.Client
	for i := range n {
		if i%streams == 0 {
			if client, err = s.newClient(); err != nil {
				return err
			}
			context.AfterFunc(ctx, client.CloseIdleConnections)
		}
		body, err := s.open(ctx, client, namespace+"/configmaps?watch=1&timeoutSeconds=3000&resourceVersion="+rv, asJSON)
		if err != nil {
			return err
		}
		w.group.Go(func() { w.read(ctx, body) })
	}
	return nil
}

func (w *watching) read(ctx context.Context, body io.ReadCloser) {
	defer body.Close()
	lines := bufio.NewReaderSize(body, 4<<10)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if ctx.Err() == nil {
				select {
				case w.failed <- fmt.Errorf("a watch ended: %w", err):
				default:
				}
			}
			return
		}
		_, rest, ok := strings.Cut(line, `"sent":"`)
		if !ok {
			continue
		}
		text, _, _ := strings.Cut(rest, `"`)
		sent, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue
		}
		select {
		case w.seen <- time.Since(time.Unix(0, sent)):
		case <-ctx.Done():
			return
		}
	}
}

// stall opens watches of all namespaces, never reads them, and writes elsewhere until
// their connections must be full. They stay open until the caller closes them.
func (s *side) stall(ctx context.Context, n int) (closeAll func(), err error) {
	config, err := rest.TLSConfigFor(s.Config)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: config, DisableCompression: true, ReadBufferSize: 1 << 10,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: a connection each
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = errors.Join(err, tcp.SetReadBuffer(4<<10))
			}
			return conn, err
		},
	}
	var bodies []io.Closer
	closeAll = func() {
		for _, b := range bodies {
			_ = b.Close() // they may have been cut off
		}
	}
	for range n {
		body, err := s.open(ctx, &http.Client{Transport: transport}, "/api/v1/configmaps?watch=1&timeoutSeconds=3000", asJSON)
		if err != nil {
			closeAll()
			return nil, err
		}
		bodies = append(bodies, body)
	}
	pad := strings.Repeat("x", burstBytes)
	_, err = concurrently(ctx, burstObjects, func(ctx context.Context, i int) error {
		return s.send(ctx, http.MethodPatch, "/api/v1/namespaces/default/configmaps/burst?fieldManager=bench&force=true",
			"application/apply-patch+yaml", fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"burst"},"data":{"pad":"%d%s"}}`, i, pad))
	})
	if err != nil {
		closeAll()
		return nil, err
	}
	return closeAll, nil
}
