package kinds

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/storage/ephemeral"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/node"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// referred is what upstream finds in a pod, by resource.
func referred(pod *corev1.Pod) map[string][]string {
	names := map[string][]string{}
	podutil.VisitPodSecretNames(pod, func(name string) bool { names["secrets"] = append(names["secrets"], name); return true })
	podutil.VisitPodConfigmapNames(pod, func(name string) bool { names["configmaps"] = append(names["configmaps"], name); return true })
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName != "":
			names["persistentvolumeclaims"] = append(names["persistentvolumeclaims"], v.PersistentVolumeClaim.ClaimName)
		case v.PersistentVolumeClaim == nil && v.Ephemeral != nil:
			names["persistentvolumeclaims"] = append(names["persistentvolumeclaims"], ephemeral.VolumeClaimName(pod, v))
		}
	}
	return names
}

func TestPodReferencesAreAllThatTheNodeAuthorizerReads(t *testing.T) {
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), Codecs())
	var found int
	for n := range 200 {
		pod := &corev1.Pod{}
		fill.Fill(pod)
		pod.Name, pod.Namespace, pod.Spec.NodeName = fmt.Sprintf("pod-%d", n), "default", "node-1"
		delete(pod.Annotations, corev1.MirrorPodAnnotationKey)
		brief := PodReferences(pod)
		want, got := referred(pod), referred(brief)
		require.Equal(t, want, got)
		require.Equal(t, pod.UID, brief.UID)
		require.Len(t, brief.Spec.EphemeralContainers, len(pod.Spec.EphemeralContainers))
		require.Equal(t, pod.Spec.ResourceClaims, brief.Spec.ResourceClaims)
		require.Equal(t, pod.Status.ResourceClaimStatuses, brief.Status.ResourceClaimStatuses)
		require.Equal(t, pod.Status.ExtendedResourceClaimStatus, brief.Status.ExtendedResourceClaimStatus)
		stored, err := json.Marshal(pod)
		require.NoError(t, err)
		fromStored, err := StoredPodReferences(stored)
		require.NoError(t, err)
		fromStored.ResourceVersion = brief.ResourceVersion
		require.True(t, equality.Semantic.DeepEqual(brief, fromStored), "%v is not %v", fromStored, brief)
		short, err := json.Marshal(brief)
		require.NoError(t, err)
		require.Less(t, len(short), len(stored))
		if account := pod.Spec.ServiceAccountName; account != "" {
			want["serviceaccounts"] = []string{account}
		}
		graph := node.NewGraph()
		graph.AddPod(brief)
		may := node.NewAuthorizer(graph, nodeidentifier.NewDefaultNodeIdentifier(), bootstrappolicy.NodeRules())
		for resource, names := range want {
			for _, name := range names {
				found++
				require.True(t, mayGet(t, may, resource, name), "%s %q of seed 1, pod %d", resource, name, n)
			}
			require.False(t, mayGet(t, may, resource, "some-other"))
		}
	}
	require.Greater(t, found, 200, "the pods must refer to something")
}

func mayGet(t *testing.T, may authorizer.Authorizer, resource, name string) bool {
	t.Helper()
	attributes := authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "system:node:node-1", Groups: []string{user.NodesGroup}}, ResourceRequest: true,
		Verb: "get", APIVersion: "v1", Resource: resource, Namespace: "default", Name: name,
	}
	if resource == "serviceaccounts" {
		attributes.Verb, attributes.Subresource = "create", "token"
	}
	decision, _, err := may.Authorize(t.Context(), attributes)
	require.NoError(t, err)
	return decision == authorizer.DecisionAllow
}

func TestPodReferencesOfMirrorPods(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "node-1", ServiceAccountName: "default"}}
	pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash", "other": "thing"}
	require.Equal(t, map[string]string{corev1.MirrorPodAnnotationKey: "hash"}, PodReferences(pod).Annotations)
}
