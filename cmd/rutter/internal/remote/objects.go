package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/rutter-project/rutter/schemas"
)

// Resource is one resource of the API.
type Resource struct {
	Group, Version, Resource string
	Namespaced               bool
}

// Key names an object of the resource. The namespace is left out where there is none.
func (r Resource) Key(namespace, name string) schemas.Key {
	if !r.Namespaced {
		namespace = ""
	}
	return schemas.Key{Group: r.Group, Resource: r.Resource, Namespace: namespace, Name: name}
}

// path of the resource, or of an object if a name is given.
func (r Resource) path(namespace, name string) string {
	path := "/apis/" + r.Group + "/" + r.Version
	if r.Group == "" {
		path = "/api/" + r.Version
	}
	if r.Namespaced && namespace != "" {
		path += "/namespaces/" + namespace
	}
	path += "/" + r.Resource
	if name != "" {
		path += "/" + name
	}
	return path
}

// discover reads discovery as of an instant, or of now if that is empty.
func (s *Server) discover(instant string) (*discovery.DiscoveryClient, error) {
	cfg := rest.CopyConfig(s.rest)
	if instant != "" {
		cfg.Host = s.base.String() + "/at/" + instant
	}
	return discovery.NewDiscoveryClientForConfigAndClient(cfg, s.http)
}

func (s *Server) restMapper() (meta.RESTMapper, error) {
	if s.mapper != nil {
		return s.mapper, nil
	}
	client, err := s.discover("")
	if err != nil {
		return nil, err
	}
	cached := memory.NewMemCacheClient(client)
	s.mapper = restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, func(string) {})
	return s.mapper, nil
}

// Find finds a resource by any of its names: "deploy", "pods", "Deployment",
// "deployments.apps", "widgets.v1.example.com".
func (s *Server) Find(name string) (Resource, error) {
	mapper, err := s.restMapper()
	if err != nil {
		return Resource{}, err
	}
	versioned, plain := schema.ParseResourceArg(strings.ToLower(name))
	var kind schema.GroupVersionKind
	found := false
	if versioned != nil {
		kind, err = mapper.KindFor(*versioned)
		found = err == nil
	}
	if !found {
		if kind, err = mapper.KindFor(plain.WithVersion("")); err != nil {
			return Resource{}, s.unknown(name, err)
		}
	}
	return s.mapping(kind)
}

func (s *Server) mapping(kind schema.GroupVersionKind) (Resource, error) {
	mapping, err := s.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return Resource{}, s.unknown(kind.Kind, err)
	}
	return Resource{
		Group: mapping.Resource.Group, Version: mapping.Resource.Version, Resource: mapping.Resource.Resource,
		Namespaced: mapping.Scope.Name() == meta.RESTScopeNameNamespace,
	}, nil
}

var errUnknown = errors.New("the server has no resource")

// Unknown reports that a resource was not found because the server has none of that name.
func Unknown(err error) bool { return errors.Is(err, errUnknown) }

func (s *Server) unknown(name string, err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("%w %q; see `kubectl api-resources`", errUnknown, name)
	}
	return fmt.Errorf("resource %q: %w", name, err)
}

// Owner finds the key of the object that an owner reference names.
func (s *Server) Owner(apiVersion, kind, namespace, name string) (schemas.Key, bool) {
	if _, err := s.restMapper(); err != nil {
		return schemas.Key{}, false
	}
	r, err := s.mapping(schema.FromAPIVersionAndKind(apiVersion, kind))
	if err != nil {
		return schemas.Key{}, false
	}
	return r.Key(namespace, name), true
}

// Listable are the resources that can be listed at an instant, in the version that the
// server prefers.
func (s *Server) Listable(instant string) ([]Resource, error) {
	client, err := s.discover(instant)
	if err != nil {
		return nil, err
	}
	lists, err := client.ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("discovery at %s: %w", instant, err)
	}
	var out []Resource
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("discovery at %s: %w", instant, err)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") {
				continue
			}
			out = append(out, Resource{Group: gv.Group, Version: gv.Version, Resource: r.Name, Namespaced: r.Namespaced})
		}
	}
	return out, nil
}

// Object reads an object as it was at an instant, or as it is if that is empty. It is
// nil if there was none.
func (s *Server) Object(ctx context.Context, instant string, r Resource, key schemas.Key) (json.RawMessage, error) {
	var object json.RawMessage
	err := s.get(ctx, at(instant)+r.path(key.Namespace, key.Name), nil, &object)
	if gone(err) && !expired(err) {
		return nil, nil
	}
	return object, err
}

func at(instant string) string {
	if instant == "" {
		return ""
	}
	return "/at/" + instant
}

// listLimit is how many objects come in a page.
const listLimit = "500"

// List reads all objects of a resource as they were at an instant, by key. An empty
// namespace is all of them. A resource that was not served then has none.
func (s *Server) List(ctx context.Context, instant string, r Resource, namespace string) (map[schemas.Key]json.RawMessage, error) {
	return s.Select(ctx, instant, r, namespace, "")
}

// Select is List of those objects that a field selector chooses.
func (s *Server) Select(ctx context.Context, instant string, r Resource, namespace, fields string) (map[schemas.Key]json.RawMessage, error) {
	out := map[schemas.Key]json.RawMessage{}
	next := ""
	for {
		var page struct {
			APIVersion string          `json:"apiVersion"`
			Kind       string          `json:"kind"`
			Metadata   metav1.ListMeta `json:"metadata"`
			Items      []json.RawMessage
		}
		query := url.Values{"limit": {listLimit}}
		if fields != "" {
			query.Set("fieldSelector", fields)
		}
		if next != "" {
			query.Set("continue", next)
		}
		err := s.get(ctx, at(instant)+r.path(namespace, ""), query, &page)
		if gone(err) && !expired(err) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			var m struct {
				Metadata struct{ Name, Namespace string }
			}
			if err := json.Unmarshal(item, &m); err != nil {
				return nil, fmt.Errorf("list of %s: %w", r.Resource, err)
			}
			out[r.Key(m.Metadata.Namespace, m.Metadata.Name)] = typed(item, page.APIVersion, strings.TrimSuffix(page.Kind, "List"))
		}
		if next = page.Metadata.Continue; next == "" {
			return out, nil
		}
	}
}

// typed puts into an item of a list what the list says for all of them.
func typed(item json.RawMessage, apiVersion, kind string) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(item, &fields) != nil || len(fields["kind"]) > 0 {
		return item
	}
	fields["apiVersion"], _ = json.Marshal(apiVersion)
	fields["kind"], _ = json.Marshal(kind)
	out, err := json.Marshal(fields)
	if err != nil {
		return item
	}
	return out
}

// Names are the names of a resource's objects now, of the first page.
func (s *Server) Names(ctx context.Context, r Resource, namespace string) ([]string, error) {
	var page struct {
		Items []struct {
			Metadata struct{ Name string }
		}
	}
	if err := s.get(ctx, r.path(namespace, ""), url.Values{"limit": {listLimit}}, &page); err != nil {
		return nil, err
	}
	var out []string
	for _, item := range page.Items {
		out = append(out, item.Metadata.Name)
	}
	return out, nil
}
