package apiserver_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Watches of clients must not keep a server from stopping: they end with it.
func TestStopEndsWatches(t *testing.T) {
	c, stop, err := startAlone()
	require.NoError(t, err)
	w, err := c.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer w.Stop()
	stopped := make(chan error, 1)
	begin := time.Now()
	go func() { stopped <- stop() }()
	select {
	case err := <-stopped:
		require.NoError(t, err)
		t.Logf("stopped in %s", time.Since(begin))
	case <-time.After(4 * time.Second):
		t.Error("not stopped after 4 s")
		require.NoError(t, <-stopped)
		t.Logf("stopped in %s", time.Since(begin))
	}
	for range w.ResultChan() { // ends, without an error
	}
}
