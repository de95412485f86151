package serve

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// checkTimeout bounds one health check.
const checkTimeout = 5 * time.Second

// Check is one condition of health. Live checks count for /livez and /healthz, all
// count for /readyz.
type Check struct {
	Name string
	Live bool
	Run  func(ctx context.Context) error
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
		only := strings.Trim(strings.TrimPrefix(r.URL.Path, root), "/")
		exclude := r.URL.Query()["exclude"]
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		var report strings.Builder
		ok, found := true, only == ""
		for _, c := range h.list() {
			if (only != "" && c.Name != only) || (root != "/readyz" && !c.Live) {
				continue
			}
			found = true
			if slices.Contains(exclude, c.Name) {
				fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.Name)
				continue
			}
			if err := c.Run(ctx); err != nil {
				ok = false
				fmt.Fprintf(&report, "[-]%s failed: %v\n", c.Name, err)
				continue
			}
			fmt.Fprintf(&report, "[+]%s ok\n", c.Name)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if only == "" {
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
