package serve

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/rutter-project/rutter/apiserver/internal/lane"
)

const (
	// gzipFrom is how long an answer has to be to be compressed, as upstream has it.
	gzipFrom = 128 << 10
	// directFrom is how long an answer has to be to go past the ResponseWriter: its headers
	// go alone then, which is a frame more, and every frame costs less.
	directFrom = 32 << 10
)

// answer is the body of a LIST. It is compressed if it is long and the client takes that,
// but for plain JSON: those who ask for that are near, mostly, and many.
type answer struct {
	w         http.ResponseWriter
	req       *http.Request
	mediaType string
	plain     bool
	begun     bool
	to        io.Writer
	direct    *lane.Stream // if not nil, to is this
	past      int          // bytes of the body that w does not see
	zip       *gzip.Writer
}

// piece is where a piece of a list is put together. Pieces are used again: a third of a
// megabyte for each list is most of the garbage that lists make.
type piece struct{ bytes []byte }

var pieces = sync.Pool{New: func() any { return &piece{make([]byte, 0, writeSize+writeSize/4)} }}

func takePiece() *piece { return pieces.Get().(*piece) } //nolint:forcetypeassert // the pool holds nothing else

// give gives it back when nobody reads its bytes any more.
func (p *piece) give() {
	if cap(p.bytes) <= 2*writeSize {
		pieces.Put(p)
	}
}

var gzips = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
}}

// write writes the next piece. The first one is as long as pieces get, or it is all.
func (a *answer) write(piece []byte) error {
	if !a.begun {
		a.begin(len(piece))
	}
	if err := a.req.Context().Err(); err != nil {
		return err
	}
	var err error
	if a.zip != nil {
		_, err = a.zip.Write(piece)
	} else {
		_, err = a.Write(piece)
	}
	return err
}

// Write implements io.Writer, for what may have been compressed.
func (a *answer) Write(p []byte) (int, error) {
	n, err := a.to.Write(p)
	if a.direct != nil {
		a.past += n
	}
	return n, err
}

func (a *answer) begin(size int) {
	a.begun = true
	header := a.w.Header()
	header.Set("Content-Type", a.mediaType)
	if !a.plain && size > gzipFrom && takesGzip(a.req) {
		header.Set("Content-Encoding", "gzip")
		header.Add("Vary", "Accept-Encoding")
		if z, ok := gzips.Get().(*gzip.Writer); ok {
			z.Reset(a)
			a.zip = z
		}
	}
	a.to = a.w
	if size < directFrom {
		return
	}
	if direct, ok := lane.Open(a.req.Context()); ok {
		a.w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(a.w).Flush() // what is wrong with the connection is told to who writes
		a.to, a.direct = direct, direct
	}
}

// takesGzip tells that the client lists gzip among what it takes, as upstream sees it.
func takesGzip(req *http.Request) bool {
	for encoding := range strings.SplitSeq(req.Header.Get("Accept-Encoding"), ",") {
		if name, _, _ := strings.Cut(encoding, ";"); strings.TrimSpace(name) == "gzip" {
			return true
		}
	}
	return false
}

// end ends the answer. What is wrong keeps the client from taking a part for the whole,
// unless it is gone.
func (a *answer) end(ctx context.Context, wrong error) {
	if a.zip != nil {
		if err := a.zip.Close(); wrong == nil {
			wrong = err
		}
		a.zip.Reset(nil)
		gzips.Put(a.zip)
		a.zip = nil
	}
	whole := wrong == nil
	if a.direct != nil {
		whole = a.direct.Close(whole)
	}
	ended := ctx.Err()
	if whole || errors.Is(ended, context.Canceled) {
		return
	}
	if ended == nil {
		utilruntime.HandleErrorWithContext(ctx, wrong, "An answer broke off", "path", a.req.URL.Path)
	}
	panic(http.ErrAbortHandler)
}
