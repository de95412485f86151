package serve

import (
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// index lists what can be asked for, at the instant that a request reads.
func (c Config) index(w http.ResponseWriter, r *http.Request) {
	custom := c.Custom
	all := []string{
		"/api", "/apis", "/apis/", historyEvents, historyInstant, historyState, historyStatus,
		"/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version",
	}
	if view.PastOf(r.Context()) != nil { // of the process there is only the present
		custom, _ = c.CustomAt(r.Context())
		all = append(all, probes...)
	} else {
		for _, service := range c.fixed() {
			all = append(all, service.RootPath())
		}
		all = append(all, c.Health.paths()...)
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
