package fakeapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/schemas"
)

// kind is one resource that is served.
type kind struct {
	gvr        schema.GroupVersionResource
	kind       string
	namespaced bool
	typed      func() runtime.Object
}

var kinds = []kind{
	{corev1.SchemeGroupVersion.WithResource("namespaces"), "Namespace", false, func() runtime.Object { return &corev1.Namespace{} }},
	{corev1.SchemeGroupVersion.WithResource("nodes"), "Node", false, func() runtime.Object { return &corev1.Node{} }},
	{corev1.SchemeGroupVersion.WithResource("pods"), "Pod", true, func() runtime.Object { return &corev1.Pod{} }},
	{corev1.SchemeGroupVersion.WithResource("services"), "Service", true, func() runtime.Object { return &corev1.Service{} }},
	//nolint:staticcheck // Endpoints is deprecated, and one of the kinds that controllers write
	{corev1.SchemeGroupVersion.WithResource("endpoints"), "Endpoints", true, func() runtime.Object { return &corev1.Endpoints{} }},
	{corev1.SchemeGroupVersion.WithResource("configmaps"), "ConfigMap", true, func() runtime.Object { return &corev1.ConfigMap{} }},
	{corev1.SchemeGroupVersion.WithResource("secrets"), "Secret", true, func() runtime.Object { return &corev1.Secret{} }},
	{corev1.SchemeGroupVersion.WithResource("serviceaccounts"), "ServiceAccount", true, func() runtime.Object { return &corev1.ServiceAccount{} }},
	{corev1.SchemeGroupVersion.WithResource("replicationcontrollers"), "ReplicationController", true, func() runtime.Object { return &corev1.ReplicationController{} }},
	{corev1.SchemeGroupVersion.WithResource("resourcequotas"), "ResourceQuota", true, func() runtime.Object { return &corev1.ResourceQuota{} }},
	{corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), "PersistentVolumeClaim", true, func() runtime.Object { return &corev1.PersistentVolumeClaim{} }},
	{corev1.SchemeGroupVersion.WithResource("persistentvolumes"), "PersistentVolume", false, func() runtime.Object { return &corev1.PersistentVolume{} }},
	{storagev1.SchemeGroupVersion.WithResource("volumeattributesclasses"), "VolumeAttributesClass", false, func() runtime.Object { return &storagev1.VolumeAttributesClass{} }},
	{appsv1.SchemeGroupVersion.WithResource("deployments"), "Deployment", true, func() runtime.Object { return &appsv1.Deployment{} }},
	{appsv1.SchemeGroupVersion.WithResource("replicasets"), "ReplicaSet", true, func() runtime.Object { return &appsv1.ReplicaSet{} }},
	{discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), "EndpointSlice", true, func() runtime.Object { return &discoveryv1.EndpointSlice{} }},
	{rbacv1.SchemeGroupVersion.WithResource("clusterroles"), "ClusterRole", false, func() runtime.Object { return &rbacv1.ClusterRole{} }},
	{certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), "CertificateSigningRequest", false, func() runtime.Object { return &certificatesv1.CertificateSigningRequest{} }},
	{certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"), "PodCertificateRequest", true, func() runtime.Object { return &certificatesv1.PodCertificateRequest{} }},
	{certificatesv1.SchemeGroupVersion.WithResource("clustertrustbundles"), "ClusterTrustBundle", false, func() runtime.Object { return &certificatesv1.ClusterTrustBundle{} }},
	{coordinationv1.SchemeGroupVersion.WithResource("leases"), "Lease", true, func() runtime.Object { return &coordinationv1.Lease{} }},
}

// Write is one request that changed something, or was refused.
type Write struct {
	Verb, Resource, Subresource, Namespace, Name string
	// Cause is the request's cause header.
	Cause string
}

func (w Write) String() string {
	resource := w.Resource
	if w.Subresource != "" {
		resource += "/" + w.Subresource
	}
	return strings.Trim(fmt.Sprintf("%s %s %s/%s", w.Verb, resource, w.Namespace, w.Name), " ")
}

