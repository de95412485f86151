package deployment

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// progressing returns a deployment of 3 replicas that progressed at now.
func progressing(reason string, status appsv1.DeploymentStatus) *appsv1.Deployment {
	d := rolling(3, "1", "0")
	deadline := int32(60)
	d.Spec.ProgressDeadlineSeconds = &deadline
	d.Status = status
	if reason != "" {
		d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason,
			LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now)}}
	}
	return d
}

func TestProgressing(t *testing.T) {
	halfWay := appsv1.DeploymentStatus{Replicas: 4, UpdatedReplicas: 1, ReadyReplicas: 3, AvailableReplicas: 3}
	done := appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3}
	paused := progressing(reasonUpdated, halfWay)
	paused.Spec.Paused = true
	failedThenPaused := progressing(reasonTimedOut, halfWay)
	failedThenPaused.Spec.Paused = true
	noDeadline := progressing("", halfWay)
	noDeadline.Spec.ProgressDeadlineSeconds = nil
	for _, tc := range []struct {
		name    string
		d       *appsv1.Deployment
		current *appsv1.ReplicaSet
		old     []*appsv1.ReplicaSet
		created bool
		after   time.Duration
		reason  string
		touched bool
	}{
		{"first seen", progressing("", appsv1.DeploymentStatus{}), rs("new", 1, 3, 0), nil, false, 0, reasonUpdated, true},
		{"new set", progressing(reasonAvailable, done), rs("new", 2, 0, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, true, time.Second, reasonNewRS, true},
		{"undo to a set that exists", progressing(reasonAvailable, done), rs("new", 2, 0, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, false, time.Second, reasonUpdated, true},
		{"a step", progressing(reasonNewRS, halfWay), rs("new", 2, 2, 1), []*appsv1.ReplicaSet{rs("old", 1, 2, 2)}, false, time.Second, reasonUpdated, true},
		{"no step, in time", progressing(reasonUpdated, halfWay), rs("new", 2, 1, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, false, 59 * time.Second, reasonUpdated, false},
		{"no step, too late", progressing(reasonUpdated, halfWay), rs("new", 2, 1, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, false, time.Minute, reasonTimedOut, true},
		{"a step after the deadline", progressing(reasonTimedOut, halfWay), rs("new", 2, 2, 1), []*appsv1.ReplicaSet{rs("old", 1, 2, 2)}, false, time.Hour, reasonUpdated, true},
		{"complete", progressing(reasonUpdated, halfWay), rs("new", 2, 3, 3), []*appsv1.ReplicaSet{rs("old", 1, 0, 0)}, false, time.Second, reasonAvailable, true},
		{"paused", paused, rs("new", 2, 1, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, false, time.Hour, reasonPaused, true},
		{"paused after it failed", failedThenPaused, rs("new", 2, 1, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, false, time.Hour, reasonTimedOut, false},
		{"resumed", progressing(reasonPaused, halfWay), rs("new", 2, 1, 0), []*appsv1.ReplicaSet{rs("old", 1, 3, 3)}, false, time.Hour, reasonResumed, true},
		{"no deadline", noDeadline, rs("new", 2, 1, 0), nil, false, time.Hour, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := now.Add(tc.after)
			s := statusOf(tc.d, tc.current, tc.old, tc.created, at)
			c := get(s.Conditions, appsv1.DeploymentProgressing)
			if tc.reason == "" {
				require.Nil(t, c)
				return
			}
			require.Equal(t, tc.reason, c.Reason)
			require.Equal(t, tc.touched, c.LastUpdateTime.Time.Equal(at))
		})
	}
}

// A pod that failed long after a rollout made it count as a rollout that timed out.
func TestPodFailureAfterRolloutIsNoRollout(t *testing.T) {
	d := progressing(reasonAvailable, appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3})
	for _, after := range []time.Duration{time.Second, time.Hour} {
		s := statusOf(d, rs("new", 1, 3, 2), nil, false, now.Add(after))
		require.Equal(t, reasonAvailable, get(s.Conditions, appsv1.DeploymentProgressing).Reason)
		require.Equal(t, corev1.ConditionFalse, get(s.Conditions, appsv1.DeploymentAvailable).Status)
		d.Status = s
	}
}

func TestStatusCounts(t *testing.T) {
	d := rolling(4, "1", "1")
	d.Generation = 7
	two := int32(2)
	current, old := rs("new", 2, 2, 1), rs("old", 1, 3, 3)
	old.Status.TerminatingReplicas = &two
	s := statusOf(d, current, []*appsv1.ReplicaSet{old}, false, now)
	require.EqualValues(t, 7, s.ObservedGeneration)
	require.Equal(t, []int32{5, 2, 4, 4, 1, 2}, []int32{s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas, s.UnavailableReplicas, *s.TerminatingReplicas})
	require.Equal(t, corev1.ConditionTrue, get(s.Conditions, appsv1.DeploymentAvailable).Status)
}

func TestReplicaFailureIsShownAndCleared(t *testing.T) {
	d := rolling(1, "1", "0")
	current := rs("new", 1, 1, 0)
	current.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	d.Status = statusOf(d, current, nil, false, now)
	require.Equal(t, "quota", get(d.Status.Conditions, appsv1.DeploymentReplicaFailure).Message)
	current.Status.Conditions = nil
	require.Nil(t, get(statusOf(d, current, nil, false, now).Conditions, appsv1.DeploymentReplicaFailure))
}
