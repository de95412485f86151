package serve

import (
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/statusz"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// readPaths are there at every instant.
var readPaths = []string{
	"/api", "/apis", "/apis/", historyEvents, historyInstant, historyState, historyStatus,
	"/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version",
}

// processPaths tell of the process, of which there is only the present.
func (c Config) processPaths() []string {
	all := append(c.Health.paths(), flagz.DefaultFlagzPath, statusz.DefaultStatuszPath)
	for _, service := range c.fixed() {
		all = append(all, service.RootPath())
	}
	return all
}

// index lists what can be asked for, at the instant that a request reads.
func (c Config) index(w http.ResponseWriter, r *http.Request) {
	custom, all := c.Custom, slices.Clone(readPaths)
	if view.PastOf(r.Context()) != nil {
		custom, _ = c.CustomAt(r.Context())
		all = append(all, probes...)
	} else {
		all = append(all, c.processPaths()...)
	}
	for _, v := range c.API.Versions {
		all = append(all, "/"+v.Path())
		if v.Group != "" {
			all = append(all, "/apis/"+v.Group)
		}
	}
	for _, v := range custom.Discovery() {
		all = append(all, "/apis/"+v.Group, "/apis/"+v.String())
	}
	slices.Sort(all)
	responsewriters.WriteRawJSON(http.StatusOK, metav1.RootPaths{Paths: slices.Compact(all)}, w)
}
