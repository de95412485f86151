// Package namespace empties namespaces that are being deleted, pods first, and then
// lets them go.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "namespace"
	workers = 5
	// recheck is how long to wait for what finalizers or node agents still hold, unless
	// an event comes first.
	recheck = 2 * time.Second
)

var podsResource = corev1.SchemeGroupVersion.WithResource("pods")

type reconciler struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister
}

// New returns the controller. It reads Namespaces and, through the API, all that is in
// a namespace that ends; it owns spec.finalizers and the deletion conditions.
func New(client kubernetes.Interface, meta metadata.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	namespaces := source.For(corev1.SchemeGroupVersion.WithResource("namespaces"), &corev1.Namespace{})
	pods := source.For(podsResource, &corev1.Pod{})
	r := &reconciler{client: client, metadata: meta, namespaces: corelisters.NewNamespaceLister(namespaces.GetIndexer())}
	c := engine.NewController(r, workers, log)
	if err := c.Watch(namespaces, engine.Self); err != nil {
		return nil, err
	}
	return c, c.Watch(pods, r.endingNamespaceOf)
}

func (r *reconciler) Name() string { return name }

// endingNamespaceOf wakes a namespace that waits for its pods.
func (r *reconciler) endingNamespaceOf(old, obj any) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok || old != nil {
		return nil
	}
	ns, err := r.namespaces.Get(pod.Namespace)
	if err != nil || ns.DeletionTimestamp == nil {
		return nil
	}
	return []string{ns.Name}
}

func (r *reconciler) Reconcile(ctx context.Context, nsName string) error {
	ns, err := r.namespaces.Get(nsName)
	if apierrors.IsNotFound(err) || (err == nil && (ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) == 0)) {
		return nil
	}
	if err != nil {
		return err
	}
	found := r.empty(ctx, nsName)
	if err := r.tell(ctx, ns, found); err != nil {
		return err
	}
	if err := errors.Join(found.undiscovered, found.failed); err != nil {
		return err
	}
	if len(found.left) > 0 {
		return engine.After{Wait: recheck}
	}
	update := ns.DeepCopy()
	update.Spec.Finalizers = slices.DeleteFunc(update.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	update.ResourceVersion = "" // the conditions were just written
	_, err = r.client.CoreV1().Namespaces().Finalize(ctx, update, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", nsName, err)
	}
	return nil
}

// remaining is what a resource still has, and which finalizers hold it.
type remaining struct {
	resource   schema.GroupVersionResource
	count      int
	finalizers map[string]int
}

// outcome is how far a namespace is emptied.
type outcome struct {
	left         []remaining
	undiscovered error // what there is may not be all known
	failed       error // of what was to be deleted
}

// empty deletes everything in the namespace and reports what is left. Pods go first:
// while one runs, what it uses (Secrets, Services, policies) stays (KEP-5080).
func (r *reconciler) empty(ctx context.Context, ns string) outcome {
	left, err := r.clear(ctx, podsResource, ns, map[string]bool{"deletecollection": true, "list": true})
	if err != nil {
		return outcome{failed: err}
	}
	if left.count > 0 {
		return outcome{left: []remaining{left}}
	}
	resources, undiscovered := r.deletable() // groups that answer are emptied all the same
	var errs []error
	var all []remaining
	for gvr, verbs := range resources {
		if gvr == podsResource {
			continue
		}
		left, err := r.clear(ctx, gvr, ns, verbs)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if left.count > 0 {
			all = append(all, left)
		}
	}
	return outcome{left: all, undiscovered: undiscovered, failed: errors.Join(errs...)}
}

// deletable lists the namespaced resources that can be deleted.
func (r *reconciler) deletable() (map[schema.GroupVersionResource]map[string]bool, error) {
	lists, err := discovery.ServerPreferredNamespacedResources(r.client.Discovery())
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("discover resources: %w", err)
	}
	out := map[schema.GroupVersionResource]map[string]bool{}
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			continue
		}
		for _, res := range list.APIResources {
			verbs := map[string]bool{}
			for _, v := range res.Verbs {
				verbs[v] = true
			}
			if verbs["delete"] && verbs["list"] {
				out[gv.WithResource(res.Name)] = verbs
			}
		}
	}
	return out, err
}

