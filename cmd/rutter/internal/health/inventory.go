package health

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// Inventory is every object of a cluster at one instant, as far as the checks want to know.
type Inventory struct {
	objects    map[schemas.Key]object
	byUID      map[string]schemas.Key
	namespaces map[string]bool
	nodes      map[string]bool
	addresses  map[string][]string // services by cluster IP
	specials   map[schemas.Key]special
}

// object is what all kinds have.
type object struct {
	UID               string     `json:"uid"`
	DeletionTimestamp *time.Time `json:"deletionTimestamp"`
	Finalizers        []string   `json:"finalizers"`
	OwnerReferences   []struct{ Kind, Name, UID string }
}

// special is what some kinds have.
type special struct {
	Spec struct {
		NodeName   string
		ClusterIPs []string
		Versions   []struct{ Name string }
	}
	Status struct {
		StoredVersions []string
		Conditions     []struct{ Type, Status, Message string }
	}
	Webhooks []struct {
		Name          string
		FailurePolicy string
		ClientConfig  struct {
			Service *struct{ Namespace, Name string }
		}
	}
}

// looked are the resources whose specials are read.
var looked = map[schemas.Key]bool{
	{Resource: "pods"}: true, {Resource: "services"}: true,
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}:               true,
	{Group: "apiregistration.k8s.io", Resource: "apiservices"}:                           true,
	{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"}: true,
	{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"}:   true,
}

// NewInventory returns an empty one.
func NewInventory() *Inventory {
	return &Inventory{objects: map[schemas.Key]object{}, byUID: map[string]schemas.Key{}, namespaces: map[string]bool{},
		nodes: map[string]bool{}, addresses: map[string][]string{}, specials: map[schemas.Key]special{}}
}

// Add takes an object in.
func (i *Inventory) Add(key schemas.Key, text []byte) error {
	var is struct {
		Metadata object `json:"metadata"`
	}
	if err := json.Unmarshal(text, &is); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	i.objects[key] = is.Metadata
	i.byUID[is.Metadata.UID] = key
	kind := schemas.Key{Group: key.Group, Resource: key.Resource}
	switch kind {
	case schemas.Key{Resource: "namespaces"}:
		i.namespaces[key.Name] = true
	case schemas.Key{Resource: "nodes"}:
		i.nodes[key.Name] = true
	}
	if !looked[kind] {
		return nil
	}
	var s special
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	i.specials[key] = s
	if kind.Resource == "services" {
		for _, ip := range s.Spec.ClusterIPs {
			if ip != "None" && ip != "" {
				i.addresses[ip] = append(i.addresses[ip], key.Namespace+"/"+key.Name)
			}
		}
	}
	return nil
}

// Len is how many objects there are.
func (i *Inventory) Len() int { return len(i.objects) }

// Check judges the objects. now tells what has been ending for too long.
func (i *Inventory) Check(now time.Time) []Finding {
	dangling, foreign := i.owners()
	owned := found("owners", Failed, foreign, "every owner is there, where it may be", "owned from another namespace", "the garbage collector will not see them rightly: mend ownerReferences")
	if owned.State == OK {
		owned = found("owners", Warning, dangling, owned.Seen, "owners are gone", "the garbage collector deletes these; look again")
	}
	return []Finding{
		owned,
		found("namespaces", Failed, i.homeless(), plural(len(i.namespaces), "namespace")+", every object in one of them", "their namespace is gone", "delete them, or make the namespace again"),
		found("deletions", Warning, i.stuck(now), "none waits for long", fmt.Sprintf("being deleted for more than %s", stuckAfter), "find out who should take the finalizers off"),
		found("definitions", Failed, i.definitions(), "all are established", "custom resources can't be served", "kubectl describe crd"),
		found("stored-versions", Failed, i.storedVersions(), "each is still defined", "kept in versions that are not defined any more", "define these versions again, write the objects anew, then take the version out of status.storedVersions"),
		found("api-services", Failed, i.apiServices(), "all are available", "not available", "discovery and namespace deletion need them: mend or delete them"),
		found("webhooks", Failed, i.webhooks(), "none can fail for want of its Service", "refuse what they are asked about, since their Service is gone", "install the Service again or delete the configuration"),
		found("pod-nodes", Warning, i.podNodes(), "every pod's node is there", "bound to nodes that are gone", "the garbage collector deletes these; look again"),
		found("cluster-ips", Failed, i.twice(), "no two Services share one", "used twice", "delete one of the Services and make it again"),
	}
}

func (i *Inventory) sorted(of func(key schemas.Key) (string, bool)) []string {
	var out []string
	for key := range i.objects {
		if text, bad := of(key); bad {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// owners are objects whose owner is gone, and those whose owner is in another namespace.
func (i *Inventory) owners() (dangling, foreign []string) {
	dangling = i.sorted(func(key schemas.Key) (string, bool) {
		for _, ref := range i.objects[key].OwnerReferences {
			if _, there := i.byUID[ref.UID]; !there {
				return fmt.Sprintf("%s (%s %s)", key, ref.Kind, ref.Name), true
			}
		}
		return "", false
	})
	foreign = i.sorted(func(key schemas.Key) (string, bool) {
		for _, ref := range i.objects[key].OwnerReferences {
			if owner, there := i.byUID[ref.UID]; there && owner.Namespace != "" && owner.Namespace != key.Namespace {
				return fmt.Sprintf("%s (%s)", key, owner), true
			}
		}
		return "", false
	})
	return dangling, foreign
}

func (i *Inventory) homeless() []string {
	return i.sorted(func(key schemas.Key) (string, bool) {
		return key.String(), key.Namespace != "" && !i.namespaces[key.Namespace]
	})
}

const stuckAfter = time.Hour

func (i *Inventory) stuck(now time.Time) []string {
	return i.sorted(func(key schemas.Key) (string, bool) {
		o := i.objects[key]
		return fmt.Sprintf("%s %v", key, o.Finalizers), o.DeletionTimestamp != nil && now.Sub(*o.DeletionTimestamp) > stuckAfter
	})
}

// special looks at the objects of a resource.
func (i *Inventory) special(resource string, of func(s special) (string, bool)) []string {
	return i.sorted(func(key schemas.Key) (string, bool) {
		s, there := i.specials[key]
		if !there || key.Resource != resource {
			return "", false
		}
		text, bad := of(s)
		if text != "" {
			text = " (" + text + ")"
		}
		name := key.Name
		if key.Namespace != "" {
			name = key.Namespace + "/" + name
		}
		return name + text, bad
	})
}

// condition is the message of a condition that is not true.
func (s special) condition(kind string) (message string, bad bool) {
	for _, c := range s.Status.Conditions {
		if c.Type == kind {
			return c.Message, c.Status != "True"
		}
	}
	return "not " + kind + " yet", true
}

func (i *Inventory) definitions() []string {
	return i.special("customresourcedefinitions", func(s special) (string, bool) {
		if message, bad := s.condition("NamesAccepted"); bad {
			return message, true
		}
		return s.condition("Established")
	})
}

func (i *Inventory) storedVersions() []string {
	return i.special("customresourcedefinitions", func(s special) (string, bool) {
		for _, stored := range s.Status.StoredVersions {
			if !slices.ContainsFunc(s.Spec.Versions, func(v struct{ Name string }) bool { return v.Name == stored }) {
				return stored, true
			}
		}
		return "", false
	})
}

func (i *Inventory) apiServices() []string {
	return i.special("apiservices", func(s special) (string, bool) { return s.condition("Available") })
}

// webhooks are those that fail closed and whose Service is not there.
func (i *Inventory) webhooks() []string {
	var out []string
	for _, resource := range []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} {
		out = append(out, i.special(resource, func(s special) (string, bool) {
			for _, w := range s.Webhooks {
				target := w.ClientConfig.Service
				if target == nil || w.FailurePolicy == "Ignore" {
					continue
				}
				if _, there := i.objects[schemas.Key{Resource: "services", Namespace: target.Namespace, Name: target.Name}]; !there {
					return fmt.Sprintf("%s: %s/%s", w.Name, target.Namespace, target.Name), true
				}
			}
			return "", false
		})...)
	}
	return out
}

func (i *Inventory) podNodes() []string {
	return i.special("pods", func(s special) (string, bool) {
		return s.Spec.NodeName, s.Spec.NodeName != "" && !i.nodes[s.Spec.NodeName]
	})
}

func (i *Inventory) twice() []string {
	var out []string
	for ip, services := range i.addresses {
		if len(services) > 1 {
			slices.Sort(services)
			out = append(out, fmt.Sprintf("%s by %v", ip, services))
		}
	}
	slices.Sort(out)
	return out
}
