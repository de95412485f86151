// Package protection lets claims, volumes and volume attributes classes go when nobody
// uses them any more. Admission gives each a finalizer when it is created, so that a
// deletion waits for its users.
package protection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "storage-protection"
	workers = 2
)

// Finalizers that upstream's admission (StorageObjectInUseProtection) sets.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// kind of object in a key, which is "kind/namespace/name" or "kind/name".
const (
	claimKind  = "claim"
	volumeKind = "volume"
	classKind  = "class"
)

type reconciler struct {
	client                   kubernetes.Interface
	claims, volumes, classes cache.Indexer
}

// New returns the controller. It reads Pods, PersistentVolumeClaims, PersistentVolumes and
// VolumeAttributesClasses; it takes the protecting finalizers off the last three.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	core := corev1.SchemeGroupVersion
	pods := source.For(core.WithResource("pods"), &corev1.Pod{})
	claims := source.For(core.WithResource("persistentvolumeclaims"), &corev1.PersistentVolumeClaim{})
	volumes := source.For(core.WithResource("persistentvolumes"), &corev1.PersistentVolume{})
	classes := source.For(storagev1.SchemeGroupVersion.WithResource("volumeattributesclasses"), &storagev1.VolumeAttributesClass{})
	r := &reconciler{client: client, claims: claims.GetIndexer(), volumes: volumes.GetIndexer(), classes: classes.GetIndexer()}
	c := engine.NewController(r, workers, log)
	return c, errors.Join(
		c.Watch(pods, both(claimsOf)),
		c.Watch(claims, both(func(obj any) []string { return append(self(claimKind)(obj), classesOf(obj)...) })),
		c.Watch(volumes, both(func(obj any) []string { return append(self(volumeKind)(obj), classesOf(obj)...) })),
		c.Watch(classes, both(self(classKind))),
	)
}

func (r *reconciler) Name() string { return name }

// both maps an object as it was and as it is: who stops using something wakes it too.
func both(keys func(obj any) []string) engine.Mapper {
	return func(old, obj any) []string {
		out := keys(obj)
		if old != nil {
			out = append(out, keys(old)...)
		}
		return out
	}
}

func self(kind string) func(obj any) []string {
	return func(obj any) []string {
		key, err := cache.MetaNamespaceKeyFunc(obj)
		if err != nil {
			return nil
		}
		return []string{kind + "/" + key}
	}
}

// claimsOf names the claims that a pod uses.
func claimsOf(obj any) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	var keys []string
	for i := range pod.Spec.Volumes {
		if claim := claimOf(pod, &pod.Spec.Volumes[i]); claim != "" {
			keys = append(keys, claimKind+"/"+pod.Namespace+"/"+claim)
		}
	}
	return keys
}

// claimOf names the claim of a volume; that of a generic ephemeral volume is named after
// pod and volume.
func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	default:
		return ""
	}
}

// classesOf names the classes that a claim or a volume has, had or is given.
func classesOf(obj any) []string {
	var found []*string
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		found = []*string{o.Spec.VolumeAttributesClassName, o.Status.CurrentVolumeAttributesClassName}
		if m := o.Status.ModifyVolumeStatus; m != nil {
			found = append(found, &m.TargetVolumeAttributesClassName)
		}
	case *corev1.PersistentVolume:
		found = []*string{o.Spec.VolumeAttributesClassName}
	}
	var keys []string
	for _, class := range found {
		if class != nil && *class != "" {
			keys = append(keys, classKind+"/"+*class)
		}
	}
	return keys
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	kind, key, _ := strings.Cut(key, "/")
	switch kind {
	case claimKind:
		return r.claim(ctx, key)
	case volumeKind:
		return r.volume(ctx, key)
	default:
		return r.class(ctx, key)
	}
}

// ending returns an object that waits for this finalizer.
func ending[T metav1.Object](indexer cache.Indexer, key, finalizer string) (o T, ok bool) {
	obj, exists, err := indexer.GetByKey(key)
	if err != nil || !exists {
		return o, false
	}
	o, ok = obj.(T)
	return o, ok && o.GetDeletionTimestamp() != nil && slices.Contains(o.GetFinalizers(), finalizer)
}

// claim lets a claim go that no scheduled pod uses. The pods are read from the server, as
// one that uses the claim may have been scheduled a moment ago.
func (r *reconciler) claim(ctx context.Context, key string) error {
	claim, ok := ending[*corev1.PersistentVolumeClaim](r.claims, key, claimFinalizer)
	if !ok {
		return nil
	}
	pods, err := r.client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods of namespace %s: %w", claim.Namespace, err)
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; pod.Spec.NodeName != "" && slices.Contains(claimsOf(pod), claimKind+"/"+key) {
			return nil // its end wakes the claim
		}
	}
	_, err = r.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, without(claim.DeepCopy(), claimFinalizer), metav1.UpdateOptions{})
	return released(claim, err)
}

// volume lets a volume go that no claim is bound to.
func (r *reconciler) volume(ctx context.Context, key string) error {
	volume, ok := ending[*corev1.PersistentVolume](r.volumes, key, volumeFinalizer)
	if !ok || volume.Status.Phase == corev1.VolumeBound {
		return nil
	}
	_, err := r.client.CoreV1().PersistentVolumes().Update(ctx, without(volume.DeepCopy(), volumeFinalizer), metav1.UpdateOptions{})
	return released(volume, err)
}

// class lets a class go that no claim and no volume names.
func (r *reconciler) class(ctx context.Context, key string) error {
	class, ok := ending[*storagev1.VolumeAttributesClass](r.classes, key, classFinalizer)
	if !ok {
		return nil
	}
	for _, indexer := range []cache.Indexer{r.claims, r.volumes} {
		for _, obj := range indexer.List() {
			if slices.Contains(classesOf(obj), classKind+"/"+key) {
				return nil // its change wakes the class
			}
		}
	}
	_, err := r.client.StorageV1().VolumeAttributesClasses().Update(ctx, without(class.DeepCopy(), classFinalizer), metav1.UpdateOptions{})
	return released(class, err)
}

// without takes a finalizer off a copy of an object.
func without[T metav1.Object](o T, finalizer string) T {
	o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return f == finalizer }))
	return o
}

// released forgives what brings an event that wakes the object again, or says it is gone.
func released(o metav1.Object, err error) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("release %s: %w", o.GetName(), err)
}
