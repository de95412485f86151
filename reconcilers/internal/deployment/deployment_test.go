package deployment

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
	"github.com/rutter-project/rutter/reconcilers/internal/replicaset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the controller, and that of ReplicaSets, over what the server holds.
func start(t testing.TB, s *fakeapi.Server) {
	t.Helper()
	log := zerolog.Nop()
	deployments, err := New(s.Client(), s, log)
	require.NoError(t, err)
	sets, err := replicaset.New(s.Client(), s, log)
	require.NoError(t, err)
	fakeapi.Start(t, s, deployments, sets)
}

// work plays the node agent until nothing is left to do: pods that are to end end, the
// others become ready.
func work(s *fakeapi.Server) {
	for range 60 {
		busy := false
		for _, p := range fakeapi.All[*corev1.Pod](s) {
			switch {
			case p.DeletionTimestamp != nil:
				fakeapi.Drop(s, p)
				busy = true
			case p.Spec.NodeName == "":
				p.Spec.NodeName, p.Status.Phase = "node", corev1.PodRunning
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
				fakeapi.Put(s, p)
				busy = true
			}
		}
		fakeapi.Settle()
		if !busy {
			return
		}
	}
}

func deployment(s *fakeapi.Server) *appsv1.Deployment {
	return fakeapi.Get[*appsv1.Deployment](s, "default", "web")
}

// change edits the deployment as a user does.
func change(s *fakeapi.Server, edit func(*appsv1.DeploymentSpec)) {
	d := deployment(s)
	edit(&d.Spec)
	d.Generation++
	fakeapi.Put(s, d)
	fakeapi.Settle()
}

func image(to string) func(*appsv1.DeploymentSpec) {
	return func(spec *appsv1.DeploymentSpec) { spec.Template.Spec.Containers[0].Image = to }
}

// sizes lists the ReplicaSets as "image×replicas", oldest revision first.
func sizes(s *fakeapi.Server) []string {
	all := fakeapi.All[*appsv1.ReplicaSet](s)
	slices.SortFunc(all, func(a, b *appsv1.ReplicaSet) int { return int(revision(a.Annotations) - revision(b.Annotations)) })
	var out []string
	for _, rs := range all {
		out = append(out, fmt.Sprintf("%s×%d", rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas))
	}
	return out
}

func reason(s *fakeapi.Server) string {
	c := get(deployment(s).Status.Conditions, appsv1.DeploymentProgressing)
	if c == nil {
		return ""
	}
	return c.Reason
}

// rolled returns a server with a deployment of 3 replicas that has rolled out.
func rolled(t *testing.T, edit ...func(*appsv1.DeploymentSpec)) *fakeapi.Server {
	t.Helper()
	s := fakeapi.New()
	d := rolling(3, "1", "0")
	deadline := int32(60)
	d.Spec.ProgressDeadlineSeconds = &deadline
	image("v1")(&d.Spec)
	for _, f := range edit {
		f(&d.Spec)
	}
	fakeapi.Put(s, d)
	start(t, s)
	work(s)
	return s
}

func TestRollsOutAndUndoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		require.Equal(t, []string{"v1×3"}, sizes(s))
		require.Equal(t, reasonAvailable, reason(s))
		change(s, image("v2"))
		require.Equal(t, []string{"v1×3", "v2×1"}, sizes(s))
		work(s)
		require.Equal(t, []string{"v1×0", "v2×3"}, sizes(s))
		require.Equal(t, "2", deployment(s).Annotations[revisionAnnotation])
		change(s, image("v1"))
		work(s)
		require.Equal(t, []string{"v2×0", "v1×3"}, sizes(s), "the first set has the newest revision")
		require.Equal(t, "3", deployment(s).Annotations[revisionAnnotation])
		require.Equal(t, reasonAvailable, reason(s))
		require.EqualValues(t, 3, deployment(s).Status.AvailableReplicas)
	})
}

func TestScalesInTheMiddleOfARollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		change(s, image("v2"))
		six := int32(6)
		change(s, func(spec *appsv1.DeploymentSpec) { spec.Replicas = &six })
		require.Equal(t, []string{"v1×5", "v2×2"}, sizes(s))
		work(s)
		require.Equal(t, []string{"v1×0", "v2×6"}, sizes(s))
	})
}

func TestPauseHoldsTheRolloutNotTheScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		change(s, func(spec *appsv1.DeploymentSpec) { spec.Paused = true })
		change(s, image("v2"))
		work(s)
		require.Equal(t, []string{"v1×3"}, sizes(s))
		require.Equal(t, reasonPaused, reason(s))
		five := int32(5)
		change(s, func(spec *appsv1.DeploymentSpec) { spec.Replicas = &five })
		require.Equal(t, []string{"v1×5"}, sizes(s))
		change(s, func(spec *appsv1.DeploymentSpec) { spec.Paused = false })
		work(s)
		require.Equal(t, []string{"v1×0", "v2×5"}, sizes(s))
	})
}

// A paused deployment at 0 replicas did not scale up again.
func TestPausedScalesFromZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		zero, two := int32(0), int32(2)
		change(s, func(spec *appsv1.DeploymentSpec) { spec.Paused = true; spec.Replicas = &zero })
		require.Equal(t, []string{"v1×0"}, sizes(s))
		change(s, func(spec *appsv1.DeploymentSpec) { spec.Replicas = &two })
		require.Equal(t, []string{"v1×2"}, sizes(s))
	})
}

func recreating(spec *appsv1.DeploymentSpec) {
	spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}

func TestRecreateWaitsForTheLastOldPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t, recreating)
		change(s, image("v2"))
		require.Equal(t, []string{"v1×0", "v2×0"}, sizes(s))
		pods := fakeapi.All[*corev1.Pod](s)
		require.Len(t, pods, 3)
		for _, p := range pods[:2] {
			fakeapi.Drop(s, p)
		}
		fakeapi.Settle()
		require.Equal(t, []string{"v1×0", "v2×0"}, sizes(s))
		fakeapi.Drop(s, pods[2])
		fakeapi.Settle()
		require.Equal(t, []string{"v1×0", "v2×3"}, sizes(s))
	})
}

// Pods that were never placed vanish at once, without ever showing as terminating, and
// the deployment waited for them for ever.
func TestRecreateGoesOnAfterPodsThatNeverRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		d := rolling(2, "1", "0")
		recreating(&d.Spec)
		fakeapi.Put(s, d)
		start(t, s)
		require.Len(t, fakeapi.All[*corev1.Pod](s), 2)
		change(s, image("v2"))
		require.Equal(t, []string{"new×0", "v2×2"}, sizes(s))
	})
}

func TestProgressDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		change(s, image("broken"))
		require.NotEqual(t, reasonTimedOut, reason(s))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, reasonTimedOut, reason(s))
		require.Equal(t, []string{"v1×3", "broken×1"}, sizes(s), "what works keeps working")
		change(s, image("v1"))
		work(s)
		require.Equal(t, reasonAvailable, reason(s))
	})
}

// After a deletion that orphaned them, ReplicaSets stayed without an owner and a second
// set of pods was made next to theirs.
func TestAdoptsOrphanedReplicaSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		for _, rs := range fakeapi.All[*appsv1.ReplicaSet](s) {
			rs.OwnerReferences = nil
			fakeapi.Put(s, rs)
		}
		fakeapi.Drop(s, deployment(s))
		fakeapi.Settle()
		d := rolling(3, "1", "0")
		image("v1")(&d.Spec)
		d = fakeapi.Put(s, d)
		fakeapi.Settle()
		all := fakeapi.All[*appsv1.ReplicaSet](s)
		require.Len(t, all, 1)
		require.Equal(t, d.UID, metav1.GetControllerOf(all[0]).UID)
		require.Len(t, fakeapi.All[*corev1.Pod](s), 3)
	})
}

func TestTakenNameGetsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		d := rolling(1, "1", "0")
		stranger := rs("web-"+templateHash(&d.Spec.Template, nil), 1, 0, 0)
		stranger.Namespace = "default"
		fakeapi.Put(s, stranger)
		fakeapi.Put(s, d)
		start(t, s)
		require.EqualValues(t, 1, *deployment(s).Status.CollisionCount)
		require.Len(t, fakeapi.All[*appsv1.ReplicaSet](s), 2)
		require.Len(t, fakeapi.All[*corev1.Pod](s), 1)
	})
}

func TestHistoryIsTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := int32(1)
		s := rolled(t, func(spec *appsv1.DeploymentSpec) { spec.RevisionHistoryLimit = &one })
		for _, to := range []string{"v2", "v3", "v4"} {
			change(s, image(to))
			work(s)
		}
		require.Equal(t, []string{"v3×0", "v4×3"}, sizes(s))
	})
}

func TestWritesNameTheirCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rolled(t)
		s.Writes()
		change(s, image("v2"))
		for _, w := range s.Writes() {
			require.NotEmpty(t, w.Cause, w.String())
		}
	})
}
