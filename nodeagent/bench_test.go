package nodeagent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/image"
)

// BenchmarkBareStart measures containerd's own part of BenchmarkPodStart: to
// create and start a container, with nothing of a pod around it.
func BenchmarkBareStart(b *testing.B) {
	n := newNode(b)
	n.start()
	p := n.pod("warm", "exit=0")
	n.create(p)
	n.await(p, "succeeded", phase(corev1.PodSucceeded))
	ctx := b.Context()
	e, err := engine.Connect(ctx, engine.Config{Socket: filepath.Join(n.cfg.RunDir, n.cfg.NodeName, "containerd.sock"), Namespace: "rutter-bare", Snapshotter: "overlayfs"})
	require.NoError(b, err)
	defer func() { _ = e.Close() }()
	got, err := image.NewStore(e).Ensure(ctx, image.Request{Ref: shared.image, Policy: corev1.PullIfNotPresent})
	require.NoError(b, err)
	out := filepath.Join(b.TempDir(), "out")
	require.NoError(b, os.WriteFile(out, nil, 0o600))
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		id := "bare-" + strconv.Itoa(i)
		began := time.Now()
		_, err := e.Start(ctx, engine.Attempt{ID: id, Image: got.Image.Handle, Stdout: out, Stderr: out,
			Spec: []oci.SpecOpts{oci.WithProcessArgs("/bin/busy"), oci.WithCgroup("/rutter-test/" + n.cfg.NodeName + "/" + id)}})
		require.NoError(b, err)
		took = append(took, time.Since(began))
		b.StopTimer()
		require.NoError(b, e.Remove(ctx, id))
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
}
