package incident

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestBrokenBundles: a file that is cut or altered, or none at all, is refused with what is
// wrong and where, and nothing is run.
func TestBrokenBundles(t *testing.T) {
	rutter := cluster.Binary(t, "RUTTER_BIN", "rutter")
	whole, err := os.ReadFile(kept)
	require.NoError(t, err)
	altered := bytes.Clone(whole)
	altered[len(altered)/2] ^= 1
	header := bytes.Clone(whole)
	header[30] ^= 1
	for name, tc := range map[string]struct {
		file []byte
		want string
	}{
		"cut":            {whole[:len(whole)/2], `it is cut off in its section "events", which ends at byte `},
		"altered":        {altered, `section "events" (bytes `},
		"header altered": {header, "the header (bytes 16 to "},
		"longer":         {append(bytes.Clone(whole), "more"...), "follows its end"},
		"something else": {[]byte("PK"), `it does not begin with "rutter bundle "`},
		"empty":          {nil, "it is cut off in its first line, after 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.bundle")
			require.NoError(t, os.WriteFile(file, tc.file, 0o600))
			run := exec.CommandContext(t.Context(), rutter, "open", file, "--", "echo", "RUN")
			out, err := run.CombinedOutput()
			require.Error(t, err)
			require.Equal(t, 2, run.ProcessState.ExitCode())
			require.Contains(t, string(out), "rutter: "+file+": not a good bundle: ")
			require.Contains(t, string(out), tc.want)
			require.NotContains(t, string(out), "RUN")
		})
	}
}
