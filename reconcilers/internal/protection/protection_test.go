package protection

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deleted is the meta of an object that was deleted and waits for finalizers.
func deleted(namespace, name string, finalizers ...string) metav1.ObjectMeta {
	when := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Finalizers: finalizers, DeletionTimestamp: &when}
}

func user(name, node string, v corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "v", VolumeSource: v}}}}
}

func TestRelease(t *testing.T) {
	gold, uses := "gold", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: deleted("ns", "c", claimFinalizer)}
	volume := &corev1.PersistentVolume{ObjectMeta: deleted("", "v", volumeFinalizer)}
	class := &storagev1.VolumeAttributesClass{ObjectMeta: deleted("", gold, classFinalizer)}
	with := func(o *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		o = o.DeepCopy()
		change(o)
		return o
	}
	live := metav1.ObjectMeta{Namespace: "ns", Name: "other"}
	for name, tc := range map[string]struct {
		object  runtime.Object
		others  []runtime.Object
		held    bool
		release func(*fakeapi.Server) // makes a held one go
	}{
		"claim nobody uses": {object: claim},
		"claim of a scheduled pod": {object: claim, others: []runtime.Object{user("p", "n", uses)}, held: true,
			release: func(s *fakeapi.Server) { fakeapi.Drop(s, fakeapi.Get[*corev1.Pod](s, "ns", "p")) }},
		"claim of a pod that waits": {object: claim, others: []runtime.Object{user("p", "", uses)}},
		"claim of an ephemeral volume": {object: with(claim, func(c *corev1.PersistentVolumeClaim) { c.Name = "p-v" }),
			others: []runtime.Object{user("p", "n", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}})}, held: true,
			release: func(s *fakeapi.Server) { fakeapi.Drop(s, fakeapi.Get[*corev1.Pod](s, "ns", "p")) }},
		"claim of another name": {object: claim, others: []runtime.Object{user("p", "n", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "d"}})}},
		"claim others hold too": {object: with(claim, func(c *corev1.PersistentVolumeClaim) { c.Finalizers = append(c.Finalizers, "x.test/hold") })},
		"volume nobody uses":    {object: volume},
		"bound volume": {object: &corev1.PersistentVolume{ObjectMeta: volume.ObjectMeta, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}, held: true,
			release: func(s *fakeapi.Server) {
				v := fakeapi.Get[*corev1.PersistentVolume](s, "", "v")
				v.Status.Phase = corev1.VolumeReleased
				fakeapi.Put(s, v)
			}},
		"class nobody uses": {object: class},
		"class of a claim": {object: class, others: []runtime.Object{&corev1.PersistentVolumeClaim{ObjectMeta: live, Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &gold}}}, held: true,
			release: func(s *fakeapi.Server) {
				c := fakeapi.Get[*corev1.PersistentVolumeClaim](s, "ns", "other")
				c.Spec.VolumeAttributesClassName = nil
				fakeapi.Put(s, c)
			}},
		"class a claim is given": {object: class, others: []runtime.Object{&corev1.PersistentVolumeClaim{ObjectMeta: live,
			Status: corev1.PersistentVolumeClaimStatus{ModifyVolumeStatus: &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: gold}}}}, held: true,
			release: func(s *fakeapi.Server) {
				fakeapi.Drop(s, fakeapi.Get[*corev1.PersistentVolumeClaim](s, "ns", "other"))
			}},
		"class of a volume": {object: class, others: []runtime.Object{&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &gold}}}, held: true,
			release: func(s *fakeapi.Server) { fakeapi.Drop(s, fakeapi.Get[*corev1.PersistentVolume](s, "", "v")) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				for _, o := range tc.others {
					fakeapi.Put(s, o.DeepCopyObject())
				}
				fakeapi.Put(s, tc.object.DeepCopyObject())
				c, err := New(s.Client(), s, zerolog.Nop())
				require.NoError(t, err)
				fakeapi.Start(t, s, c)
				require.Equal(t, tc.held, protected(s, tc.object), "before")
				if tc.release != nil {
					tc.release(s)
					fakeapi.Settle()
					require.False(t, protected(s, tc.object), "after its user went")
				}
			})
		})
	}
}

// TestLivingObjectsAreLeftAlone: a finalizer comes off only in a deletion.
func TestLivingObjectsAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", Finalizers: []string{claimFinalizer}}})
		c, err := New(s.Client(), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		require.Empty(t, s.Writes())
	})
}

// protected reports whether the object is there with the finalizer that this controller
// takes off.
func protected(s *fakeapi.Server, o runtime.Object) bool {
	var finalizers []string
	switch o := o.(type) {
	case *corev1.PersistentVolumeClaim:
		if c := fakeapi.Get[*corev1.PersistentVolumeClaim](s, o.Namespace, o.Name); c != nil {
			finalizers = c.Finalizers
		}
	case *corev1.PersistentVolume:
		if v := fakeapi.Get[*corev1.PersistentVolume](s, "", o.Name); v != nil {
			finalizers = v.Finalizers
		}
	case *storagev1.VolumeAttributesClass:
		if c := fakeapi.Get[*storagev1.VolumeAttributesClass](s, "", o.Name); c != nil {
			finalizers = c.Finalizers
		}
	}
	for _, f := range finalizers {
		if f == claimFinalizer || f == volumeFinalizer || f == classFinalizer {
			return true
		}
	}
	return false
}