// Server is the API. Make it with New.
type Server struct {
	// Refuse, if set before use, may fail a write with a Status; it must not call the server.
	Refuse func(w Write, obj *unstructured.Unstructured) *apierrors.StatusError

	mu        sync.Mutex
	rev       int64                                                                               // guarded by mu
	made      int64                                                                               // count of names made; guarded by mu
	objects   map[schema.GroupVersionResource]map[types.NamespacedName]*unstructured.Unstructured // replaced, never changed; guarded by mu
	watchers  map[schema.GroupVersionResource]map[chan watch.Event]bool                           // guarded by mu
	log       map[schema.GroupVersionResource][]watch.Event                                       // all that happened; guarded by mu
	held      map[schema.GroupVersionResource][]watch.Event                                       // of resources that are held back; guarded by mu
	writes    []Write                                                                             // guarded by mu
	informers map[schema.GroupVersionResource]cache.SharedIndexInformer                           // guarded by mu
	start     func(cache.SharedIndexInformer)                                                     // while Run runs; guarded by mu
}

// New returns a server with nothing in it.
func New() *Server {
	s := &Server{objects: map[schema.GroupVersionResource]map[types.NamespacedName]*unstructured.Unstructured{},
		watchers:  map[schema.GroupVersionResource]map[chan watch.Event]bool{},
		log:       map[schema.GroupVersionResource][]watch.Event{},
		held:      map[schema.GroupVersionResource][]watch.Event{},
		informers: map[schema.GroupVersionResource]cache.SharedIndexInformer{}}
	for _, k := range kinds {
		s.objects[k.gvr] = map[types.NamespacedName]*unstructured.Unstructured{}
		s.watchers[k.gvr] = map[chan watch.Event]bool{}
	}
	return s
}

// Config reaches the server.
func (s *Server) Config() *rest.Config {
	return &rest.Config{Host: "http://fake", Transport: transport{s}, WrapTransport: schemas.CauseTransport, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"}}
}

// Client is a client of the server.
func (s *Server) Client() *kubernetes.Clientset { return kubernetes.NewForConfigOrDie(s.Config()) }

// Metadata is a metadata client of the server.
func (s *Server) Metadata() metadata.Interface { return metadata.NewForConfigOrDie(s.Config()) }

// Writes returns what was written since the last call.
func (s *Server) Writes() []Write {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.writes
	s.writes = nil
	return out
}

// For returns the shared informer of a resource, as the bus does.
func (s *Server) For(gvr schema.GroupVersionResource, _ runtime.Object) cache.SharedIndexInformer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if informer, ok := s.informers[gvr]; ok {
		return informer
	}
	k := find(gvr)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) { return s.list(k), nil },
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return s.watch(ctx, k, opts.ResourceVersion)
		},
	}
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, noWatchList{}), k.typed(), 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	s.informers[gvr] = informer
	if s.start != nil {
		s.start(informer)
	}
	return informer
}

// noWatchList makes reflectors list first.
type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// Run runs all informers, those asked for later too, until the context ends.
func (s *Server) Run(ctx context.Context) {
	var wg sync.WaitGroup
	s.mu.Lock()
	s.start = func(informer cache.SharedIndexInformer) { wg.Go(func() { informer.RunWithContext(ctx) }) }
	for _, informer := range s.informers {
		s.start(informer)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.start = nil
	s.mu.Unlock()
	wg.Wait()
}

func find(gvr schema.GroupVersionResource) kind {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.gvr == gvr })
	if i < 0 {
		panic(fmt.Sprintf("fakeapi does not serve %s", gvr))
	}
	return kinds[i]
}

func (k kind) decode(u *unstructured.Unstructured) runtime.Object {
	obj := k.typed()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
		panic(fmt.Sprintf("fakeapi: decode %s %s: %v", k.kind, u.GetName(), err))
	}
	return obj
}

func (s *Server) list(k kind) runtime.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := &metav1.List{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(s.rev, 10)}}
	for _, u := range s.objects[k.gvr] {
		list.Items = append(list.Items, runtime.RawExtension{Object: k.decode(u)})
	}
	return list
}

// backlog is how many events a watcher may be behind; no test makes more.
const backlog = 1 << 16

