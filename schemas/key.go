package schemas

import (
	"errors"
	"fmt"
	"strings"
)

// Where Rutter keeps things in etcd. Prefix covers all of it and is what the
// feed watches; only keys below RegistryPrefix are objects.
const (
	Prefix         = "/rutter/"
	RegistryPrefix = "/rutter/registry/"
	CausePrefix    = "/rutter/cause/"
)

// coreGroup stands in paths for the group whose name is empty.
const coreGroup = "core"

// ErrNotObject says that a path or subject does not name an object.
var ErrNotObject = errors.New("not the name of an object")

// Key names one object. Group is empty for the core group, Namespace is empty
// for objects of cluster scope. There is no API version in it: the identity of
// an object does not change with the form it is read in.
type Key struct {
	// Absent for the core group.
	Group string `json:"group,omitempty"`
	// Lower case and plural.
	Resource string `json:"resource" schema:"minLength=1"`
	// Absent for objects of cluster scope.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name" schema:"minLength=1"`
}

// String is the form for people: "apps/deployments/prod/web" or "core/nodes/n1".
func (k Key) String() string {
	group := k.Group
	if group == "" {
		group = coreGroup
	}
	if k.Namespace == "" {
		return group + "/" + k.Resource + "/" + k.Name
	}
	return group + "/" + k.Resource + "/" + k.Namespace + "/" + k.Name
}

// Path is the object's key in etcd.
func (k Key) Path() string { return RegistryPrefix + k.String() }

// ParsePath turns an etcd key back into the Key it was made from. Keys outside
// the registry give an error that is ErrNotObject.
func ParsePath(path string) (Key, error) {
	rest, ok := strings.CutPrefix(path, RegistryPrefix)
	if !ok {
		return Key{}, fmt.Errorf("path %q: %w", path, ErrNotObject)
	}
	return ParseKey(rest)
}

// ParseKey reads the form that String writes.
func ParseKey(s string) (Key, error) {
	group, rest, ok := strings.Cut(s, "/")
	if !ok || group == "" {
		return Key{}, fmt.Errorf("key %q: %w", s, ErrNotObject)
	}
	resource, rest, ok := strings.Cut(rest, "/")
	if !ok || resource == "" {
		return Key{}, fmt.Errorf("key %q: %w", s, ErrNotObject)
	}
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		namespace, name = "", rest
	} else if namespace == "" {
		return Key{}, fmt.Errorf("key %q: %w", s, ErrNotObject)
	}
	if name == "" || strings.Contains(name, "/") {
		return Key{}, fmt.Errorf("key %q: %w", s, ErrNotObject)
	}
	if group == coreGroup {
		group = ""
	}
	return Key{Group: group, Resource: resource, Namespace: namespace, Name: name}, nil
}
