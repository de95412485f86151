package etcd

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Ends with the log that it merges, which is never closed.
		goleak.IgnoreAnyFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"),
		// Notices a while after its stream that the server is gone.
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.(*serverWatchStream).sendLoop"))
}

func start(t *testing.T, cfg Config) *Etcd {
	t.Helper()
	e, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	return e
}

func TestStartAgainKeepsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	first := start(t, Config{Dir: dir})
	put, err := first.Client().Put(t.Context(), "a", "1")
	require.NoError(t, err)
	require.NoError(t, first.Close())

	second := start(t, Config{Dir: dir})
	got, err := second.Client().Get(t.Context(), "a")
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	require.Equal(t, "1", string(got.Kvs[0].Value))
	require.Equal(t, put.Header.Revision, got.Header.Revision)
	require.NoError(t, second.Close())

	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
}

func TestDial(t *testing.T) {
	dir := t.TempDir()
	_, err := Dial(dir)
	require.ErrorContains(t, err, "no cluster runs on "+dir)
	require.ErrorIs(t, err, fs.ErrNotExist)

	e := start(t, Config{Dir: dir, NoSync: true})
	_, err = e.Client().Put(t.Context(), "a", "1")
	require.NoError(t, err)
	client, err := Dial(dir)
	require.NoError(t, err)
	got, err := client.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "1", string(got.Kvs[0].Value))
	require.NoError(t, client.Close())
	require.NoError(t, e.Close())
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e, err := Start(ctx, Config{Dir: t.TempDir(), NoSync: true})
	if err == nil { // it was ready at once
		require.NoError(t, e.Close())
		return
	}
	require.ErrorIs(t, err, context.Canceled)
}

func TestStartOnWhatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Start(t.Context(), Config{Dir: file})
	require.ErrorContains(t, err, file)
}

func TestLimitsOfRequests(t *testing.T) {
	e := start(t, Config{Dir: t.TempDir(), NoSync: true})
	defer func() { require.NoError(t, e.Close()) }()
	_, err := e.Client().Put(t.Context(), "big", string(make([]byte, 3<<20)))
	require.NoError(t, err, "the API's limit must fit")
	_, err = e.Client().Put(t.Context(), "bigger", string(make([]byte, 4<<20)))
	require.ErrorContains(t, err, "too large")
}
