package serve

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/statusz"
	"k8s.io/component-base/compatibility"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// pageName is what the pages about the process call it, as kube-apiserver's do.
const pageName = "apiserver"

// installPages serves what the process is and how it was started, for people and, in the
// versions that are asked for, for programs (KEP-4827, KEP-4828).
func (c Config) installPages(e *gin.Engine) {
	flagz.Install(pages{e}, pageName, flags(c.Flags))
	version := compatibility.NewEffectiveVersionFromString(kinds.Upstream, "", "")
	paths := append(c.processPaths(), readPaths...)
	statusz.Install(pages{e}, pageName, statusz.NewRegistry(version, statusz.WithListedPaths(paths)))
}

// pages is where upstream installs them.
type pages struct{ engine *gin.Engine }

func (p pages) Handle(path string, h http.Handler) { p.engine.Any(path, gin.WrapH(h)) }

type flags map[string]string

func (f flags) GetFlagz() map[string]string { return f }
