package podstatus

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Patch returns the strategic merge patch that turns one status into another
// and applies only to the pod of this uid; nil when they are equal. A patch,
// and not an update, leaves conditions of others alone.
func Patch(uid types.UID, from, to corev1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Pod{Status: from})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	after, err := json.Marshal(corev1.Pod{Status: to})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compare status: %w", err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var merged map[string]any
	if err := json.Unmarshal(patch, &merged); err != nil {
		return nil, fmt.Errorf("decode patch: %w", err)
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": merged["status"]})
}
