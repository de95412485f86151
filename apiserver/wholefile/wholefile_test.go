package wholefile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/wholefile"
)

func TestWriteReplacesTheWholeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, w := range []struct {
		data string
		mode fs.FileMode
	}{{"a long first content", 0o600}, {"short", 0o644}, {"", 0o600}} {
		require.NoError(t, wholefile.Write(path, []byte(w.data), w.mode))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, w.data, string(got))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, w.mode, info.Mode())
	}
	requireOnly(t, path)
}

// Who holds the old file open goes on reading the old content: nothing is written into it.
func TestWriteLeavesTheOldFileAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	require.NoError(t, wholefile.Write(path, []byte("old"), 0o600))
	old, err := os.Open(path)
	require.NoError(t, err)
	defer old.Close()
	require.NoError(t, wholefile.Write(path, []byte("new"), 0o600))
	got := make([]byte, 8)
	n, err := old.Read(got)
	require.NoError(t, err)
	require.Equal(t, "old", string(got[:n]))
}

func TestWriteThatFailsLeavesNothingBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.Mkdir(path, 0o755))
	require.Error(t, wholefile.Write(path, []byte("new"), 0o600), "a directory is in the way")
	requireOnly(t, path)
	require.ErrorIs(t, wholefile.Write(filepath.Join(path, "none", "state"), nil, 0o600), fs.ErrNotExist)
}

func requireOnly(t *testing.T, path string) {
	t.Helper()
	all, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, filepath.Base(path), all[0].Name())
}
