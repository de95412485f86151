package deployment

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
}

// rolling returns a Deployment; surge and unavailable are numbers or percentages.
func rolling(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	history := int32(10)
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Template: template("new"), RevisionHistoryLimit: &history,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}}}}
}

// rs returns a ReplicaSet, the age-th made.
func rs(name string, age int, replicas, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(time.Duration(age) * time.Second)),
		Annotations: map[string]string{revisionAnnotation: strconv.Itoa(age)}},
		Spec:   appsv1.ReplicaSetSpec{Replicas: &replicas, Template: template(name)},
		Status: appsv1.ReplicaSetStatus{Replicas: replicas, ReadyReplicas: available, AvailableReplicas: available}}
}

func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		replicas           int32
		surge, unavailable string
		wantUnavailable    int32
		wantSurge          int32
	}{
		{10, "25%", "25%", 2, 3},
		{1, "25%", "25%", 0, 1},
		{10, "0", "0", 1, 0},
		{3, "2", "9", 3, 2},
		{0, "25%", "25%", 0, 0},
	} {
		t.Run(fmt.Sprintf("%d %s %s", tc.replicas, tc.surge, tc.unavailable), func(t *testing.T) {
			unavailable, surge := limits(rolling(tc.replicas, tc.surge, tc.unavailable))
			if tc.replicas == 0 {
				return // nothing to limit
			}
			require.Equal(t, tc.wantUnavailable, unavailable)
			require.Equal(t, tc.wantSurge, surge)
		})
	}
	d := rolling(3, "1", "1")
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	unavailable, surge := limits(d)
	require.Zero(t, unavailable+surge)
}

func TestRollingUpdateSteps(t *testing.T) {
	for _, tc := range []struct {
		name    string
		d       *appsv1.Deployment
		current *appsv1.ReplicaSet
		old     []*appsv1.ReplicaSet
		want    scaling
	}{
		{"first rollout takes all at once", rolling(5, "1", "0"), rs("new", 2, 0, 0), nil, scaling{"new": 5}},
		{"up by the surge", rolling(4, "1", "0"), rs("new", 2, 0, 0), []*appsv1.ReplicaSet{rs("old", 1, 4, 4)}, scaling{"new": 1}},
		{"no room, down by what may be missing", rolling(4, "0", "2"), rs("new", 2, 0, 0), []*appsv1.ReplicaSet{rs("old", 1, 4, 4)}, scaling{"old": 2}},
		{"waits for the new to become available", rolling(4, "1", "0"), rs("new", 2, 1, 0), []*appsv1.ReplicaSet{rs("old", 1, 4, 4)}, scaling{}},
		{"down when it has", rolling(4, "1", "0"), rs("new", 2, 1, 1), []*appsv1.ReplicaSet{rs("old", 1, 4, 4)}, scaling{"old": 3}},
		{"what is broken goes first", rolling(4, "1", "1"), rs("new", 3, 1, 0), []*appsv1.ReplicaSet{rs("a", 1, 2, 2), rs("b", 2, 2, 1)}, scaling{"b": 1}},
		{"oldest first", rolling(4, "1", "0"), rs("new", 3, 1, 1), []*appsv1.ReplicaSet{rs("a", 1, 2, 2), rs("b", 2, 2, 2)}, scaling{"a": 1}},
		{"too many of the new", rolling(2, "1", "0"), rs("new", 2, 4, 4), nil, scaling{"new": 2}},
		{"done", rolling(2, "1", "0"), rs("new", 2, 2, 2), []*appsv1.ReplicaSet{rs("old", 1, 0, 0)}, scaling{}},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, rollingUpdate(tc.d, tc.current, tc.old)) })
	}
}

// A status that still counts pods about to be deleted made room to delete others.
func TestStaleAvailabilityIsNotCounted(t *testing.T) {
	current, old := rs("new", 2, 3, 3), rs("old", 1, 2, 0)
	current.Status.AvailableReplicas = 5 // two of them were told to go
	*current.Spec.Replicas = 3
	old.Status.AvailableReplicas = 2
	plan := rollingUpdate(rolling(5, "0", "1"), current, []*appsv1.ReplicaSet{old})
	kept := int32(3) + 2
	if n, ok := plan["old"]; ok {
		kept = 3 + n
	}
	require.GreaterOrEqual(t, kept, int32(4))
}

