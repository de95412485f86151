package deployment

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
	"github.com/rutter-project/rutter/reconcilers/internal/replicaset"
)

// BenchmarkDeploymentToPods measures how fast Deployments of 3 replicas become pods
// against the API in memory; most of the time is that API's and the client's.
//
// Run with: go test -run xxx -bench . -count=10 ./reconcilers/internal/deployment | benchstat -
func BenchmarkDeploymentToPods(b *testing.B) {
	s := fakeapi.New()
	deployments, err := New(s.Client(), s, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	sets, err := replicaset.New(s.Client(), s, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	made := make(chan struct{}, 1<<16)
	counted, err := s.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{}).AddEventHandler(fakeapi.OnAdd(func() { made <- struct{}{} }))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	wg.Go(func() { _ = deployments.Run(ctx) })
	wg.Go(func() { _ = sets.Run(ctx) })
	<-counted.HasSyncedChecker().Done()
	const batch = 20
	n := 0
	for b.Loop() {
		for range batch {
			d := rolling(3, "1", "0")
			d.Name = fmt.Sprint("web-", n)
			d.Spec.Selector.MatchLabels = map[string]string{"app": d.Name}
			d.Spec.Template.Labels = map[string]string{"app": d.Name}
			fakeapi.Put(s, d)
			n++
		}
		for range 3 * batch {
			select {
			case <-made:
			case <-time.After(30 * time.Second):
				b.Fatal("pods are missing")
			}
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "deployments/s")
	b.ReportMetric(float64(3*n)/b.Elapsed().Seconds(), "pods/s")
	cancel()
	wg.Wait()
}
