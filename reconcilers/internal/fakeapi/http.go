package fakeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/rutter-project/rutter/schemas"
)

// transport carries requests to a server by a function call.
type transport struct{ s *Server }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	body, err := t.s.serve(r)
	code := http.StatusOK
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		answer := status.Status()
		answer.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		code, body = int(answer.Code), answer
	} else if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(encoded)), ContentLength: int64(len(encoded))}, nil
}

// request is a parsed path.
type request struct {
	kind                         kind
	namespace, name, subresource string
}

// parse splits a path of the API. ok is false for paths of discovery.
func parse(path string) (q request, ok bool, err error) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	gv := schema.GroupVersion{}
	switch {
	case parts[0] == "api" && len(parts) > 2:
		gv.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		gv.Group, gv.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return q, false, nil
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		q.namespace, parts = parts[1], parts[2:]
	}
	gvr := gv.WithResource(parts[0])
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.gvr == gvr })
	if i < 0 {
		return q, true, apierrors.NewNotFound(gvr.GroupResource(), path)
	}
	q.kind = kinds[i]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		q.subresource = parts[2]
	}
	return q, true, nil
}

func (s *Server) serve(r *http.Request) (any, error) {
	q, ok, err := parse(r.URL.Path)
	if !ok {
		return discovery(r.URL.Path)
	}
	if err != nil {
		return nil, err
	}
	var body []byte
	if r.Body != nil {
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodGet {
		return s.read(r, q)
	}
	got, err := s.write(r, q, body)
	if u, ok := got.(*unstructured.Unstructured); ok && err == nil {
		return shape(r, q.kind, u), nil
	}
	return got, err
}

func (s *Server) read(r *http.Request, q request) (any, error) {
	if q.name != "" {
		u, ok := s.objects[q.kind.gvr][types.NamespacedName{Namespace: q.namespace, Name: q.name}]
		if !ok {
			return nil, apierrors.NewNotFound(q.kind.gvr.GroupResource(), q.name)
		}
		return shape(r, q.kind, u), nil
	}
	items := []any{}
	for name, u := range s.objects[q.kind.gvr] {
		if q.namespace == "" || name.Namespace == q.namespace {
			items = append(items, shape(r, q.kind, u))
		}
	}
	apiVersion, list := q.kind.gvr.GroupVersion().String(), q.kind.kind+"List"
	if partial(r) {
		apiVersion, list = "meta.k8s.io/v1", "PartialObjectMetadataList"
	}
	return map[string]any{"apiVersion": apiVersion, "kind": list, "metadata": map[string]any{}, "items": items}, nil
}

func partial(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")
}

// shape is the object as the request wants it.
func shape(r *http.Request, k kind, u *unstructured.Unstructured) any {
	if partial(r) {
		return map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": u.Object["metadata"]}
	}
	u = u.DeepCopy()
	u.SetGroupVersionKind(k.gvr.GroupVersion().WithKind(k.kind))
	return u.Object
}

func (s *Server) write(r *http.Request, q request, body []byte) (any, error) {
	verb := map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	w := Write{Verb: verb, Resource: q.kind.gvr.Resource, Subresource: q.subresource, Namespace: q.namespace, Name: q.name, Cause: r.Header.Get(schemas.CauseHTTPHeader)}
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if verb == "create" || verb == "update" {
		if err := json.Unmarshal(body, &u.Object); err != nil {
			return nil, err
		}
		u.SetNamespace(q.namespace)
	}
	s.writes = append(s.writes, w)
	if s.Refuse != nil {
		if err := s.Refuse(w, u); err != nil {
			return nil, err
		}
	}
	if verb == "create" {
		return s.create(q.kind, u)
	}
	if verb == "update" {
		return s.update(q.kind, u, q.subresource)
	}
	if verb == "delete" {
		return s.delete(q, body)
	}
	was, ok := s.objects[q.kind.gvr][types.NamespacedName{Namespace: q.namespace, Name: q.name}]
	if !ok {
		return nil, apierrors.NewNotFound(q.kind.gvr.GroupResource(), q.name)
	}
	patched, err := patch(q.kind, was, types.PatchType(r.Header.Get("Content-Type")), body)
	if err != nil {
		return nil, err
	}
	return s.update(q.kind, patched, q.subresource)
}

func patch(k kind, was *unstructured.Unstructured, how types.PatchType, change []byte) (*unstructured.Unstructured, error) {
	if how == types.MergePatchType {
		fields := map[string]any{}
		if err := json.Unmarshal(change, &fields); err != nil {
			return nil, err
		}
		u := was.DeepCopy()
		merge(u.Object, fields)
		return u, nil
	}
	before, err := json.Marshal(was.Object)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, change, k.typed())
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	return u, json.Unmarshal(after, &u.Object)
}

// merge is a JSON merge patch (RFC 7386).
func merge(into, change map[string]any) {
	for field, value := range change {
		have, ok := into[field].(map[string]any)
		wanted, nested := value.(map[string]any)
		switch {
		case value == nil:
			delete(into, field)
		case ok && nested:
			merge(have, wanted)
		default:
			into[field] = value
		}
	}
}

func (s *Server) delete(q request, body []byte) (any, error) {
	var opts metav1.DeleteOptions
	if len(body) > 0 {
		if err := json.Unmarshal(body, &opts); err != nil {
			return nil, err
		}
	}
	success := metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}
	found := false
	for name, u := range s.objects[q.kind.gvr] {
		if name.Namespace != q.namespace || (q.name != "" && name.Name != q.name) {
			continue
		}
		found = true
		if err := s.remove(q.kind, u, opts); err != nil {
			return nil, err
		}
	}
	if !found && q.name != "" {
		return nil, apierrors.NewNotFound(q.kind.gvr.GroupResource(), q.name)
	}
	return success, nil
}

// discovery answers the paths that tell what is served.
func discovery(path string) (any, error) {
	groups := map[string]bool{}
	for _, k := range kinds {
		groups[k.gvr.Group] = true
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch path {
	case "/api":
		return metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}, nil
	case "/apis":
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIGroupList"}}
		for group := range groups {
			if group != "" {
				v := metav1.GroupVersionForDiscovery{GroupVersion: group + "/v1", Version: "v1"}
				list.Groups = append(list.Groups, metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
			}
		}
		return list, nil
	}
	gv, err := schema.ParseGroupVersion(strings.Join(parts[1:], "/"))
	if err != nil {
		return nil, err
	}
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: gv.String()}
	for _, k := range kinds {
		if k.gvr.GroupVersion() == gv {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: k.gvr.Resource, Kind: k.kind, Namespaced: k.namespaced,
				Verbs: metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}})
		}
	}
	return list, nil
}