// simulation is ReplicaSets whose pods come, become available and fail at random.
type simulation struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	live map[string]int32 // pods that are available now, by set
}

// settle lets a set's controller act on some of what it was told, and report it.
func (s *simulation) settle(t *rapid.T, rs *appsv1.ReplicaSet) {
	want := *rs.Spec.Replicas
	s.live[rs.Name] = min(s.live[rs.Name], want)
	if missing := want - s.live[rs.Name]; missing > 0 {
		s.live[rs.Name] += rapid.Int32Range(0, missing).Draw(t, "become available")
	}
	rs.Status.Replicas, rs.Status.AvailableReplicas, rs.Status.ReadyReplicas = want, s.live[rs.Name], s.live[rs.Name]
}

func (s *simulation) available() (n int32) {
	for _, rs := range s.sets {
		n += min(s.live[rs.Name], *rs.Spec.Replicas)
	}
	return n
}

func TestRollingUpdateStaysWithinLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.Int32Range(1, 20).Draw(t, "replicas")
		d := rolling(replicas, rapid.SampledFrom([]string{"0", "1", "25%", "50%", "100%"}).Draw(t, "surge"), rapid.SampledFrom([]string{"0", "1", "25%", "100%"}).Draw(t, "unavailable"))
		maxUnavailable, maxSurge := limits(d)
		s := &simulation{d: d, sets: []*appsv1.ReplicaSet{rs("first", 1, replicas, replicas)}, live: map[string]int32{"first": replicas}}
		low := replicas - maxUnavailable
		rollouts := rapid.IntRange(1, 3).Draw(t, "rollouts")
		for n := range rollouts {
			name := fmt.Sprintf("rollout-%d", n)
			s.sets = append(s.sets, rs(name, n+2, 0, 0))
			steps := 400
			if n < rollouts-1 {
				steps = rapid.IntRange(0, 12).Draw(t, "steps before the next rollout")
			}
			done := s.roll(t, steps, low, replicas+maxSurge)
			if n == rollouts-1 && !done {
				t.Fatalf("the rollout did not end in %d steps: %v", steps, s.live)
			}
		}
	})
}

// roll plays the newest set's rollout and checks the limits after every step.
func (s *simulation) roll(t *rapid.T, steps int, low, high int32) bool {
	for range steps {
		current, old := s.sets[len(s.sets)-1], s.sets[:len(s.sets)-1]
		before := s.available()
		for name, n := range rollingUpdate(s.d, current, slices.Clone(old)) {
			i := slices.IndexFunc(s.sets, func(rs *appsv1.ReplicaSet) bool { return rs.Name == name })
			*s.sets[i].Spec.Replicas = n
		}
		if total := replicasOf(s.sets...); total > high {
			t.Fatalf("%d pods, at most %d allowed", total, high)
		}
		if after := s.available(); after < min(before, low) {
			t.Fatalf("%d available, %d before, at least %d needed", after, before, low)
		}
		for _, rs := range s.sets {
			if rapid.IntRange(0, 3).Draw(t, "acts") > 0 {
				s.settle(t, rs)
			}
		}
		if *current.Spec.Replicas == *s.d.Spec.Replicas && replicasOf(old...) == 0 {
			return true
		}
		if rapid.IntRange(0, 9).Draw(t, "all act") == 0 {
			for _, rs := range s.sets {
				s.live[rs.Name] = *rs.Spec.Replicas
				s.settle(t, rs)
			}
		}
	}
	return false
}

