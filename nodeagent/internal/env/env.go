// Package env computes the environment of containers. It is pure but for the
// lookups its caller passes in.
package env

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Lookup reads the objects that variables refer to. found is false when the
// object does not exist.
type Lookup interface {
	ConfigMap(name string) (data *corev1.ConfigMap, found bool, err error)
	Secret(name string) (data *corev1.Secret, found bool, err error)
}

// Facts is what the node knows of a pod beyond its object.
type Facts struct {
	HostIP  string
	HostIPs []string
	PodIPs  []string
	// Allocatable stands in for limits that a container does not set.
	Allocatable corev1.ResourceList
}

// Resolve returns the variables of a container as NAME=value, services first,
// then envFrom, then env; later ones replace earlier ones.
func Resolve(pod *corev1.Pod, c *corev1.Container, services []*corev1.Service, facts Facts, look Lookup) ([]string, error) {
	r := &resolver{pod: pod, c: c, facts: facts, look: look, values: map[string]string{}}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	for _, v := range Services(services, pod.Namespace, links) {
		r.set(v.Name, v.Value)
	}
	for i := range c.EnvFrom {
		if err := r.from(&c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		if err := r.one(&c.Env[i]); err != nil {
			return nil, err
		}
	}
	out := make([]string, len(r.order))
	for i, name := range r.order {
		out[i] = name + "=" + r.values[name]
	}
	return out, nil
}

type resolver struct {
	pod    *corev1.Pod
	c      *corev1.Container
	facts  Facts
	look   Lookup
	order  []string
	values map[string]string
}

func (r *resolver) set(name, value string) {
	if _, ok := r.values[name]; !ok {
		r.order = append(r.order, name)
	}
	r.values[name] = value
}

// ErrMissing tells that a referenced object or key does not exist.
var ErrMissing = errors.New("not found")

func (r *resolver) from(e *corev1.EnvFromSource) error {
	switch {
	case e.ConfigMapRef != nil:
		cm, ok, err := r.look.ConfigMap(e.ConfigMapRef.Name)
		if err != nil {
			return err
		}
		if !ok {
			return missing(e.ConfigMapRef.Optional, "configmap %q", e.ConfigMapRef.Name)
		}
		for _, k := range sortedKeys(cm.Data) {
			r.set(e.Prefix+k, cm.Data[k])
		}
	case e.SecretRef != nil:
		s, ok, err := r.look.Secret(e.SecretRef.Name)
		if err != nil {
			return err
		}
		if !ok {
			return missing(e.SecretRef.Optional, "secret %q", e.SecretRef.Name)
		}
		for _, k := range sortedKeys(s.Data) {
			r.set(e.Prefix+k, string(s.Data[k]))
		}
	}
	return nil
}

func missing(optional *bool, format string, args ...any) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf(format+" %w", append(args, ErrMissing)...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func (r *resolver) one(e *corev1.EnvVar) error {
	if e.ValueFrom == nil {
		r.set(e.Name, Expand(e.Value, r.values))
		return nil
	}
	value, ok, err := r.valueFrom(e.ValueFrom)
	if err != nil {
		return fmt.Errorf("variable %s: %w", e.Name, err)
	}
	if ok {
		r.set(e.Name, value)
	}
	return nil
}

func (r *resolver) valueFrom(v *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case v.FieldRef != nil:
		value, err = Field(r.pod, v.FieldRef.FieldPath, r.facts)
		return value, err == nil, err
	case v.ResourceFieldRef != nil:
		c := r.c
		if name := v.ResourceFieldRef.ContainerName; name != "" && name != c.Name {
			if c = FindContainer(r.pod, name); c == nil {
				return "", false, fmt.Errorf("container %q %w", name, ErrMissing)
			}
		}
		value, err = Resource(c, v.ResourceFieldRef, r.facts.Allocatable)
		return value, err == nil, err
	case v.ConfigMapKeyRef != nil:
		return r.configMapKey(v.ConfigMapKeyRef)
	case v.SecretKeyRef != nil:
		return r.secretKey(v.SecretKeyRef)
	default:
		return "", false, errors.New("this kind of value source is not supported by this node")
	}
}

func (r *resolver) configMapKey(ref *corev1.ConfigMapKeySelector) (string, bool, error) {
	cm, ok, err := r.look.ConfigMap(ref.Name)
	if err != nil {
		return "", false, err
	}
	if !ok {
		return "", false, missing(ref.Optional, "configmap %q", ref.Name)
	}
	if value, ok := cm.Data[ref.Key]; ok {
		return value, true, nil
	}
	return "", false, missing(ref.Optional, "key %q in configmap %q", ref.Key, ref.Name)
}

func (r *resolver) secretKey(ref *corev1.SecretKeySelector) (string, bool, error) {
	s, ok, err := r.look.Secret(ref.Name)
	if err != nil {
		return "", false, err
	}
	if !ok {
		return "", false, missing(ref.Optional, "secret %q", ref.Name)
	}
	if value, ok := s.Data[ref.Key]; ok {
		return string(value), true, nil
	}
	return "", false, missing(ref.Optional, "key %q in secret %q", ref.Key, ref.Name)
}

// FindContainer returns a pod's container by name, or nil.
func FindContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}

