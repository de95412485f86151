package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutter-project/rutter/apiserver/internal/aggregation"
	"github.com/rutter-project/rutter/apiserver/internal/customresources"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// extension is what serves kinds that are not built in: custom resources, and the
// groups of other API servers.
type extension struct {
	then        thens
	definitions *customresources.Following
	custom      custom
	lifecycle   *customresources.Lifecycle
	aggregator  *aggregation.Aggregator
}

// custom is a server of custom resources as the HTTP side sees it.
type custom struct{ *customresources.Server }

var (
	_ serve.Custom = custom{}
	_ serve.Custom = (*extension)(nil)
)

var errNoDefinitions = errors.New("there is no store of CustomResourceDefinitions")

// extend makes what serves other kinds. It starts nothing.
func (s *Server) extend(hooks webhooks, admit admission.Interface, authz authorizer.UnconditionalAuthorizer) (*extension, error) {
	definitions := s.stores.of(apiextensions.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if definitions == nil {
		return nil, errNoDefinitions
	}
	converters, err := conversion.NewCRConverterFactory(hooks.services, hooks.authentication)
	if err != nil {
		return nil, fmt.Errorf("conversion webhooks: %w", err)
	}
	e := &extension{definitions: customresources.Follow(definitions)}
	config := customresources.Config{
		Source: e.definitions, Open: s.stores.custom, Prefix: prefixOf, Converters: converters,
		Admission: admit, Authorizer: authz, MaxRequestBytes: maxRequestBytes, MinRequestTimeout: minRequestTimeout,
	}
	e.custom = custom{customresources.New(config)}
	e.then = thens{config: config, prefix: definitions.Prefix(), present: definitions.Table(), made: map[string]custom{}}
	if e.lifecycle, err = customresources.NewLifecycle(e.custom.Server, s.clientConfig); err != nil {
		return nil, err
	}
	e.aggregator, err = aggregation.New(aggregation.Config{Loopback: s.clientConfig, Informers: s.informers, Resolver: hooks.services, Identity: s.trust.proxy.PEM})
	if err != nil {
		return nil, err
	}
	for gv, p := range kinds.Priorities() {
		e.aggregator.Announce(gv, aggregation.Priority(p))
	}
	e.changed()
	return e, nil
}

// changed makes changes of definitions take effect.
func (e *extension) changed() {
	e.custom.Retire()
	e.aggregator.Custom(e.custom.Versions())
}

// follow keeps up with definitions until the context ends.
func (e *extension) follow(ctx context.Context) error { return e.definitions.Run(ctx, e.changed) }

// at serves what was defined in the past that a request reads.
func (e *extension) at(ctx context.Context) (serve.Custom, string) { return e.then.at(ctx, e) }

// front passes on what other servers serve. Of the past of other servers nothing is known.
func (e *extension) front(next http.Handler) http.Handler {
	aggregated := e.aggregator.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if view.PastOf(r.Context()) != nil {
			next.ServeHTTP(w, r)
			return
		}
		aggregated.ServeHTTP(w, r)
	})
}

// Handler implements serve.Custom.
func (e *extension) Handler(next http.Handler) http.Handler { return e.custom.Handler(next) }

// Plain implements serve.Custom.
func (e *extension) Plain(info *request.RequestInfo) (serve.Stored, bool) {
	return e.custom.Plain(info)
}

// Plain implements serve.Custom.
func (c custom) Plain(info *request.RequestInfo) (serve.Stored, bool) {
	p, ok := c.Server.Plain(info)
	if !ok {
		return serve.Stored{}, false
	}
	return serve.Stored{Store: p.Store, Kind: p.Kind, ListKind: p.ListKind, Namespaced: p.Namespaced, Typed: true,
		Shape: view.Bare(p.Namespaced), FieldLabel: runtime.DefaultMetaV1FieldSelectorConversion, Forms: p.Store.Forms(), Table: p.Table, Columns: p.Retired,
		Retired: p.Retired, Warnings: p.Warnings}, true
}

// Discovery implements serve.Custom.
func (c custom) Discovery() []serve.Announced {
	var all []serve.Announced
	for _, v := range c.Server.Discovery() {
		all = append(all, serve.Announced{GroupVersion: v.GroupVersion, Resources: v.Resources, Plain: v.List(),
			GroupPriority: int(aggregation.CustomPriority.Group), VersionPriority: int(aggregation.CustomPriority.Version)})
	}
	return all
}

// OpenAPIV3 implements serve.Custom.
func (c custom) OpenAPIV3() []kinds.Document {
	var all []kinds.Document
	for _, d := range c.Server.OpenAPIV3() {
		all = append(all, kinds.Document{Path: "apis/" + d.String(), Mark: d.Mark, Build: d.Build})
	}
	return all
}

// generation is a state of everything that comes and goes.
type generation struct {
	definitions any
	aggregated  int64
}

// Generation implements serve.Custom.
func (e *extension) Generation() any {
	return generation{e.custom.Generation(), e.aggregator.Generation()}
}

// Discovery implements serve.Custom: aggregated versions hide custom resources.
func (e *extension) Discovery() []serve.Announced {
	var all []serve.Announced
	seen := map[schema.GroupVersion]bool{}
	for _, v := range e.aggregator.Discovery() {
		seen[v.GroupVersion] = true
		all = append(all, serve.Announced{GroupVersion: v.GroupVersion, Resources: v.Resources, Stale: v.Stale,
			GroupPriority: v.GroupPriority, VersionPriority: v.VersionPriority})
	}
	for _, v := range e.custom.Discovery() {
		if !seen[v.GroupVersion] {
			all = append(all, v)
		}
	}
	return all
}

// OpenAPIV2 implements serve.Custom.
func (e *extension) OpenAPIV2(base *spec.Swagger) (*spec.Swagger, string, error) {
	doc, custom, err := e.custom.OpenAPIV2(base)
	if err != nil {
		return nil, "", err
	}
	doc, aggregated, err := e.aggregator.OpenAPIV2(doc)
	return doc, custom + ";" + aggregated, err
}

// OpenAPIV3 implements serve.Custom.
func (e *extension) OpenAPIV3() []kinds.Document {
	all := e.custom.OpenAPIV3()
	for _, d := range e.aggregator.OpenAPIV3() { // later ones win
		all = append(all, kinds.Document(d))
	}
	return all
}
