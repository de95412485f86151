// Package endpointslice keeps the EndpointSlices of Services with selectors. What goes
// into a slice is decided by the published k8s.io/endpointslice library.
package endpointslice

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/schemas"
)

const (
	name = "endpointslice"
	// managedBy marks our slices; other clients know upstream's name for them.
	managedBy = "endpointslice-controller.k8s.io"
	// maxEndpoints is upstream's default size of a slice.
	maxEndpoints = 100
	// byService indexes slices by "namespace/service".
	byService = "service"
)

type reconciler struct {
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	slices   cache.Indexer
	library  *endpointslice.Reconciler
	tracker  *endpointsliceutil.EndpointSliceTracker
	trigger  *endpointsliceutil.TriggerTimeTracker
	causes   *causes
}

// New returns the controller. It reads Services, Pods, Nodes and EndpointSlices; it
// owns the EndpointSlices that it labels.
//
// The library writes with a context of its own, so the causes of the reconciliation
// reach its requests through the transport; that is why there is one worker.
func New(config *rest.Config, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	held := &causes{}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return held.transport(next) })
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	services := source.For(corev1.SchemeGroupVersion.WithResource("services"), &corev1.Service{})
	pods := source.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{})
	nodes := source.For(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{})
	written := source.For(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), &discoveryv1.EndpointSlice{})
	if err := written.AddIndexers(cache.Indexers{byService: serviceOf}); err != nil {
		return nil, err
	}
	tracker := endpointsliceutil.NewEndpointSliceTracker()
	r := &reconciler{
		services: corelisters.NewServiceLister(services.GetIndexer()),
		pods:     corelisters.NewPodLister(pods.GetIndexer()),
		slices:   written.GetIndexer(), tracker: tracker, causes: held,
		trigger: endpointsliceutil.NewTriggerTimeTracker(),
		library: endpointslice.NewReconciler(client, corelisters.NewNodeLister(nodes.GetIndexer()), maxEndpoints, tracker,
			topologycache.NewTopologyCache(), &record.FakeRecorder{}, managedBy, endpointslice.WithPreferSameTrafficDistributionEnabled(true)),
	}
	c := engine.NewController(r, 1, log)
	if err := c.Watch(services, engine.Self); err != nil {
		return nil, err
	}
	if err := c.Watch(pods, r.servicesOfPod); err != nil {
		return nil, err
	}
	if err := c.Follow(nodes, cache.ResourceEventHandlerFuncs{}); err != nil { // read by the library, must be filled
		return nil, err
	}
	return c, c.Follow(written, sliceEvents{c, tracker})
}

func (r *reconciler) Name() string { return name }

func serviceOf(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelManagedBy] != managedBy {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

// sliceEvents wakes the Services of slices that changed. It tells the tracker which slices
// others took away, because it would wait for their return forever.
type sliceEvents struct {
	c       *engine.Controller
	tracker *endpointsliceutil.EndpointSliceTracker
}

func (e sliceEvents) OnAdd(obj any, _ bool) { e.wake(obj) }

func (e sliceEvents) OnUpdate(old, obj any) {
	was, _ := serviceOf(old)
	is, _ := serviceOf(obj)
	if ending := obj.(*discoveryv1.EndpointSlice).DeletionTimestamp != nil; ending || !slices.Equal(was, is) {
		e.OnDelete(old)
	}
	e.wake(obj)
}

func (e sliceEvents) OnDelete(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		e.tracker.HandleDeletion(slice)
		e.wake(slice)
	}
}

func (e sliceEvents) wake(obj any) {
	keys, _ := serviceOf(obj)
	for _, key := range keys {
		e.c.Enqueue(key, engine.Revision(obj))
	}
}

// servicesOfPod names the Services whose endpoints the pod's change can concern.
func (r *reconciler) servicesOfPod(old, obj any) []string {
	var keys []string
	projection := endpointsliceutil.GetPodUpdateProjectionKey(old, obj)
	if projection == nil {
		return nil
	}
	found, err := endpointsliceutil.GetServicesToUpdate(r.services, projection)
	if err != nil {
		return nil
	}
	for key := range found {
		keys = append(keys, key)
	}
	return keys
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	namespace, service, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	svc, err := r.services.Services(namespace).Get(service)
	if apierrors.IsNotFound(err) {
		r.trigger.DeleteService(namespace, service)
		r.library.DeleteService(namespace, service)
		r.tracker.DeleteService(namespace, service)
		return nil // the slices go with their owner
	}
	if err != nil {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil
	}
	pods, err := r.pods.Pods(namespace).List(labels.SelectorFromValidatedSet(svc.Spec.Selector))
	if err != nil {
		return err
	}
	var current []*discoveryv1.EndpointSlice
	for _, s := range engine.Owned[*discoveryv1.EndpointSlice](r.slices, byService, key) {
		if s.DeletionTimestamp == nil {
			current = append(current, s)
		}
	}
	if r.tracker.StaleSlices(svc, current) {
		return engine.After{Wait: staleWait} // our last write has not come back yet
	}
	triggered := r.trigger.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods)
	r.causes.set(schemas.CauseOf(ctx))
	return r.library.Reconcile(klog.FromContext(ctx), svc, pods, current, triggered)
}

// staleWait is a fallback: the event of the write normally comes first.
const staleWait = 100 * time.Millisecond

// causes holds the causes of the reconciliation that runs.
type causes struct {
	mu   sync.Mutex
	revs []int64 // guarded by mu
}

func (c *causes) set(revs []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revs = revs
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (c *causes) transport(next http.RoundTripper) http.RoundTripper {
	causal := schemas.CauseTransport(next)
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c.mu.Lock()
		revs := c.revs
		c.mu.Unlock()
		return causal.RoundTrip(r.WithContext(schemas.WithCause(r.Context(), revs...)))
	})
}
