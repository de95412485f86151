// Package podgc removes pods that nothing else will: those of nodes that are gone,
// those deleted before they were ever placed, and finished ones beyond a limit.
package podgc

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/reconcilers/internal/pods"
)

const (
	name    = "pod-gc"
	workers = 2
	// finished indexes all finished pods under one value.
	finished = "podgc-finished"
	// tooMany is the key that stands for the check of the limit.
	tooMany = "*"
	// DefaultThreshold is upstream's number of finished pods that are kept.
	DefaultThreshold = 12500
)

type reconciler struct {
	client    kubernetes.Interface
	threshold int
	pods      cache.Indexer
	lister    corelisters.PodLister
	nodes     corelisters.NodeLister
}

// New returns the controller. It reads Pods and Nodes and deletes Pods.
func New(client kubernetes.Interface, threshold int, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	podInformer := source.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{})
	nodes := source.For(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{})
	if err := pods.IndexByNode(podInformer); err != nil {
		return nil, err
	}
	if err := podInformer.AddIndexers(cache.Indexers{finished: finishedOf}); err != nil {
		return nil, err
	}
	r := &reconciler{client: client, threshold: threshold, pods: podInformer.GetIndexer(),
		lister: corelisters.NewPodLister(podInformer.GetIndexer()), nodes: corelisters.NewNodeLister(nodes.GetIndexer())}
	c := engine.NewController(r, workers, log)
	if err := c.Watch(podInformer, r.keysOf); err != nil {
		return nil, err
	}
	return c, c.Watch(nodes, r.podsOfGoneNode)
}

func (r *reconciler) Name() string { return name }

func finishedOf(obj any) ([]string, error) {
	if p, ok := obj.(*corev1.Pod); ok && pods.Finished(p) {
		return []string{tooMany}, nil
	}
	return nil, nil
}

// keysOf names what a pod's change can make necessary.
func (r *reconciler) keysOf(_, obj any) []string {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	var keys []string
	if p.Spec.NodeName == "" && p.DeletionTimestamp != nil {
		keys = append(keys, p.Namespace+"/"+p.Name)
	}
	if p.Spec.NodeName != "" {
		if _, err := r.nodes.Get(p.Spec.NodeName); apierrors.IsNotFound(err) {
			keys = append(keys, p.Namespace+"/"+p.Name)
		}
	}
	if pods.Finished(p) {
		keys = append(keys, tooMany)
	}
	return keys
}

func (r *reconciler) podsOfGoneNode(_, obj any) []string {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	if _, err := r.nodes.Get(n.Name); err == nil {
		return nil
	}
	var keys []string
	for _, p := range pods.OnNode(r.pods, n.Name) {
		keys = append(keys, p.Namespace+"/"+p.Name)
	}
	return keys
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	if key == tooMany {
		return r.trim(ctx)
	}
	namespace, podName, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	p, err := r.lister.Pods(namespace).Get(podName)
	if err != nil {
		return nil //nolint:nilerr // gone already
	}
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp == nil {
			return nil
		}
		return r.remove(ctx, p)
	}
	// The informers of pods and nodes are two: a node may be newer than what is known.
	_, err = r.client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	return r.remove(ctx, p)
}

// trim deletes the oldest finished pods beyond the limit.
func (r *reconciler) trim(ctx context.Context) error {
	all := engine.Owned[*corev1.Pod](r.pods, finished, tooMany)
	extra := len(all) - r.threshold
	if r.threshold <= 0 || extra <= 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range all[:extra] {
		if err := r.remove(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes at once: no node agent will confirm.
func (r *reconciler) remove(ctx context.Context, p *corev1.Pod) error {
	now, uid := int64(0), p.UID
	err := r.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}
