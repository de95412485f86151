package kinds

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAdmissionGolden holds the plugins that kube-apiserver 1.37 runs by default, in
// its order, and NodeRestriction. An upgrade of upstream has to look at its own list.
func TestAdmissionGolden(t *testing.T) {
	want := []string{
		"NamespaceLifecycle", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "PodSecurity",
		"Priority", "DefaultTolerationSeconds", "DefaultStorageClass", "StorageObjectInUseProtection",
		"PodGroupProtection", "PersistentVolumeClaimResize", "RuntimeClass", "CertificateApproval", "CertificateSigning",
		"ClusterTrustBundleAttest", "CertificateSubjectRestriction", "DefaultIngressClass", "PodTopologyLabels",
		"NodeDeclaredFeatureValidator", "PodResizeValidator", "MutatingAdmissionPolicy", "MutatingAdmissionWebhook",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook", "ResourceQuota",
	}
	var got []string
	for _, p := range admissionOrder {
		got = append(got, p.name)
	}
	require.Equal(t, want, got)
}

func TestVersionsAreServedOnce(t *testing.T) {
	for gv := range served {
		require.Contains(t, groupOrder, gv)
	}
	require.Len(t, served, len(groupOrder), "a version is served twice")
}
