package kinds

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestEndComesApartFromTheLastBytes(t *testing.T) {
	cut := errors.New("cut")
	for name, tc := range map[string]struct {
		body io.Reader
		text string
		err  error
	}{
		"together":       {iotest.DataErrReader(strings.NewReader("alive\n")), "alive\n", io.EOF},
		"apart":          {strings.NewReader("alive\n"), "alive\n", io.EOF},
		"empty":          {strings.NewReader(""), "", io.EOF},
		"cut with bytes": {iotest.DataErrReader(io.MultiReader(strings.NewReader("al"), iotest.ErrReader(cut))), "al", cut},
	} {
		t.Run(name, func(t *testing.T) {
			r := &separateEnd{ReadCloser: io.NopCloser(tc.body)}
			var text string
			buf := make([]byte, 100)
			for {
				n, err := r.Read(buf)
				require.False(t, n > 0 && err != nil, "bytes and an error at once")
				text += string(buf[:n])
				if err != nil {
					require.ErrorIs(t, err, tc.err)
					break
				}
			}
			require.Equal(t, tc.text, text)
		})
	}
}
