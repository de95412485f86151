package nodestatus

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Report is all that a node's status is made from.
type Report struct {
	Name        string
	Machine     Machine
	Capacity    corev1.ResourceList
	Allocatable corev1.ResourceList
	Addresses   []netip.Addr
	Pressure    Pressure
	Unready     string // why the node can not run pods; empty when it can
	Images      []corev1.ContainerImage
	Port        int32 // of the node's API
}

// maxImages bounds how many images a status names.
const maxImages = 50

// Apply writes the report into a status and reports whether it differs from
// what was there. Conditions of others stay.
func Apply(s *corev1.NodeStatus, r Report, now time.Time) (changed bool) {
	before := s.DeepCopy()
	s.Capacity, s.Allocatable = r.Capacity, r.Allocatable
	s.NodeInfo = r.Machine.Info
	s.DaemonEndpoints.KubeletEndpoint.Port = r.Port
	s.Addresses = nil
	for _, a := range r.Addresses {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.Name})
	images := slices.Clone(r.Images)
	slices.SortStableFunc(images, func(a, b corev1.ContainerImage) int { return int(min(max(b.SizeBytes-a.SizeBytes, -1), 1)) })
	s.Images = images[:min(len(images), maxImages)]
	condition(s, corev1.NodeMemoryPressure, r.Pressure.Memory, [2]string{"NodeHasSufficientMemory", "NodeHasInsufficientMemory"}, "memory available", now)
	condition(s, corev1.NodeDiskPressure, r.Pressure.Disk, [2]string{"NodeHasNoDiskPressure", "NodeHasDiskPressure"}, "disk space", now)
	condition(s, corev1.NodePIDPressure, r.Pressure.PIDs, [2]string{"NodeHasSufficientPID", "NodeHasInsufficientPID"}, "process ids", now)
	message := r.Unready
	if message == "" {
		message = "node agent is posting ready status"
	}
	condition(s, corev1.NodeReady, r.Unready == "", [2]string{"NodeNotReady", "NodeReady"}, message, now)
	if apiequality.Semantic.DeepEqual(before, s) {
		return false
	}
	for i := range s.Conditions {
		switch s.Conditions[i].Type {
		case corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady:
			s.Conditions[i].LastHeartbeatTime = metav1.NewTime(now)
		default: // not ours
		}
	}
	return true
}

func condition(s *corev1.NodeStatus, kind corev1.NodeConditionType, ok bool, reasons [2]string, message string, now time.Time) {
	status, reason := corev1.ConditionFalse, reasons[0]
	if ok {
		status, reason = corev1.ConditionTrue, reasons[1]
	}
	next := corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message,
		LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now)}
	i := slices.IndexFunc(s.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
	if i < 0 {
		s.Conditions = append(s.Conditions, next)
		return
	}
	old := s.Conditions[i]
	next.LastHeartbeatTime = old.LastHeartbeatTime
	if old.Status == status {
		next.LastTransitionTime = old.LastTransitionTime
	}
	s.Conditions[i] = next
}
