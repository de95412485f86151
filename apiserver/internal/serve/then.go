package serve

import (
	"net/http"
	"sync"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// maxThens bounds for how many sets of definitions handlers are kept.
const maxThens = 8

// then is a handler that depends on which custom resources are defined, at the instant
// that a request reads.
type then struct {
	c    Config
	make func(Custom) (http.Handler, error)
	now  http.Handler

	mu   sync.Mutex
	made map[string]http.Handler // by mark; guarded by mu
}

func newThen(c Config, build func(Custom) (http.Handler, error)) (*then, error) {
	now, err := build(c.Custom)
	return &then{c: c, make: build, now: now, made: map[string]http.Handler{}}, err
}

// ServeHTTP implements http.Handler.
func (t *then) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if view.PastOf(r.Context()) == nil {
		t.now.ServeHTTP(w, r)
		return
	}
	custom, mark := t.c.CustomAt(r.Context())
	if mark == "" {
		t.now.ServeHTTP(w, r)
		return
	}
	h, err := t.of(custom, mark)
	if err != nil {
		refuse(w, r, err)
		return
	}
	h.ServeHTTP(w, r)
}

func (t *then) of(custom Custom, mark string) (http.Handler, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.made[mark]; ok {
		return h, nil
	}
	h, err := t.make(custom)
	if err != nil {
		return nil, err
	}
	if len(t.made) >= maxThens {
		clear(t.made)
	}
	t.made[mark] = h
	return h, nil
}
