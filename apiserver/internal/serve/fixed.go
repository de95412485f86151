package serve

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
)

// fixedPaths are served whatever a request's method is: gin knows paths by method, and
// only some methods.
type fixedPaths struct {
	*gin.Engine
	exact, below map[string]gin.HandlerFunc // by path, and by what a path begins with
}

// any serves a path; one that ends with a parameter is that of all below it.
func (f fixedPaths) any(path string, h gin.HandlerFunc) {
	f.Any(path, h)
	if begin, _, all := strings.Cut(path, "*"); all {
		f.below[begin] = h
		return
	}
	f.exact[path] = h
}

// Handle is how upstream installs its pages.
func (f fixedPaths) Handle(path string, h http.Handler) { f.any(path, gin.WrapH(h)) }

// others serves the paths for methods that gin does not know, and leaves the rest to what
// comes after it.
func (f fixedPaths) others(g *gin.Context) {
	path := g.Request.URL.Path
	h, ok := f.exact[path]
	for begin, below := range f.below {
		if !ok && strings.HasPrefix(path, begin) {
			h, ok = below, true
		}
	}
	if !ok {
		return
	}
	unset(g.Writer)
	h(g)
	g.Abort()
}