// clear deletes all objects of a resource in the namespace and counts what stays.
func (r *reconciler) clear(ctx context.Context, gvr schema.GroupVersionResource, ns string, verbs map[string]bool) (remaining, error) {
	left := remaining{resource: gvr, finalizers: map[string]int{}}
	objects := r.metadata.Resource(gvr).Namespace(ns)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return left, nil
	}
	if err != nil {
		return left, fmt.Errorf("list %s: %w", gvr.Resource, err)
	}
	if len(list.Items) == 0 {
		return left, nil
	}
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if verbs["deletecollection"] {
		err = objects.DeleteCollection(ctx, opts, metav1.ListOptions{})
	} else {
		for _, item := range list.Items {
			if e := objects.Delete(ctx, item.Name, opts); e != nil && !apierrors.IsNotFound(e) {
				err = e
			}
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return left, fmt.Errorf("delete %s: %w", gvr.Resource, err)
	}
	if list, err = objects.List(ctx, metav1.ListOptions{}); err != nil {
		return left, fmt.Errorf("list %s: %w", gvr.Resource, err)
	}
	left.count = len(list.Items)
	for _, item := range list.Items {
		for _, f := range item.Finalizers {
			left.finalizers[f]++
		}
	}
	return left, nil
}

// tell writes the deletion conditions, upstream's types and reasons.
func (r *reconciler) tell(ctx context.Context, ns *corev1.Namespace, found outcome) error {
	update := ns.DeepCopy()
	var counts, holds []string
	finalizers := map[string]int{}
	for _, l := range found.left {
		counts = append(counts, fmt.Sprintf("%s has %d resource instances", l.resource.GroupResource(), l.count))
		for f, n := range l.finalizers {
			finalizers[f] += n
		}
	}
	for f, n := range finalizers {
		holds = append(holds, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(counts)
	slices.Sort(holds)
	set := func(t corev1.NamespaceConditionType, bad, good, badReason, goodReason string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: good, LastTransitionTime: metav1.Now()}
		if bad != "" {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, bad
		}
		i := slices.IndexFunc(update.Status.Conditions, func(have corev1.NamespaceCondition) bool { return have.Type == t })
		switch {
		case i < 0: // good news too: it says that somebody has looked
			update.Status.Conditions = append(update.Status.Conditions, c)
		case i >= 0 && (update.Status.Conditions[i].Status != c.Status || update.Status.Conditions[i].Message != c.Message):
			update.Status.Conditions[i] = c
		}
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, unknown(found.undiscovered), "All resources successfully discovered", "DiscoveryFailed", "ResourcesDiscovered")
	set(corev1.NamespaceDeletionContentFailure, text(found.failed), "All content successfully deleted, may be waiting on finalization", "ContentDeletionFailed", "ContentDeleted")
	set(corev1.NamespaceContentRemaining, prefixed("Some resources are remaining: ", counts), "All content successfully removed", "SomeResourcesRemain", "ContentRemoved")
	set(corev1.NamespaceFinalizersRemaining, prefixed("Some content in the namespace has finalizers remaining: ", holds), "All content-preserving finalizers finished", "SomeFinalizersRemain", "ContentHasNoFinalizers")
	if equality.Semantic.DeepEqual(ns.Status, update.Status) {
		return nil
	}
	_, err := r.client.CoreV1().Namespaces().UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write conditions of namespace %s: %w", ns.Name, err)
	}
	return nil
}

// unknown says what could not be discovered: an API server behind this one may be down.
func unknown(err error) string {
	var groups *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &groups) {
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups.Groups), groups)
	}
	return text(err)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func prefixed(prefix string, parts []string) string {
	if len(parts) == 0 {
		return ""
	}
	return prefix + strings.Join(parts, ", ")
}
