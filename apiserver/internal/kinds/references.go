package kinds

import (
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// PodReferences is a pod with nothing but what the Node authorizer's graph reads of it: on
// which node it is and to what it refers. Names are found by the visitors that the graph
// uses, and are put where they take the least room; a third of a kilobyte stands for
// what decodes to ten.
func PodReferences(pod *corev1.Pod) *corev1.Pod {
	r := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: pod.Name, Namespace: shared(pod.Namespace), UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}}
	if pod.Spec.NodeName == "" {
		return r // the graph has no use for it yet
	}
	if kind, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		r.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: kind}
	}
	r.Spec.NodeName, r.Spec.ServiceAccountName = shared(pod.Spec.NodeName), shared(pod.Spec.ServiceAccountName)
	podutil.VisitPodSecretNames(pod, func(name string) bool {
		r.Spec.ImagePullSecrets = append(r.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: shared(name)})
		return true
	})
	r.Spec.Volumes = volumesReferred(pod)
	if n := len(pod.Spec.EphemeralContainers); n > 0 {
		r.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, n) // they are counted
	}
	r.Spec.ResourceClaims = pod.Spec.ResourceClaims
	r.Status.ResourceClaimStatuses, r.Status.ExtendedResourceClaimStatus = pod.Status.ResourceClaimStatuses, pod.Status.ExtendedResourceClaimStatus
	return r
}

// volumesReferred are the volumes that name claims, and one for all ConfigMaps.
func volumesReferred(pod *corev1.Pod) []corev1.Volume {
	var volumes []corev1.Volume
	var all corev1.ProjectedVolumeSource
	podutil.VisitPodConfigmapNames(pod, func(name string) bool {
		all.Sources = append(all.Sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: shared(name)}}})
		return true
	})
	if len(all.Sources) > 0 {
		volumes = append(volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &all}})
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			volumes = append(volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: v.PersistentVolumeClaim}})
		case v.Ephemeral != nil: // the claim is named after pod and volume
			volumes = append(volumes, corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}})
		}
	}
	return volumes
}

// shared is one copy of a name that many pods have.
func shared(name string) string { return unique.Make(name).Value() }
