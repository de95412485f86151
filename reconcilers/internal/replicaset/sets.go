package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// sets are the objects of one kind that ask for pods, seen as ReplicaSets.
type sets interface {
	get(namespace, name string) (*appsv1.ReplicaSet, error)
	list(namespace string) ([]*appsv1.ReplicaSet, error)
	// live asks the API server, for decisions that a cache may not take.
	live(ctx context.Context, namespace, name string) (metav1.Object, error)
	updateStatus(ctx context.Context, rs *appsv1.ReplicaSet) error
}

// flavour is a kind that the controller serves.
type flavour struct {
	name      string // of the controller
	component string // its name in Events
	kind      schema.GroupVersionKind
	// countsTerminating: the kind's status has a place for pods that are ending.
	countsTerminating bool
	open              func(kubernetes.Interface, engine.Source) (sets, cache.SharedIndexInformer)
}

var replicaSets = flavour{
	name: "replicaset", component: "replicaset-controller", kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), countsTerminating: true,
	open: func(client kubernetes.Interface, source engine.Source) (sets, cache.SharedIndexInformer) {
		informer := source.For(appsv1.SchemeGroupVersion.WithResource("replicasets"), &appsv1.ReplicaSet{})
		return plainSets{client: client, lister: appslisters.NewReplicaSetLister(informer.GetIndexer())}, informer
	},
}

var replicationControllers = flavour{
	name: "replication-controller", component: "replication-controller", kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
	open: func(client kubernetes.Interface, source engine.Source) (sets, cache.SharedIndexInformer) {
		informer := source.For(corev1.SchemeGroupVersion.WithResource("replicationcontrollers"), &corev1.ReplicationController{})
		return oldSets{client: client, lister: corelisters.NewReplicationControllerLister(informer.GetIndexer())}, informer
	},
}

// plainSets are ReplicaSets.
type plainSets struct {
	client kubernetes.Interface
	lister appslisters.ReplicaSetLister
}

func (s plainSets) get(namespace, name string) (*appsv1.ReplicaSet, error) {
	return s.lister.ReplicaSets(namespace).Get(name)
}

func (s plainSets) list(namespace string) ([]*appsv1.ReplicaSet, error) {
	return s.lister.ReplicaSets(namespace).List(labels.Everything())
}

func (s plainSets) live(ctx context.Context, namespace, name string) (metav1.Object, error) {
	return s.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (s plainSets) updateStatus(ctx context.Context, rs *appsv1.ReplicaSet) error {
	_, err := s.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
	return err
}

// oldSets are ReplicationControllers: the same with a selector of equalities only.
type oldSets struct {
	client kubernetes.Interface
	lister corelisters.ReplicationControllerLister
}

func (s oldSets) get(namespace, name string) (*appsv1.ReplicaSet, error) {
	rc, err := s.lister.ReplicationControllers(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return asReplicaSet(rc), nil
}

func (s oldSets) list(namespace string) ([]*appsv1.ReplicaSet, error) {
	all, err := s.lister.ReplicationControllers(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	found := make([]*appsv1.ReplicaSet, len(all))
	for i, rc := range all {
		found[i] = asReplicaSet(rc)
	}
	return found, nil
}

func (s oldSets) live(ctx context.Context, namespace, name string) (metav1.Object, error) {
	return s.client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
}

// updateStatus writes only the status, so spec and metadata are those of the version it
// was computed from, which the resourceVersion names.
func (s oldSets) updateStatus(ctx context.Context, rs *appsv1.ReplicaSet) error {
	rc := &corev1.ReplicationController{
		ObjectMeta: rs.ObjectMeta,
		Spec: corev1.ReplicationControllerSpec{
			Replicas: rs.Spec.Replicas, MinReadySeconds: rs.Spec.MinReadySeconds, Selector: rs.Spec.Selector.MatchLabels, Template: &rs.Spec.Template,
		},
		Status: corev1.ReplicationControllerStatus{
			Replicas: rs.Status.Replicas, FullyLabeledReplicas: rs.Status.FullyLabeledReplicas, ReadyReplicas: rs.Status.ReadyReplicas,
			AvailableReplicas: rs.Status.AvailableReplicas, ObservedGeneration: rs.Status.ObservedGeneration,
		},
	}
	for _, c := range rs.Status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	_, err := s.client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
	return err
}

// asReplicaSet shares what it can with rc, which must not be changed.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds, Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}
