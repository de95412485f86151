package deployment

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing and Available conditions, as kubectl rollout status and
// many others know them.
const (
	reasonNewRS      = "NewReplicaSetCreated"
	reasonUpdated    = "ReplicaSetUpdated"
	reasonAvailable  = "NewReplicaSetAvailable"
	reasonTimedOut   = "ProgressDeadlineExceeded"
	reasonPaused     = "DeploymentPaused"
	reasonResumed    = "DeploymentResumed"
	reasonMinimum    = "MinimumReplicasAvailable"
	reasonNotMinimum = "MinimumReplicasUnavailable"
)

// statusOf is the status that the ReplicaSets make. created names a ReplicaSet made in
// this pass.
func statusOf(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, created bool, now time.Time) appsv1.DeploymentStatus {
	before := d.Status
	s := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		CollisionCount:     before.CollisionCount,
		Conditions:         append([]appsv1.DeploymentCondition(nil), before.Conditions...),
	}
	var terminating int32
	for _, rs := range append(old, current) {
		if rs == nil {
			continue
		}
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		if rs.Status.TerminatingReplicas != nil {
			terminating += *rs.Status.TerminatingReplicas
		}
	}
	s.TerminatingReplicas = &terminating
	if current != nil {
		s.UpdatedReplicas = current.Status.Replicas
	}
	s.UnavailableReplicas = max(replicasOf(append(old, current)...)-s.AvailableReplicas, 0)
	maxUnavailable, _ := limits(d)
	if s.AvailableReplicas >= *d.Spec.Replicas-maxUnavailable {
		set(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinimum, "Deployment has minimum availability.", now)
	} else {
		set(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonNotMinimum, "Deployment does not have minimum availability.", now)
	}
	failure(&s, current, now)
	progress(d, &s, current, created, now)
	return s
}

// failure copies ReplicaFailure from the current ReplicaSet.
func failure(s *appsv1.DeploymentStatus, current *appsv1.ReplicaSet, now time.Time) {
	if current != nil {
		for _, c := range current.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				set(s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message, now)
				return
			}
		}
	}
	for i, c := range s.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure {
			s.Conditions = append(s.Conditions[:i], s.Conditions[i+1:]...)
			return
		}
	}
}

// progress keeps the Progressing condition; LastUpdateTime moves with every step
// forward, and the deadline counts from it.
func progress(d *appsv1.Deployment, s *appsv1.DeploymentStatus, current *appsv1.ReplicaSet, created bool, now time.Time) {
	if !hasDeadline(d) {
		return
	}
	had := get(d.Status.Conditions, appsv1.DeploymentProgressing)
	which := fmt.Sprintf("Deployment %q", d.Name)
	if current != nil {
		which = fmt.Sprintf("ReplicaSet %q", current.Name)
	}
	switch {
	case d.Spec.Paused:
		if had == nil || (had.Reason != reasonPaused && had.Reason != reasonTimedOut) {
			set(s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused", now)
		}
	case complete(d, s):
		set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, which+" has successfully progressed.", now)
	case !created && had != nil && had.Reason == reasonAvailable && s.Replicas == s.UpdatedReplicas:
		// The rollout is over; what comes after (scaling, a pod that fails) is none.
	case created:
		set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonNewRS, "Created new replica set "+fmt.Sprintf("%q", current.Name), now)
		touch(s, now)
	case had != nil && had.Reason == reasonPaused:
		set(s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", now)
		touch(s, now)
	case forward(d, s):
		set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, which+" is progressing.", now)
		touch(s, now)
	case overdue(d, now):
		set(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, which+" has timed out progressing.", now)
	case had == nil || had.Reason == reasonAvailable:
		set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, which+" is progressing.", now)
		touch(s, now)
	}
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != 1<<31-1
}

// complete: all replicas are of the present template and available, no others are left.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want
}

// forward: more of the new, fewer of the old, or more ready or available than before.
func forward(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	was := d.Status
	return s.UpdatedReplicas > was.UpdatedReplicas ||
		s.Replicas-s.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		s.ReadyReplicas > was.ReadyReplicas || s.AvailableReplicas > was.AvailableReplicas
}

func overdue(d *appsv1.Deployment, now time.Time) bool {
	wait, counting := untilDeadline(d, now)
	return counting && wait <= 0
}

// untilDeadline is how long the rollout may still show no progress; counting is false
// when no deadline runs.
func untilDeadline(d *appsv1.Deployment, now time.Time) (wait time.Duration, counting bool) {
	c := get(d.Status.Conditions, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || d.Spec.Paused || c == nil || c.Reason == reasonAvailable || c.Reason == reasonTimedOut || c.Reason == reasonPaused {
		return 0, c != nil && c.Reason == reasonTimedOut
	}
	end := c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
	return end.Sub(now), true
}

func get(conditions []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

func set(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	c := get(s.Conditions, t)
	if c == nil {
		s.Conditions = append(s.Conditions, appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message,
			LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now)})
		return
	}
	if c.Status == status && c.Reason == reason {
		return
	}
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(now)
	}
	c.Status, c.Reason, c.Message, c.LastUpdateTime = status, reason, message, metav1.NewTime(now)
}

func touch(s *appsv1.DeploymentStatus, now time.Time) {
	if c := get(s.Conditions, appsv1.DeploymentProgressing); c != nil {
		c.LastUpdateTime = metav1.NewTime(now)
	}
}
