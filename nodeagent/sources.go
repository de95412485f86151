package nodeagent

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/podwork"
)

// Network gives pods their network namespaces and addresses.
type Network = podwork.Network

// PodNetwork is a pod's network on this node.
type PodNetwork = podwork.PodNetwork

// PodRef names a pod to the network.
type PodRef = podwork.PodRef

// PodSource tells which pods are bound to a node.
type PodSource interface {
	// Run tells the sink first all pods of the node, then every change in the
	// order of revisions, until ctx ends. After a gap that it can not fill it
	// tells all pods again. Run is called anew after an error.
	Run(ctx context.Context, node string, sink PodSink) error
}

// PodSink takes in the pods of a node. Its methods do not block. Objects must
// not be changed after they were told.
type PodSink interface {
	// Replace tells all pods of the node as of a revision; others are gone.
	Replace(pods []*corev1.Pod, rev int64)
	// Upsert tells a new pod, or a new version of one.
	Upsert(pod *corev1.Pod, rev int64)
	// Remove tells that a pod was deleted or left the node.
	Remove(pod *corev1.Pod, rev int64)
}

// ObjectRef names a ConfigMap, Secret, ClusterTrustBundle or PodCertificateRequest.
type ObjectRef struct {
	Kind      string // ConfigMap, Secret, ClusterTrustBundle or PodCertificateRequest
	Namespace string
	Name      string
}

// ObjectChanges tells which ConfigMaps, Secrets, ClusterTrustBundles and PodCertificateRequests changed. It carries no
// values: the agent reads what its pods use over the API.
type ObjectChanges interface {
	// Run calls changed for each change until ctx ends, and missed when changes
	// may have been missed, which includes the moment it begins to listen. Run
	// is called anew after an error.
	Run(ctx context.Context, changed func(ObjectRef), missed func()) error
}
