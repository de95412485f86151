package pods

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// byNode is the index that IndexByNode adds.
const byNode = "node"

// IndexByNode adds an index of pods by the node they are bound to. It may be called for
// one informer by several controllers, before the informer starts.
func IndexByNode(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[byNode]; ok {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName != "" {
			return []string{p.Spec.NodeName}, nil
		}
		return nil, nil
	}})
}

// OnNode returns the pods bound to a node, from an informer given to IndexByNode.
func OnNode(indexer cache.Indexer, node string) []*corev1.Pod {
	return engine.Owned[*corev1.Pod](indexer, byNode, node)
}
