package customresources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apiextensions-apiserver/pkg/controller/finalizer"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/warning"
)

// Storage is what a resource needs to be opened.
type Storage struct {
	Resource         schema.GroupResource
	Prefix           string        // of the keys, without the trailing slash
	Codec            runtime.Codec // writes the storage version, reads the version served
	NewFunc, NewList func() runtime.Object
	Retired          <-chan struct{} // closed when watches are to end
}

// Config is what serving custom resources takes. All fields are required.
type Config struct {
	Source Source
	// Open returns the storage of one version of a resource.
	Open func(Storage) (storage.Interface, error)
	// Prefix is where a resource's objects are kept.
	Prefix            func(schema.GroupResource) string
	Converters        *conversion.CRConverterFactory
	Admission         admission.Interface
	Authorizer        authorizer.UnconditionalAuthorizer
	MaxRequestBytes   int64
	MinRequestTimeout time.Duration // least time a watch without timeoutSeconds lives
}

// Server answers requests for custom resources.
type Server struct {
	cfg Config

	mu        sync.Mutex
	resources map[types.UID]*resource // guarded by mu

	documents documents
}

// New returns a server. It starts nothing.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, resources: map[types.UID]*resource{}}
}

// target is a request's resource, found.
type target struct {
	crd      *apiextensions.CustomResourceDefinition
	resource *resource
	version  *version
}

// Handler serves custom resources and leaves other requests to next. A resource that
// is not known is looked for once more when the source has caught up with etcd, so that
// whoever has seen a definition established can use it, on any API server.
func (s *Server) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !info.IsResourceRequest || info.APIGroup == "" {
			next.ServeHTTP(w, req)
			return
		}
		t, err := s.find(info)
		if t == nil && err == nil {
			if err = s.cfg.Source.CatchUp(req.Context()); err == nil {
				t, err = s.find(info)
			}
		}
		switch {
		case err != nil:
			fail(w, req, info, apierrors.NewInternalError(err))
		case t == nil:
			next.ServeHTTP(w, req)
		default:
			s.serve(w, req, info, t)
		}
	})
}

func fail(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, err error) {
	responsewriters.ErrorNegotiated(err, codecs, schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}, w, req)
}

// find returns nil for what is no resource, is not served in the version or scope, or
// has no accepted names.
func (s *Server) find(info *request.RequestInfo) (*target, error) {
	d, ok := s.cfg.Source.Get(info.Resource + "." + info.APIGroup)
	if !ok || !fitsScope(d.Spec.Scope, info) || !apihelpers.HasServedCRDVersion(d.CustomResourceDefinition, info.APIVersion) {
		return nil, nil
	}
	// A name conflict that arises later does not take a served resource away.
	if !apihelpers.IsCRDConditionTrue(d.CustomResourceDefinition, apiextensions.NamesAccepted) &&
		!apihelpers.IsCRDConditionTrue(d.CustomResourceDefinition, apiextensions.Established) {
		return nil, nil
	}
	r, err := s.resource(d)
	if err != nil {
		return nil, err
	}
	v, err := r.version(info.APIVersion)
	if err != nil {
		return nil, err
	}
	return &target{crd: d.CustomResourceDefinition, resource: r, version: v}, nil
}

// fitsScope refuses namespaces for cluster-scoped resources, and their lack for single
// namespaced objects.
func fitsScope(scope apiextensions.ResourceScope, info *request.RequestInfo) bool {
	if info.Namespace != "" {
		return scope == apiextensions.NamespaceScoped
	}
	return scope == apiextensions.ClusterScoped || info.Verb == "list" || info.Verb == "watch"
}

// resource returns what serves a definition; if it was made of an earlier state of the
// definition it is made anew and watches of the old one end.
func (s *Server) resource(d Definition) (*resource, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.resources[d.UID]
	if ok && old.serves(d.CustomResourceDefinition) {
		return old, nil
	}
	r, err := newResource(&s.cfg, d)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", d.Name, err)
	}
	if ok {
		close(old.retired)
	}
	s.resources[d.UID] = r
	return r, nil
}

// Retire ends the watches of resources whose definitions have changed or are gone. The
// live server calls it whenever a definition has changed.
func (s *Server) Retire() {
	present := map[types.UID]Definition{}
	for _, d := range s.cfg.Source.List() {
		present[d.UID] = d
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, r := range s.resources {
		if d, ok := present[uid]; !ok || !r.serves(d.CustomResourceDefinition) {
			close(r.retired)
			delete(s.resources, uid)
		}
	}
}

// serve answers one request.
func (s *Server) serve(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, t *target) {
	for _, text := range t.version.warnings {
		warning.AddWarning(req.Context(), "", text)
	}
	handle, err := s.verb(info, t)
	if err != nil {
		fail(w, req, info, err)
		return
	}
	handle = metrics.InstrumentHandlerFunc(strings.ToUpper(info.Verb), info.APIGroup, info.APIVersion, info.Resource, info.Subresource,
		metrics.CleanScope(info), metrics.APIServerComponent, t.version.deprecated, "", handle)
	handle(w, req)
}

var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)}

