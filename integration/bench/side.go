package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/integration/servers"
)

// side is one of the two servers, with a client that asks for no compression.
type side struct {
	*servers.Server
	client *http.Client
	pods   int // that were made
}

// namespace holds everything that is made.
const namespace = "/api/v1/namespaces/bench"

func newSide(ctx context.Context, s *servers.Server) (*side, error) {
	side := &side{Server: s}
	var err error
	if side.client, err = side.newClient(); err != nil {
		return nil, err
	}
	if err := side.send(ctx, http.MethodPost, "/api/v1/namespaces", asJSON, `{"metadata":{"name":"bench"}}`); err != nil {
		return nil, err
	}
	return side, side.send(ctx, http.MethodPost, namespace+"/serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
}

// newClient is a client with connections of its own.
func (s *side) newClient() (*http.Client, error) {
	config, err := rest.TLSConfigFor(s.Config)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableCompression: true, ForceAttemptHTTP2: true}}, nil
}

// send writes, and fails unless that is answered well.
func (s *side) send(ctx context.Context, method, path, contentType, body string) error {
	_, err := s.exchange(ctx, method, path, contentType, body)
	return err
}

// exchange is send, and returns the answer.
func (s *side) exchange(ctx context.Context, method, path, contentType, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.Config.Host+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return "", fmt.Errorf("%s: %s %s: %s: %.300s", s.Name, method, path, resp.Status, text)
	}
	return string(text), nil
}

// open begins to read.
func (s *side) open(ctx context.Context, client *http.Client, path, accept string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Config.Host+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // the status says enough
		return nil, fmt.Errorf("%s: GET %s: %s: %s", s.Name, path, resp.Status, text)
	}
	return resp.Body, nil
}

// clockTick is USER_HZ, which Linux shows to every program as 100.
const clockTick = 10 * time.Millisecond

// cpu is the processor time that the server's processes have used.
func (s *side) cpu() (time.Duration, error) {
	var ticks int
	for _, pid := range s.PIDs() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The name, in parentheses, may hold anything; utime and stime are the 12th and
		// 13th field after it.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, field := range fields[11:13] {
			n, err := strconv.Atoi(field)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * clockTick, nil
}

// memory is a value of /proc/<pid>/status in MB, of all processes together.
func (s *side) memory(name string) (float64, error) {
	var sum float64
	for _, pid := range s.PIDs() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(text), name+":")
		if !ok {
			return 0, fmt.Errorf("no %s of process %d", name, pid)
		}
		var kb float64
		if _, err := fmt.Sscan(rest, &kb); err != nil {
			return 0, err
		}
		sum += kb / 1024
	}
	return sum, nil
}

// inUse is what the API server's heap and stacks hold in MB, after collecting garbage.
func (s *side) inUse(ctx context.Context) (float64, error) {
	if _, err := s.exchange(ctx, http.MethodGet, "/debug/pprof/heap?gc=1", asJSON, ""); err != nil {
		return 0, err
	}
	metrics, err := s.exchange(ctx, http.MethodGet, "/metrics", asJSON, "")
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"} {
		_, rest, ok := strings.Cut(metrics, "\n"+name+" ")
		if !ok {
			return 0, fmt.Errorf("%s: no metric %s", s.Name, name)
		}
		var bytes float64
		if _, err := fmt.Sscan(rest, &bytes); err != nil {
			return 0, err
		}
		sum += bytes / (1 << 20)
	}
	return sum, nil
}

// forgetPeak makes the highest memory count from now.
func (s *side) forgetPeak() error {
	for _, pid := range s.PIDs() {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return err
		}
	}
	return nil
}
