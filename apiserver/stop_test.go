package apiserver_test

import (
	"net/http"
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

// Requests that are in flight when a server stops are admitted and answered as always,
// also if the rest of them comes only then.
func TestStopAnswersWhatIsInFlight(t *testing.T) {
	c, stop, err := startAlone()
	require.NoError(t, err)
	finish, answered := postSlowly(t, c, "late")
	w, err := c.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for range w.ResultChan() { // until the server is stopping
	}
	finish()
	require.Equal(t, http.StatusCreated, <-answered)
	require.NoError(t, <-stopped)
}
