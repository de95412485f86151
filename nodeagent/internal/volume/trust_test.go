package volume

import (
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/env"
)

func anchor(name string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)}))
}

func bundle(name, signer string, labels map[string]string, certificates ...string) certificatesv1.ClusterTrustBundle {
	return certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: strings.Join(certificates, "")}}
}

func TestTrustBundles(t *testing.T) {
	src := fakeSource{bundles: []certificatesv1.ClusterTrustBundle{
		bundle("plain", "", nil, "a comment\n"+anchor("b"), anchor("a")),
		bundle("s:1", "x.test/s", map[string]string{"live": "yes"}, anchor("a")),
		bundle("s:2", "x.test/s", map[string]string{"live": "yes"}, anchor("c"), anchor("a")),
		bundle("s:3", "x.test/s", map[string]string{"live": "no"}, anchor("d")),
		bundle("t:1", "x.test/t", map[string]string{"live": "yes"}, anchor("e")),
	}}
	name := func(n string) *string { return &n }
	live := &metav1.LabelSelector{MatchLabels: map[string]string{"live": "yes"}}
	yes := true
	for title, tc := range map[string]struct {
		p    corev1.ClusterTrustBundleProjection
		want string
		err  error
	}{
		"by name, in order, without comments":      {corev1.ClusterTrustBundleProjection{Name: name("plain")}, anchor("a") + anchor("b"), nil},
		"by signer and labels, each once":          {corev1.ClusterTrustBundleProjection{SignerName: name("x.test/s"), LabelSelector: live}, anchor("a") + anchor("c"), nil},
		"an empty selector is everything":          {corev1.ClusterTrustBundleProjection{SignerName: name("x.test/s"), LabelSelector: &metav1.LabelSelector{}}, anchor("a") + anchor("c") + anchor("d"), nil},
		"no selector is nothing":                   {corev1.ClusterTrustBundleProjection{SignerName: name("x.test/s")}, "", env.ErrMissing},
		"nothing, and that is well":                {corev1.ClusterTrustBundleProjection{SignerName: name("x.test/s"), Optional: &yes}, "", nil},
		"a name that is not there":                 {corev1.ClusterTrustBundleProjection{Name: name("no")}, "", env.ErrMissing},
		"a name that is not there but need not be": {corev1.ClusterTrustBundleProjection{Name: name("no"), Optional: &yes}, "", nil},
	} {
		t.Run(title, func(t *testing.T) {
			tc.p.Path = "anchors.pem"
			v := &corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &tc.p}}}}}
			got, ok, err := payload(t.Context(), src, &corev1.Pod{}, env.Facts{}, v)
			require.True(t, ok)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, string(got.files["anchors.pem"].Data))
			require.EqualValues(t, 0o644, got.files["anchors.pem"].Mode)
		})
	}
	failing := fakeSource{err: errors.New("away")}
	v := &corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: name("plain"), Path: "p"}}}}}}
	_, _, err := payload(t.Context(), failing, &corev1.Pod{}, env.Facts{}, v)
	require.ErrorContains(t, err, "away")
}

func FuzzAnchors(f *testing.F) {
	f.Add(anchor("a"), "junk "+anchor("b"))
	f.Fuzz(func(t *testing.T, a, b string) {
		joined := anchors([]string{a, b})
		require.Equal(t, joined, anchors([]string{b, a}), "the order of bundles does not matter")
		require.Equal(t, joined, anchors([]string{string(joined)}), "joining again changes nothing")
	})
}
