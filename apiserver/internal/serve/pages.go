package serve

import (
	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/statusz"
	"k8s.io/component-base/compatibility"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// pageName is what the pages about the process call it, as kube-apiserver's do.
const pageName = "apiserver"

// installPages serves what the process is and how it was started, for people and, in the
// versions that are asked for, for programs (KEP-4827, KEP-4828).
func (c Config) installPages(e fixedPaths) {
	flagz.Install(e, pageName, flags(c.Flags))
	version := compatibility.NewEffectiveVersionFromString(kinds.Upstream, "", "")
	paths := append(c.processPaths(), readPaths...)
	statusz.Install(e, pageName, statusz.NewRegistry(version, statusz.WithListedPaths(paths)))
}

type flags map[string]string

func (f flags) GetFlagz() map[string]string { return f }
