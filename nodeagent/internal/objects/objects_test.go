package objects

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestObjectsAreReadOnceUntilTheyChange(t *testing.T) {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm"}, Data: map[string]string{"k": "1"}}
	client := fake.NewClientset(cm)
	s := New(client, true)
	get := func(uid types.UID) string {
		got, found, err := s.For(uid).ConfigMap(t.Context(), "ns", "cm")
		require.NoError(t, err)
		if !found {
			return "none"
		}
		return got.Data["k"]
	}
	require.Equal(t, "1", get("a"))
	require.Equal(t, "1", get("b"))
	require.Len(t, client.Actions(), 1)
	cm.Data["k"] = "2"
	require.NoError(t, client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), cm, "ns"))
	require.ElementsMatch(t, []types.UID{"a", "b"}, s.Changed(Key{"ConfigMap", "ns", "cm"}))
	require.Equal(t, "2", get("a"))
	require.Empty(t, s.Changed(Key{"ConfigMap", "ns", "other"}))
	require.ElementsMatch(t, []types.UID{"a", "b"}, s.ChangedAll())
	s.Forget("a")
	require.Equal(t, []types.UID{"b"}, s.Changed(Key{"ConfigMap", "ns", "cm"}))
	s.Forget("b")
	require.Empty(t, s.entries)
	_, found, err := s.For("a").Secret(t.Context(), "ns", "absent")
	require.NoError(t, err)
	require.False(t, found)
}

func TestForbiddenIsTriedAgain(t *testing.T) {
	client := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}})
	left := 3
	client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		if left--; left > 0 {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{}, "s", nil)
		}
		return false, nil, nil
	})
	_, found, err := New(client, true).For("a").Secret(t.Context(), "ns", "s")
	require.NoError(t, err)
	require.True(t, found)
	left = 100
	_, _, err = New(client, true).For("a").Secret(t.Context(), "ns", "s")
	require.True(t, apierrors.IsForbidden(err))
}

func TestTokensAreKeptUntilTheyMustBeReplaced(t *testing.T) {
	client := fake.NewClientset()
	issued := 0
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		issued++
		r := a.(clienttesting.CreateAction).GetObject().(*authnv1.TokenRequest)
		require.Equal(t, types.UID("u"), r.Spec.BoundObjectRef.UID)
		r.Status = authnv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
		return true, r, nil
	})
	src := New(client, true).For("u")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "sa"}}
	for range 3 {
		_, refresh, err := src.Token(t.Context(), pod, "", time.Hour)
		require.NoError(t, err)
		require.InDelta(t, 47*time.Minute, time.Until(refresh), float64(3*time.Minute))
	}
	require.Equal(t, 1, issued)
	_, _, err := src.Token(t.Context(), pod, "vault", time.Hour)
	require.NoError(t, err)
	require.Equal(t, 2, issued)
}
