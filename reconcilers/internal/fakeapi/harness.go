package fakeapi

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/cache"
)

// Runner is a controller.
type Runner interface {
	Run(ctx context.Context) error
}

// Start runs the server's informers and the controllers until the test ends, inside a
// synctest bubble, and returns when all is quiet.
func Start(t testing.TB, s *Server, controllers ...Runner) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	for _, c := range controllers {
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("controller ended: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		time.Sleep(drain)
	})
	Settle()
}

const (
	// quiet is longer than informers and first retries take.
	quiet = 2 * time.Second
	// drain is longer than the loops of work queues take to notice their end.
	drain = 2 * time.Second
)

// Settle lets the bubble's clock run until short timers have fired and all is quiet.
func Settle() {
	time.Sleep(quiet)
	synctest.Wait()
}

// OnAdd is an event handler that calls f for every object that comes.
func OnAdd(f func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: func(any) { f() }}
}
