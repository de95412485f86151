package engine

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Events records Kubernetes Events about objects, which `kubectl describe` shows. Repeated
// ones are counted, and floods about one object are cut off, by client-go's recorder. Its
// methods never block; an Event that can't be written is lost.
type Events struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// Events returns what records in the controller's name, as upstream's controllers are
// called: "replicaset-controller". It ends with Run.
func (c *Controller) Events(client kubernetes.Interface, component string) *Events {
	b := record.NewBroadcaster(record.WithContext(context.Background())) // ended by Run
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events(metav1.NamespaceAll)})
	e := &Events{b, b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})}
	c.events = append(c.events, e)
	return e
}

// Normal records that something was done for an object.
func (e *Events) Normal(kind schema.GroupVersionKind, o metav1.Object, reason, format string, args ...any) {
	e.recorder.Event(reference(kind, o), corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...))
}

// Warning records that something could not be done for an object.
func (e *Events) Warning(kind schema.GroupVersionKind, o metav1.Object, reason, format string, args ...any) {
	e.recorder.Event(reference(kind, o), corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...))
}

func reference(kind schema.GroupVersionKind, o metav1.Object) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: kind.GroupVersion().String(), Kind: kind.Kind,
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
	}
}