func (s *Server) watch(ctx context.Context, k kind, after string) (watch.Interface, error) {
	from, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("watch %s from %q: %w", k.gvr.Resource, after, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make(chan watch.Event, backlog)
	for _, e := range s.log[k.gvr] {
		if m, err := meta.Accessor(e.Object); err == nil {
			if rev, err := strconv.ParseInt(m.GetResourceVersion(), 10, 64); err == nil && rev > from {
				events <- e
			}
		}
	}
	s.watchers[k.gvr][events] = true
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers[k.gvr], events)
	})
	return watch.NewProxyWatcher(events), nil
}

// Hold keeps back the events of a resource from its informer until release is called.
func (s *Server) Hold(gvr schema.GroupVersionResource) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[gvr] = []watch.Event{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		events := s.held[gvr]
		delete(s.held, gvr)
		for _, e := range events {
			s.tellLocked(gvr, e)
		}
	}
}

func (s *Server) tellLocked(gvr schema.GroupVersionResource, e watch.Event) {
	if held, ok := s.held[gvr]; ok {
		s.held[gvr] = append(held, e)
		return
	}
	for w := range s.watchers[gvr] {
		w <- e
	}
}

// commitLocked stores u (or deletes it, if gone) at a new revision.
func (s *Server) commitLocked(k kind, u *unstructured.Unstructured, gone bool) *unstructured.Unstructured {
	s.rev++
	u = u.DeepCopy()
	u.SetResourceVersion(strconv.FormatInt(s.rev, 10))
	name := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
	_, had := s.objects[k.gvr][name]
	event := watch.Event{Type: watch.Added, Object: k.decode(u)}
	switch {
	case gone:
		event.Type = watch.Deleted
		delete(s.objects[k.gvr], name)
	case had:
		event.Type = watch.Modified
		s.objects[k.gvr][name] = u
	default:
		s.objects[k.gvr][name] = u
	}
	s.log[k.gvr] = append(s.log[k.gvr], event)
	s.tellLocked(k.gvr, event)
	return u
}

func (s *Server) create(k kind, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if u.GetName() == "" {
		s.made++
		u.SetName(fmt.Sprintf("%s%d", u.GetGenerateName(), s.made))
	}
	name := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
	if _, ok := s.objects[k.gvr][name]; ok {
		return nil, apierrors.NewAlreadyExists(k.gvr.GroupResource(), u.GetName())
	}
	if u.GetUID() == "" {
		s.made++
		u.SetUID(types.UID(fmt.Sprintf("uid-%d", s.made)))
	}
	if ts := u.GetCreationTimestamp(); ts.IsZero() {
		u.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
	if u.GetGeneration() == 0 {
		u.SetGeneration(1)
	}
	return s.commitLocked(k, u, false), nil
}

// update replaces an object, or its status only.
func (s *Server) update(k kind, u *unstructured.Unstructured, subresource string) (*unstructured.Unstructured, error) {
	was, ok := s.objects[k.gvr][types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}]
	if !ok {
		return nil, apierrors.NewNotFound(k.gvr.GroupResource(), u.GetName())
	}
	if (u.GetResourceVersion() != "" && u.GetResourceVersion() != was.GetResourceVersion()) || (u.GetUID() != "" && u.GetUID() != was.GetUID()) {
		return nil, apierrors.NewConflict(k.gvr.GroupResource(), u.GetName(), fmt.Errorf("it is at %s, not %s", was.GetResourceVersion(), u.GetResourceVersion()))
	}
	is := u.DeepCopy()
	switch {
	case subresource == "status", subresource == "approval":
		is = was.DeepCopy()
		is.Object["status"] = u.Object["status"]
	case was.Object["status"] != nil:
		is.Object["status"] = was.Object["status"]
	default:
		delete(is.Object, "status")
	}
	is.SetUID(was.GetUID())
	is.SetCreationTimestamp(was.GetCreationTimestamp())
	is.SetDeletionTimestamp(was.GetDeletionTimestamp())
	is.SetGeneration(was.GetGeneration())
	if !equality.Semantic.DeepEqual(was.Object["spec"], is.Object["spec"]) {
		is.SetGeneration(was.GetGeneration() + 1)
	}
	is.SetResourceVersion(was.GetResourceVersion())
	if equality.Semantic.DeepEqual(was.Object, is.Object) {
		return was, nil
	}
	gone := is.GetDeletionTimestamp() != nil && len(finalizersOf(is)) == 0 && k.kind != "Pod"
	return s.commitLocked(k, is, gone), nil
}

