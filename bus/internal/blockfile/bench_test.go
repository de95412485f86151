package blockfile

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkReadFile is what looking at a file of 4 MB costs, from the page cache.
func BenchmarkReadFile(b *testing.B) {
	for name, compression := range compressions {
		b.Run(name, func(b *testing.B) {
			_, s := written(b, compression)
			info, err := os.Stat(s.file(1))
			require.NoError(b, err)
			b.SetBytes(info.Size())
			for b.Loop() {
				f, err := readFile(s.file(1), stream, 1)
				require.NoError(b, err)
				require.NoError(b, f.damage)
			}
		})
	}
}
