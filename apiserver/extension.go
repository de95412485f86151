package apiserver

import (
	"context"
	"errors"
	"fmt"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/rutter-project/rutter/apiserver/internal/customresources"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// extension is what serves kinds that are not built in.
type extension struct {
	definitions *customresources.Following
	custom      *customresources.Server
	lifecycle   *customresources.Lifecycle
}

var errNoDefinitions = errors.New("there is no store of CustomResourceDefinitions")

// extend makes what serves custom resources. It starts nothing.
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
	e.custom = customresources.New(customresources.Config{
		Source: e.definitions, Open: s.stores.custom, Prefix: prefixOf, Converters: converters,
		Admission: admit, Authorizer: authz, MaxRequestBytes: maxRequestBytes, MinRequestTimeout: minRequestTimeout,
	})
	e.lifecycle, err = customresources.NewLifecycle(e.custom, s.clientConfig)
	return e, err
}

// documents are the OpenAPI documents of custom resources.
func (e *extension) documents() []kinds.Document {
	var all []kinds.Document
	for _, d := range e.custom.OpenAPIV3() {
		all = append(all, kinds.Document{Path: "apis/" + d.GroupVersion.String(), Mark: d.Mark, Build: d.Build})
	}
	return all
}

// follow makes changes of definitions take effect.
func (e *extension) follow(ctx context.Context) error {
	return e.definitions.Run(ctx, e.custom.Retire)
}
