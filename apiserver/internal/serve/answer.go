package serve

import (
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// gzipFrom is how long an answer has to be to be compressed, as upstream has it.
const gzipFrom = 128 << 10

// answer is the body of a LIST. It is compressed if it is long and the client takes that,
// but for plain JSON: those who ask for that are near, mostly, and many.
type answer struct {
	w         http.ResponseWriter
	req       *http.Request
	mediaType string
	plain     bool
	begun     bool
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
	if err := a.req.Context().Err(); err != nil {
		return err
	}
	if !a.begun {
		a.begin(len(piece))
	}
	if a.zip != nil {
		_, err := a.zip.Write(piece)
		return err
	}
	_, err := a.w.Write(piece)
	return err
}

func (a *answer) begin(size int) {
	a.begun = true
	header := a.w.Header()
	header.Set("Content-Type", a.mediaType)
	if a.plain || size <= gzipFrom || !takesGzip(a.req) {
		return
	}
	header.Set("Content-Encoding", "gzip")
	header.Add("Vary", "Accept-Encoding")
	if z, ok := gzips.Get().(*gzip.Writer); ok {
		z.Reset(a.w)
		a.zip = z
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

// close ends the answer. A client that is gone does not need it.
func (a *answer) close() {
	if a.zip == nil {
		return
	}
	_ = a.zip.Close()
	a.zip.Reset(nil)
	gzips.Put(a.zip)
	a.zip = nil
}