// verb finds the handler of a verb on a resource or subresource.
func (s *Server) verb(info *request.RequestInfo, t *target) (http.HandlerFunc, error) {
	admit := s.cfg.Admission
	if !t.crd.DeletionTimestamp.IsZero() || apihelpers.IsCRDConditionTrue(t.crd, apiextensions.Terminating) {
		admit = noCreation{admit}
	}
	v, gr := t.version, schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}
	switch {
	case info.Subresource == "":
		if info.Name != "" && info.Verb == "create" {
			break // who may create that one would create any other
		}
		if handle := s.mainVerb(info.Verb, v, admit); handle != nil {
			return handle, nil
		}
	case info.Subresource == "status" && v.status != nil:
		if handle := partVerb(info.Verb, v.storage.Status, v.status, s.cfg.Admission); handle != nil {
			return handle, nil
		}
	case info.Subresource == "scale" && v.scaled != nil:
		if handle := partVerb(info.Verb, v.storage.Scale, v.scaled, s.cfg.Admission); handle != nil {
			return handle, nil
		}
	default:
		return nil, apierrors.NewNotFound(gr, info.Name)
	}
	return nil, apierrors.NewMethodNotSupported(gr, info.Verb)
}

func (s *Server) mainVerb(verb string, v *version, admit admission.Interface) http.HandlerFunc {
	st, scope := v.storage.CustomResource, v.main
	switch verb {
	case "get":
		return handlers.GetResource(st, scope)
	case "list", "watch":
		return handlers.ListResource(st, st, scope, verb == "watch", s.cfg.MinRequestTimeout)
	case "create":
		return handlers.CreateResource(st, scope, admit)
	case "update":
		return handlers.UpdateResource(st, scope, s.cfg.Admission)
	case "patch":
		return handlers.PatchResource(st, scope, admit, patchTypes)
	case "delete":
		return handlers.DeleteResource(st, true, scope, s.cfg.Admission)
	case "deletecollection":
		return handlers.DeleteCollection(st, true, scope, s.cfg.Admission)
	default:
		return nil
	}
}

// part is the storage of a subresource.
type part interface {
	rest.Getter
	rest.Patcher
}

func partVerb(verb string, st part, scope *handlers.RequestScope, admit admission.Interface) http.HandlerFunc {
	switch verb {
	case "get":
		return handlers.GetResource(st, scope)
	case "update":
		return handlers.UpdateResource(st, scope, admit)
	case "patch":
		return handlers.PatchResource(st, scope, admit, patchTypes)
	default:
		return nil
	}
}

// noCreation refuses new objects while their definition is being deleted.
type noCreation struct{ admission.Interface }

var errTerminating = errors.New("create not allowed while custom resource definition is terminating")

// Handles implements admission.Interface.
func (n noCreation) Handles(op admission.Operation) bool {
	return op == admission.Create || n.Interface.Handles(op)
}

// Admit implements admission.MutationInterface.
func (n noCreation) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetOperation() == admission.Create {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errTerminating)
	}
	if next, ok := n.Interface.(admission.MutationInterface); ok && n.Interface.Handles(a.GetOperation()) {
		return next.Admit(ctx, a, o)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (n noCreation) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetOperation() == admission.Create {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errTerminating)
	}
	if next, ok := n.Interface.(admission.ValidationInterface); ok && n.Interface.Handles(a.GetOperation()) {
		return next.Validate(ctx, a, o)
	}
	return nil
}

// GetCustomResourceListerCollectionDeleter implements finalizer.CRClientGetter: it is
// how the objects of a deleted definition are deleted.
func (s *Server) GetCustomResourceListerCollectionDeleter(crd *apiextensions.CustomResourceDefinition) (finalizer.ListerCollectionDeleter, error) {
	d, ok := s.cfg.Source.Get(crd.Name)
	if !ok || d.UID != crd.UID {
		d = Definition{CustomResourceDefinition: crd}
	}
	r, err := s.resource(d)
	if err != nil {
		return nil, err
	}
	v, err := r.version(r.stored)
	if err != nil {
		return nil, err
	}
	return v.storage.CustomResource, nil
}

// established are the definitions whose objects are announced, ordered by name.
func (s *Server) established() []Definition {
	return slices.DeleteFunc(s.cfg.Source.List(), func(d Definition) bool {
		return !apihelpers.IsCRDConditionTrue(d.CustomResourceDefinition, apiextensions.Established)
	})
}

// Generation changes whenever a definition does.
func (s *Server) Generation() any { return s.cfg.Source.Generation() }
