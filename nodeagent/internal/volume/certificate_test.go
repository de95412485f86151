package volume

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/env"
)

func TestCertificate(t *testing.T) {
	group := int64(9)
	source := func(p corev1.PodCertificateProjection) *corev1.Volume {
		// The second source, so that the place in the volume matters.
		return &corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}, {PodCertificate: &p}}}}}
	}
	src := fakeSource{
		maps:         map[string]*corev1.ConfigMap{"cm": {}},
		certificates: map[string]Certificate{"tls/1": {Key: []byte("key\n"), Chain: []byte("chain\n"), Refresh: refresh, Stale: errors.New("denied")}},
	}
	for name, tc := range map[string]struct {
		p     corev1.PodCertificateProjection
		group *int64
		want  Payload
		err   error
	}{
		"bundle":   {corev1.PodCertificateProjection{CredentialBundlePath: "both.pem"}, nil, Payload{"both.pem": {Data: []byte("key\nchain\n"), Mode: 0o644}}, nil},
		"files":    {corev1.PodCertificateProjection{KeyPath: "k", CertificateChainPath: "dir/c"}, nil, Payload{"k": {Data: []byte("key\n"), Mode: 0o644}, "dir/c": {Data: []byte("chain\n"), Mode: 0o644}}, nil},
		"fs group": {corev1.PodCertificateProjection{KeyPath: "k"}, &group, Payload{"k": {Data: []byte("key\n"), Mode: 0o600}}, nil},
		"outside":  {corev1.PodCertificateProjection{KeyPath: "../k"}, nil, nil, errPath},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{FSGroup: tc.group}}}
			c, ok, err := payload(t.Context(), src, pod, env.Facts{}, source(tc.p))
			require.True(t, ok)
			require.ErrorIs(t, err, tc.err)
			if tc.err != nil {
				return
			}
			require.Equal(t, tc.want, c.files)
			require.Equal(t, refresh, c.refresh)
			require.ErrorContains(t, errors.Join(c.stale...), "not renewed: denied")
		})
	}
	away := errors.New("away")
	_, _, err := payload(t.Context(), fakeSource{err: away}, &corev1.Pod{}, env.Facts{}, &corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{KeyPath: "k"}}}}}})
	require.ErrorIs(t, err, away)
}