// finalizersOf are those of metadata and, of namespaces, of the spec.
func finalizersOf(u *unstructured.Unstructured) []string {
	spec, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "finalizers")
	return append(slices.Clone(u.GetFinalizers()), spec...)
}

func (s *Server) remove(k kind, u *unstructured.Unstructured, opts metav1.DeleteOptions) error {
	if p := opts.Preconditions; p != nil {
		if (p.UID != nil && *p.UID != u.GetUID()) || (p.ResourceVersion != nil && *p.ResourceVersion != u.GetResourceVersion()) {
			return apierrors.NewConflict(k.gvr.GroupResource(), u.GetName(), fmt.Errorf("the precondition failed"))
		}
	}
	is := u.DeepCopy()
	if opts.PropagationPolicy != nil && u.GetDeletionTimestamp() == nil {
		switch *opts.PropagationPolicy {
		case metav1.DeletePropagationForeground:
			is.SetFinalizers(append(is.GetFinalizers(), metav1.FinalizerDeleteDependents))
		case metav1.DeletePropagationOrphan:
			is.SetFinalizers(append(is.GetFinalizers(), metav1.FinalizerOrphanDependents))
		}
	}
	node, _, _ := unstructured.NestedString(u.Object, "spec", "nodeName")
	graceful := k.kind == "Pod" && node != "" && (opts.GracePeriodSeconds == nil || *opts.GracePeriodSeconds > 0)
	if len(finalizersOf(is)) == 0 && !graceful {
		s.commitLocked(k, is, true)
		return nil
	}
	if u.GetDeletionTimestamp() != nil {
		return nil
	}
	now := metav1.NewTime(time.Now())
	is.SetDeletionTimestamp(&now)
	if k.kind == "Namespace" {
		_ = unstructured.SetNestedField(is.Object, "Terminating", "status", "phase")
	}
	s.commitLocked(k, is, false)
	return nil
}

// Put stores a whole object, status included, as no client can: what a test begins
// with, or what a node agent reports. It returns the stored form.
func Put[T runtime.Object](s *Server, obj T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		panic(err)
	}
	u := &unstructured.Unstructured{Object: content}
	k := kindOf(obj)
	u.SetGroupVersionKind(k.gvr.GroupVersion().WithKind(k.kind))
	if _, ok := s.objects[k.gvr][types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}]; ok {
		u = s.commitLocked(k, u, false)
	} else if u, err = s.create(k, u); err != nil {
		panic(err)
	}
	return k.decode(u).(T)
}

// Drop removes an object at once, as a node agent does with a pod that has ended.
func Drop(s *Server, obj runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := kindOf(obj)
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	if u, ok := s.objects[k.gvr][types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}]; ok {
		s.commitLocked(k, u, true)
	}
}

func kindOf(obj runtime.Object) kind {
	for _, k := range kinds {
		if fmt.Sprintf("%T", k.typed()) == fmt.Sprintf("%T", obj) {
			return k
		}
	}
	panic(fmt.Sprintf("fakeapi does not serve %T", obj))
}

// All returns all objects of a type, by namespace and name.
func All[T runtime.Object](s *Server) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var zero T
	k := kindOf(zero)
	names := slices.SortedFunc(maps.Keys(s.objects[k.gvr]), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	var out []T
	for _, name := range names {
		out = append(out, k.decode(s.objects[k.gvr][name]).(T))
	}
	return out
}

// Get returns the object of a name, or the zero value.
func Get[T runtime.Object](s *Server, namespace, name string) T {
	for _, obj := range All[T](s) {
		if m, err := meta.Accessor(obj); err == nil && m.GetNamespace() == namespace && m.GetName() == name {
			return obj
		}
	}
	var zero T
	return zero
}