// Field returns a field of a pod as the downward API names it.
func Field(pod *corev1.Pod, path string, facts Facts) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		default:
			return "", fmt.Errorf("field %q does not exist", path)
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return facts.HostIP, nil
	case "status.hostIPs":
		return strings.Join(facts.HostIPs, ","), nil
	case "status.podIP":
		if len(facts.PodIPs) == 0 {
			return "", nil
		}
		return facts.PodIPs[0], nil
	case "status.podIPs":
		return strings.Join(facts.PodIPs, ","), nil
	default:
		return "", fmt.Errorf("field %q does not exist", path)
	}
}

// subscript splits metadata.labels['key'].
func subscript(path string) (base, key string, ok bool) {
	base, rest, ok := strings.Cut(path, "['")
	if !ok || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return base, strings.TrimSuffix(rest, "']"), true
}

func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		lines = append(lines, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(lines, "\n")
}

// Resource returns a request or limit of a container in units of the divisor,
// rounded up.
func Resource(c *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok {
		return "", fmt.Errorf("resource %q does not exist", ref.Resource)
	}
	q := c.Resources.Requests[corev1.ResourceName(name)]
	switch kind {
	case "requests":
	case "limits":
		var set bool
		if q, set = c.Resources.Limits[corev1.ResourceName(name)]; !set {
			q = allocatable[corev1.ResourceName(name)]
		}
	default:
		return "", fmt.Errorf("resource %q does not exist", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if corev1.ResourceName(name) == corev1.ResourceCPU {
		return ceil(q.MilliValue(), divisor.MilliValue()), nil
	}
	return ceil(q.Value(), divisor.Value()), nil
}

func ceil(a, b int64) string {
	if b <= 0 {
		b = 1
	}
	n := a / b
	if a%b > 0 {
		n++
	}
	return strconv.FormatInt(n, 10)
}

// Expand replaces $(NAME) by values; $$ stands for one dollar, and names
// without a value stay as they are.
func Expand(s string, values map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := s[i+2 : i+end]
			if value, ok := values[name]; ok {
				b.WriteString(value)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// ExpandAll expands each string by an environment of NAME=value.
func ExpandAll(list, environ []string) []string {
	values := Values(environ)
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Expand(s, values)
	}
	return out
}

// Values turns NAME=value into a map.
func Values(environ []string) map[string]string {
	values := make(map[string]string, len(environ))
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		values[name] = value
	}
	return values
}

// Services returns the variables that tell of services: those of the pod's
// namespace when links is set, and of the API server always.
func Services(all []*corev1.Service, namespace string, links bool) []corev1.EnvVar {
	var out []corev1.EnvVar
	chosen := map[string]*corev1.Service{}
	for _, s := range all {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		master := s.Namespace == metaDefault && s.Name == "kubernetes"
		switch {
		case s.Namespace == namespace && links:
			chosen[s.Name] = s
		case master && chosen[s.Name] == nil:
			chosen[s.Name] = s
		}
	}
	for _, name := range sortedKeys(chosen) {
		out = append(out, serviceVars(chosen[name])...)
	}
	return out
}

const metaDefault = "default"

func serviceVars(s *corev1.Service) []corev1.EnvVar {
	name := variable(s.Name)
	add := func(out []corev1.EnvVar, k, v string) []corev1.EnvVar {
		return append(out, corev1.EnvVar{Name: k, Value: v})
	}
	ip, first := s.Spec.ClusterIP, s.Spec.Ports[0]
	out := add(nil, name+"_SERVICE_HOST", ip)
	out = add(out, name+"_SERVICE_PORT", strconv.Itoa(int(first.Port)))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			out = add(out, name+"_SERVICE_PORT_"+variable(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	for i, p := range s.Spec.Ports {
		proto := string(p.Protocol)
		if proto == "" {
			proto = "TCP"
		}
		port := strconv.Itoa(int(p.Port))
		url := strings.ToLower(proto) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out = add(out, name+"_PORT", url)
		}
		prefix := name + "_PORT_" + port + "_" + strings.ToUpper(proto)
		out = add(out, prefix, url)
		out = add(out, prefix+"_PROTO", strings.ToLower(proto))
		out = add(out, prefix+"_PORT", port)
		out = add(out, prefix+"_ADDR", ip)
	}
	return out
}

func variable(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
