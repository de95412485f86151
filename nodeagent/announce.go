package nodeagent

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
)

// announcer records Kubernetes Events of pods. Repeated ones are counted, and
// floods are cut off, by client-go's recorder.
type announcer struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

func newAnnouncer(ctx context.Context, client kubernetes.Interface, node string) *announcer {
	b := record.NewBroadcaster(record.WithContext(context.WithoutCancel(ctx))) // ended by stop, after the last worker
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return &announcer{b, b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node})}
}

func (a *announcer) stop() { a.broadcaster.Shutdown() }

// pod records an event of a pod, or of one of its containers.
func (a *announcer) pod(pod *corev1.Pod, container string, ev podstate.Announce) {
	ref := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = "spec.containers{" + container + "}"
		for i := range pod.Spec.InitContainers {
			if pod.Spec.InitContainers[i].Name == container {
				ref.FieldPath = "spec.initContainers{" + container + "}"
			}
		}
	}
	kind := corev1.EventTypeNormal
	if ev.Warning {
		kind = corev1.EventTypeWarning
	}
	a.recorder.Event(ref, kind, ev.Reason, ev.Message)
}
