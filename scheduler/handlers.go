package scheduler

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
	"github.com/rutter-project/rutter/scheduler/internal/queue"
)

// nodeHandler keeps the picture of nodes and wakes pods that a change can help.
func (s *Scheduler) nodeHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if n, ok := obj.(*corev1.Node); ok {
				s.cluster.SetNode(n)
				s.saw(n.ResourceVersion)
				s.queue.Happened(queue.NodeAdded, rev(n.ResourceVersion))
			}
		},
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*corev1.Node)
			n, ok2 := obj.(*corev1.Node)
			if !ok || !ok2 {
				return
			}
			s.cluster.SetNode(n)
			s.saw(n.ResourceVersion)
			if matters(was, n) {
				s.queue.Happened(queue.NodeChanged, rev(n.ResourceVersion))
			}
		},
		DeleteFunc: func(obj any) {
			if n, ok := last(obj).(*corev1.Node); ok {
				s.cluster.RemoveNode(n.Name)
				s.queue.Happened(queue.NodeGone, rev(n.ResourceVersion))
			}
		},
	}
}

// matters reports a change that a filter looks at; heartbeats are none.
func matters(was, is *corev1.Node) bool {
	return was.Spec.Unschedulable != is.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(was.Labels, is.Labels) ||
		!equality.Semantic.DeepEqual(was.Spec.Taints, is.Spec.Taints) ||
		!equality.Semantic.DeepEqual(was.Status.Allocatable, is.Status.Allocatable)
}

// podHandler queues pods without a place and counts those that have one.
func (s *Scheduler) podHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if p, ok := obj.(*corev1.Pod); ok {
				s.pod(nil, p)
			}
		},
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*corev1.Pod)
			p, ok2 := obj.(*corev1.Pod)
			if !ok || !ok2 {
				return
			}
			if was.UID != p.UID {
				s.gone(was)
				was = nil
			}
			s.pod(was, p)
		},
		DeleteFunc: func(obj any) {
			if p, ok := last(obj).(*corev1.Pod); ok {
				s.gone(p)
			}
		},
	}
}

func (s *Scheduler) pod(was, p *corev1.Pod) {
	s.saw(p.ResourceVersion)
	switch {
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		s.gone(p)
	case p.Spec.NodeName != "":
		s.cluster.SetPod(p)
		s.queue.Remove(p.UID)
		s.queue.Happened(placedEvents(was, p), rev(p.ResourceVersion))
	case p.Spec.SchedulerName != s.cfg.Name || p.DeletionTimestamp != nil || len(p.Spec.SchedulingGates) > 0:
		s.queue.Remove(p.UID)
	default: // while its binding is under way too: it may fail
		changed := was != nil && (!equality.Semantic.DeepEqual(was.Spec, p.Spec) || !equality.Semantic.DeepEqual(was.Labels, p.Labels))
		s.queue.Add(p, rev(p.ResourceVersion), changed)
	}
}

// placedEvents are what the change of a pod on a node can mean for others, 0 if nothing.
func placedEvents(was, p *corev1.Pod) queue.Event {
	if was == nil || was.Spec.NodeName == "" {
		return queue.PodPlaced
	}
	var events queue.Event
	if (was.DeletionTimestamp == nil) != (p.DeletionTimestamp == nil) || !maps.Equal(was.Labels, p.Labels) {
		events |= queue.PodChanged
	}
	if !equality.Semantic.DeepEqual(cluster.Requests(was), cluster.Requests(p)) {
		events |= queue.PodGone // it may have given something back
	}
	return events
}

// gone gives back what the pod held.
func (s *Scheduler) gone(p *corev1.Pod) {
	s.queue.Remove(p.UID)
	if s.cluster.Has(p.UID) {
		s.cluster.RemovePod(p.UID)
		s.queue.Happened(queue.PodGone, rev(p.ResourceVersion))
	}
}

func (s *Scheduler) saw(resourceVersion string) { s.cluster.Saw(rev(resourceVersion)) }

func rev(resourceVersion string) int64 {
	n, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}
