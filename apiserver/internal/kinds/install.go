package kinds

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	restful "github.com/emicklei/go-restful/v3"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// Config is what the built-in kinds need from the server around them. All fields are
// required unless they say otherwise.
type Config struct {
	Storage generic.RESTOptionsGetter
	// RawStorage opens a store for an internal resource and tells its key prefix.
	RawStorage func(schema.GroupResource, func() runtime.Object) (storage.Interface, string, error)
	Client     kubernetes.Interface // the loopback client
	Informers  informers.SharedInformerFactory
	Admission  admission.Interface

	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer
	// Reviews and Rules answer reviews of access.
	Reviews   authorizer.UnconditionalAuthorizer
	Rules     authorizer.RuleResolver
	Tokens    serviceaccount.TokenGenerator
	Audiences authenticator.Audiences

	EventTTL  time.Duration
	NodePorts utilnet.PortRange
	// Files (PEM) for reaching node agents.
	ClusterCA, KubeletClientCert, KubeletClientKey string
	// Components answer componentstatuses, by name; optional.
	Components map[string]func() error

	// Instant tells as of when a request reads, and whether that is the past.
	Instant func(ctx context.Context) (time.Time, bool)
	// Present returns a context that reads the present.
	Present func(ctx context.Context) context.Context

	// ReadOnly tells that nothing is ever written: nothing is started that gives out
	// addresses.
	ReadOnly bool

	MaxRequestBytes   int64
	MinRequestTimeout time.Duration // least time a watch without timeoutSeconds lives
}

// GroupVersion is one served version of an API group.
type GroupVersion struct {
	schema.GroupVersion
	Root      string // "/api" or "/apis"
	Service   *restful.WebService
	Container *restful.Container // of Service
	Resources []apidiscovery.APIResourceDiscovery
	Storages  map[string]rest.Storage

	openAPI  func() *openapicommon.OpenAPIV3Config
	building *sync.Mutex // of all versions; held while a document is built
}

// API is everything the built-in kinds serve.
type API struct {
	Versions []GroupVersion // in order of discovery
	Types    managedfields.TypeConverter
}

// Install makes all storages and handlers. It starts nothing.
func Install(c Config) (*API, error) {
	capabilities.Setup(true, 0) // privileged pods, which PodSecurity restricts by namespace
	all, err := c.storages()
	if err != nil {
		return nil, err
	}
	if err := c.allocateInPast(all); err != nil {
		return nil, err
	}
	for _, resources := range all {
		for _, storage := range resources {
			ageTables(storage, c.Instant)
		}
	}
	openAPI := sync.OnceValue(v3Config) // the definitions of all kinds are large: make them once
	var building sync.Mutex
	types, err := typeConverter(openAPI(), all)
	if err != nil {
		return nil, fmt.Errorf("types for server-side apply: %w", err)
	}
	api := &API{Types: types}
	equivalent := runtime.NewEquivalentResourceRegistryWithIdentity(func(gr schema.GroupResource) string { return StoredAs(gr).String() })
	for _, gv := range groupOrder {
		v, err := c.install(gv, all, types, equivalent)
		if err != nil {
			return nil, fmt.Errorf("install %s: %w", gv, err)
		}
		v.openAPI, v.building = openAPI, &building
		api.Versions = append(api.Versions, v)
	}
	return api, nil
}

func (c Config) install(gv schema.GroupVersion, all map[schema.GroupVersion]resources, types managedfields.TypeConverter, equivalent runtime.EquivalentResourceRegistry) (GroupVersion, error) {
	root := "/apis"
	if gv.Group == "" {
		root = "/api"
	}
	optionsVersion := schema.GroupVersion{Version: "v1"}
	version := &endpoints.APIGroupVersion{
		Storage:                     all[gv],
		Root:                        root,
		GroupVersion:                gv,
		AllServedVersionsByResource: servedVersions(gv.Group, all),
		OptionsExternalVersion:      &optionsVersion,
		Serializer:                  codecs,
		ParameterCodec:              legacyscheme.ParameterCodec,
		Typer:                       legacyscheme.Scheme,
		Creater:                     legacyscheme.Scheme,
		Convertor:                   legacyscheme.Scheme,
		ConvertabilityChecker:       legacyscheme.Scheme,
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(legacyscheme.Scheme),
		Defaulter:                   legacyscheme.Scheme,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		TypeConverter:               types,
		EquivalentResourceRegistry:  equivalent,
		Authorizer:                  c.Authorizer,
		Admit:                       c.Admission,
		MinRequestTimeout:           c.MinRequestTimeout,
		MaxRequestBodyBytes:         c.MaxRequestBytes,
	}
	container := Container()
	found, _, err := version.InstallREST(container)
	if err != nil {
		return GroupVersion{}, err
	}
	return GroupVersion{GroupVersion: gv, Root: root, Service: container.RegisteredWebServices()[0], Container: container, Resources: found, Storages: all[gv]}, nil
}

// servedVersions lists, for each resource of a group, the versions it is served in.
func servedVersions(group string, all map[schema.GroupVersion]resources) map[string][]string {
	m := map[string][]string{}
	for gv, rs := range all {
		if gv.Group != group {
			continue
		}
		for name := range rs {
			m[name] = append(m[name], gv.String())
		}
	}
	for _, versions := range m {
		sort.Strings(versions)
	}
	return m
}
