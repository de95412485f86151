package customresources

import (
	"slices"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	autoscaling "k8s.io/api/autoscaling/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
)

// GroupVersion is what discovery tells of one version of a group.
type GroupVersion struct {
	schema.GroupVersion
	Resources []apidiscovery.APIResourceDiscovery
	// Hashes tells, by resource, in which version objects are stored, if that is served.
	Hashes map[string]string
}

var (
	allVerbs  = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	lastVerbs = []string{"delete", "deletecollection", "get", "list", "watch"} // of a definition that is being deleted
	partVerbs = []string{"get", "patch", "update"}
)

// Discovery lists what established definitions serve: groups by name, in each the most
// stable version first.
func (s *Server) Discovery() []GroupVersion {
	found := map[schema.GroupVersion]*GroupVersion{}
	for _, d := range s.established() {
		hash := ""
		if stored, err := apihelpers.GetCRDStorageVersion(d.CustomResourceDefinition); err == nil && apihelpers.HasServedCRDVersion(d.CustomResourceDefinition, stored) {
			hash = discovery.StorageVersionHash(d.Spec.Group, stored, d.Spec.Names.Kind)
		}
		for _, v := range d.Spec.Versions {
			if !v.Served {
				continue
			}
			gv := schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}
			if found[gv] == nil {
				found[gv] = &GroupVersion{GroupVersion: gv, Hashes: map[string]string{}}
			}
			found[gv].Resources = append(found[gv].Resources, describe(d.CustomResourceDefinition, v))
			found[gv].Hashes[d.Status.AcceptedNames.Plural] = hash
		}
	}
	var all []GroupVersion
	for _, gv := range found {
		all = append(all, *gv) // resources are in order, because definitions are
	}
	slices.SortFunc(all, func(a, b GroupVersion) int {
		switch {
		case a.Group < b.Group:
			return -1
		case a.Group > b.Group:
			return 1
		default:
			return kubeversion.CompareKubeAwareVersionStrings(b.Version, a.Version)
		}
	})
	return all
}

// Versions are the group versions of all definitions that are to be served, whether
// established yet or not.
func (s *Server) Versions() map[schema.GroupVersion]bool {
	versions := map[schema.GroupVersion]bool{}
	for _, d := range s.cfg.Source.List() {
		for _, v := range d.Spec.Versions {
			if v.Served {
				versions[schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}] = true
			}
		}
	}
	return versions
}

func describe(crd *apiextensions.CustomResourceDefinition, v apiextensions.CustomResourceDefinitionVersion) apidiscovery.APIResourceDiscovery {
	names := crd.Status.AcceptedNames
	kind := &metav1.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: names.Kind}
	r := apidiscovery.APIResourceDiscovery{
		Resource: names.Plural, SingularResource: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Scope: apidiscovery.ScopeCluster, ResponseKind: kind, Verbs: allVerbs,
	}
	if crd.Spec.Scope == apiextensions.NamespaceScoped {
		r.Scope = apidiscovery.ScopeNamespace
	}
	if apihelpers.IsCRDConditionTrue(crd, apiextensions.Terminating) {
		r.Verbs = lastVerbs
	}
	if v.Subresources == nil {
		return r
	}
	if v.Subresources.Status != nil {
		r.Subresources = append(r.Subresources, apidiscovery.APISubresourceDiscovery{Subresource: "status", ResponseKind: kind, Verbs: partVerbs})
	}
	if v.Subresources.Scale != nil {
		r.Subresources = append(r.Subresources, apidiscovery.APISubresourceDiscovery{Subresource: "scale", Verbs: partVerbs,
			ResponseKind: &metav1.GroupVersionKind{Group: autoscaling.GroupName, Version: "v1", Kind: "Scale"}})
	}
	return r
}

// List is the version's answer to clients that know no aggregated discovery.
func (v GroupVersion) List() []metav1.APIResource {
	var list []metav1.APIResource
	for _, r := range v.Resources {
		namespaced := r.Scope == apidiscovery.ScopeNamespace
		list = append(list, metav1.APIResource{Name: r.Resource, SingularName: r.SingularResource, Namespaced: namespaced,
			Kind: r.ResponseKind.Kind, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories, StorageVersionHash: v.Hashes[r.Resource]})
		for _, sub := range r.Subresources {
			part := metav1.APIResource{Name: r.Resource + "/" + sub.Subresource, Namespaced: namespaced, Kind: sub.ResponseKind.Kind, Verbs: sub.Verbs}
			if sub.ResponseKind.Group != v.Group {
				part.Group, part.Version = sub.ResponseKind.Group, sub.ResponseKind.Version
			}
			list = append(list, part)
		}
	}
	return list
}