func TestProportional(t *testing.T) {
	sized := func(rs *appsv1.ReplicaSet, most int) *appsv1.ReplicaSet {
		rs.Annotations[maxReplicasAnnotation] = strconv.Itoa(most)
		return rs
	}
	for _, tc := range []struct {
		name   string
		d      *appsv1.Deployment
		active []*appsv1.ReplicaSet
		want   scaling
	}{
		{"up, by share", rolling(20, "0", "0"), []*appsv1.ReplicaSet{sized(rs("a", 1, 5, 5), 10), sized(rs("b", 2, 5, 5), 10)}, scaling{"a": 10, "b": 10}},
		{"up with surge", rolling(15, "3", "2"), []*appsv1.ReplicaSet{sized(rs("old", 1, 8, 8), 13), sized(rs("new", 2, 5, 0), 13)}, scaling{"old": 11, "new": 7}},
		{"down, by share", rolling(5, "0", "1"), []*appsv1.ReplicaSet{sized(rs("a", 1, 6, 6), 10), sized(rs("b", 2, 4, 4), 10)}, scaling{"a": 3, "b": 2}},
		{"to nothing", rolling(0, "1", "0"), []*appsv1.ReplicaSet{sized(rs("a", 1, 2, 2), 5), sized(rs("b", 2, 3, 3), 5)}, scaling{"a": 0, "b": 0}},
		{"what rounding leaves goes to the largest", rolling(4, "0", "1"), []*appsv1.ReplicaSet{sized(rs("a", 1, 1, 1), 3), sized(rs("b", 2, 1, 1), 3), sized(rs("c", 3, 1, 1), 3)}, scaling{"a": 1, "b": 1, "c": 2}},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, proportional(tc.d, tc.active)) })
	}
}

func TestProportionalGivesAllAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rolling(rapid.Int32Range(0, 60).Draw(t, "replicas"), rapid.SampledFrom([]string{"0", "2", "30%"}).Draw(t, "surge"), "1")
		var active []*appsv1.ReplicaSet
		for i := range rapid.IntRange(2, 4).Draw(t, "sets") {
			set := rs(fmt.Sprint("s", i), i, rapid.Int32Range(1, 20).Draw(t, "size"), 0)
			active = append(active, set)
		}
		before := int(replicasOf(active...)) + rapid.IntRange(0, 3).Draw(t, "spare")
		for _, set := range active {
			set.Annotations[maxReplicasAnnotation] = strconv.Itoa(before)
		}
		plan := proportional(d, active)
		_, surge := limits(d)
		want := *d.Spec.Replicas + surge
		if *d.Spec.Replicas == 0 {
			want = 0
		}
		sum := int32(0)
		for _, n := range plan {
			if n < 0 {
				t.Fatalf("negative: %v", plan)
			}
			sum += n
		}
		if sum != want {
			t.Fatalf("%v sums to %d, want %d", plan, sum, want)
		}
	})
}

func TestSurplus(t *testing.T) {
	idle := func(name string, age int) *appsv1.ReplicaSet { return rs(name, age, 0, 0) }
	limit := func(n int32) *appsv1.Deployment {
		d := rolling(1, "1", "0")
		d.Spec.RevisionHistoryLimit = &n
		return d
	}
	unseen := idle("unseen", 1)
	unseen.Generation = 2
	ending := idle("ending", 1)
	ending.DeletionTimestamp = &metav1.Time{Time: now}
	lagging := idle("lagging", 1)
	lagging.Status.Replicas = 1
	old := []*appsv1.ReplicaSet{idle("c", 3), idle("a", 1), rs("busy", 1, 1, 1), idle("b", 2), unseen, ending, lagging}
	names := func(sets []*appsv1.ReplicaSet) (out []string) {
		for _, s := range sets {
			out = append(out, s.Name)
		}
		return out
	}
	require.Equal(t, []string{"a", "b"}, names(surplus(limit(1), old)))
	require.Equal(t, []string{"a", "b", "c"}, names(surplus(limit(0), old)))
	require.Empty(t, surplus(limit(9), old))
	require.Empty(t, surplus(limit(math.MaxInt32), old))
	d := limit(0)
	d.Spec.RevisionHistoryLimit = nil
	require.Empty(t, surplus(d, old))
}

func TestTemplateHash(t *testing.T) {
	a, b := template("a"), template("b")
	one := int32(1)
	require.Equal(t, templateHash(&a, nil), templateHash(a.DeepCopy(), nil))
	require.NotEqual(t, templateHash(&a, nil), templateHash(&b, nil))
	require.NotEqual(t, templateHash(&a, nil), templateHash(&a, &one))
}

func TestSplitFindsTheCurrentSet(t *testing.T) {
	d := rolling(1, "1", "0")
	first, second, other := rs("new", 1, 1, 1), rs("new", 2, 1, 1), rs("old", 3, 1, 1)
	first.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "hash"
	current, old := split(d, []*appsv1.ReplicaSet{other, second, first})
	require.Same(t, first, current, "the oldest that matches")
	require.Equal(t, []*appsv1.ReplicaSet{second, other}, old)
}
