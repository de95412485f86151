package serve

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/prometheus/slis"
)

// checkTimeout bounds one health check.
const checkTimeout = 5 * time.Second

// Check is one condition of health.
type Check struct {
	Name  string
	Where Probe
	Run   func(ctx context.Context) error
}

// Probe is which of the three questions a check is part of.
type Probe int

// The question after health is that after life, under its old name.
const (
	Always    Probe = iota
	Liveness        // /livez and /healthz
	Readiness       // /readyz
)

// counts tells that a check is part of what a path asks for.
func (c Check) counts(root string) bool {
	return c.Where == Always || (c.Where == Readiness) == (root == "/readyz")
}

// Health answers /healthz, /livez and /readyz, each also by check, and verbosely with
// ?verbose, skipping the checks named by ?exclude=.
type Health struct {
	mu     sync.Mutex
	checks []Check // guarded by mu
}

// Add registers a check.
func (h *Health) Add(c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, c)
}

func (h *Health) handler(root string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, only := r.URL.Path == root, strings.TrimPrefix(r.URL.Path, root+"/")
		exclude := r.URL.Query()["exclude"]
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		var report strings.Builder
		ok, found := true, all
		for _, c := range h.list() {
			if !all && c.Name != only || !c.counts(root) {
				continue
			}
			found = true
			if slices.Contains(exclude, c.Name) {
				fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.Name)
				continue
			}
			err := c.Run(ctx)
			c.count(ctx, root, err)
			if err != nil {
				ok = false
				fmt.Fprintf(&report, "[-]%s failed: %v\n", c.Name, err)
				continue
			}
			fmt.Fprintf(&report, "[+]%s ok\n", c.Name)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if all {
			w.Header().Set("X-Content-Type-Options", "nosniff")
		}
		name := strings.TrimPrefix(root, "/")
		switch {
		case !found:
			http.NotFound(w, r)
		case !ok:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "%s%s check failed\n", report.String(), name)
		case r.URL.Query().Has("verbose"):
			fmt.Fprintf(w, "%s%s check passed\n", report.String(), name)
		default:
			fmt.Fprint(w, "ok")
		}
	})
}

func (h *Health) list() []Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.checks)
}

// count notes how a check went as a part of what a path asks for.
func (c Check) count(ctx context.Context, root string, err error) {
	status := slis.Success
	if err != nil {
		status = slis.Error
	}
	_ = slis.ObserveHealthcheck(ctx, c.Name, strings.TrimPrefix(root, "/"), status) // never fails
}

// probes are the paths at which health is asked for.
var probes = []string{"/healthz", "/livez", "/readyz"}

// indicators serves the results of all checks as metrics, of which there would be none
// if nobody asked for health.
func (h *Health) indicators() http.Handler {
	registry := metrics.NewKubeRegistry()
	slis.Register(registry)
	results := metrics.HandlerWithReset(registry, metrics.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		for _, c := range h.list() {
			err := c.Run(ctx)
			for _, root := range probes {
				if c.counts(root) {
					c.count(ctx, root, err)
				}
			}
		}
		results.ServeHTTP(w, r)
	})
}

// paths are those of all checks.
func (h *Health) paths() []string {
	var all []string
	for _, root := range probes {
		all = append(all, root)
		for _, c := range h.list() {
			if c.counts(root) {
				all = append(all, root+"/"+c.Name)
			}
		}
	}
	return all
}
