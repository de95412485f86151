package serve

import (
	"net/http"
	"net/url"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// calls are resources that are never stored: creating one calls the server.
type calls map[schema.GroupResource]bool

func (c Config) calls() calls {
	all := calls{}
	for _, version := range c.API.Versions {
		for _, r := range version.Resources {
			if !slices.Contains(r.Verbs, "get") {
				all[schema.GroupResource{Group: version.Group, Resource: r.Resource}] = true
			}
		}
	}
	return all
}

// tried tells that a request asks what a write would have made of the past: nothing is
// written in a dry run.
func (c calls) tried(info *request.RequestInfo, query url.Values) bool {
	if !info.IsResourceRequest || c[schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}] || !dryRun(query) {
		return false
	}
	switch info.Verb {
	case "create":
		return info.Subresource == ""
	case "update", "patch":
		return slices.Contains(pastSubresources, info.Subresource)
	default:
		return false
	}
}

// dryRun tells that a request says so in every way that it says anything about it: what
// it means otherwise is for its handler to refuse, which the past has not.
func dryRun(query url.Values) bool {
	return query.Has("dryRun") && !slices.ContainsFunc(query["dryRun"], func(v string) bool { return v != "All" })
}

const trialWarning = "this is the past: admission plugins and webhooks, which judge by the present, were not asked"

// withTrial guards dry runs on the past. Their answers show what was stored, so that they
// ask for the permission to get it, beside that of their own verb. Reviews of oneself,
// which are created as well, are no dry runs.
func (c Config) withTrial(next http.Handler, calls calls) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		info, ok := request.RequestInfoFrom(ctx)
		if visitOf(ctx) == nil || !ok || !calls.tried(info, r.URL.Query()) {
			next.ServeHTTP(w, r)
			return
		}
		attributes, err := filters.GetAuthorizerAttributes(ctx)
		if err != nil {
			responsewriters.InternalError(w, r, err)
			return
		}
		reading := get{attributes}
		decision, reason, err := c.Authorizer.Authorize(ctx, reading)
		switch {
		case decision == authorizer.DecisionAllow:
			warning.AddWarning(ctx, "", trialWarning)
			next.ServeHTTP(w, r)
		case err != nil:
			responsewriters.InternalError(w, r, err)
		default:
			responsewriters.Forbidden(reading, w, r, reason, kinds.Codecs())
		}
	})
}

// get is a request to read what another request names.
type get struct{ authorizer.Attributes }

// GetVerb implements authorizer.Attributes.
func (get) GetVerb() string { return "get" }

// IsReadOnly implements authorizer.Attributes.
func (get) IsReadOnly() bool { return true }
