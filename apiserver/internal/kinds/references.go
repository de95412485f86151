package kinds

import (
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/json"
)

// referring are the parts of a stored pod in which references may be. Decoding only these
// takes a third of the time.
type referring struct {
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         types.UID         `json:"uid"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		NodeName            string                        `json:"nodeName"`
		ServiceAccountName  string                        `json:"serviceAccountName"`
		ImagePullSecrets    []corev1.LocalObjectReference `json:"imagePullSecrets"`
		Volumes             []corev1.Volume               `json:"volumes"`
		InitContainers      []referringContainer          `json:"initContainers"`
		Containers          []referringContainer          `json:"containers"`
		EphemeralContainers []referringContainer          `json:"ephemeralContainers"`
		ResourceClaims      []corev1.PodResourceClaim     `json:"resourceClaims"`
	} `json:"spec"`
	Status struct {
		ResourceClaimStatuses       []corev1.PodResourceClaimStatus        `json:"resourceClaimStatuses"`
		ExtendedResourceClaimStatus *corev1.PodExtendedResourceClaimStatus `json:"extendedResourceClaimStatus"`
	} `json:"status"`
}

// referringContainer is what containers of all kinds refer by.
type referringContainer struct {
	EnvFrom []corev1.EnvFromSource `json:"envFrom"`
	Env     []corev1.EnvVar        `json:"env"`
}

// StoredPodReferences is PodReferences of a pod as it is stored.
func StoredPodReferences(object []byte) (*corev1.Pod, error) {
	var r referring
	if err := json.UnmarshalCaseSensitivePreserveInts(object, &r); err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace, pod.UID, pod.Annotations = r.Metadata.Name, r.Metadata.Namespace, r.Metadata.UID, r.Metadata.Annotations
	pod.Spec = corev1.PodSpec{
		NodeName: r.Spec.NodeName, ServiceAccountName: r.Spec.ServiceAccountName, ImagePullSecrets: r.Spec.ImagePullSecrets,
		Volumes: r.Spec.Volumes, ResourceClaims: r.Spec.ResourceClaims,
	}
	for _, c := range r.Spec.InitContainers {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{EnvFrom: c.EnvFrom, Env: c.Env})
	}
	for _, c := range r.Spec.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{EnvFrom: c.EnvFrom, Env: c.Env})
	}
	for _, c := range r.Spec.EphemeralContainers {
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{EnvFrom: c.EnvFrom, Env: c.Env}})
	}
	pod.Status.ResourceClaimStatuses, pod.Status.ExtendedResourceClaimStatus = r.Status.ResourceClaimStatuses, r.Status.ExtendedResourceClaimStatus
	return PodReferences(pod), nil
}

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
