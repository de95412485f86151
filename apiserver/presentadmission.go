package apiserver

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// presentAdmission asks admission plugins and webhooks about writes of the present only.
// They judge by what there is today; a dry run on the past asks whether its namespace was
// there.
type presentAdmission struct{ next admission.Interface }

var (
	_ admission.MutationInterface   = presentAdmission{}
	_ admission.ValidationInterface = presentAdmission{}
)

// Handles implements admission.Interface.
func (p presentAdmission) Handles(op admission.Operation) bool {
	return op == admission.Create || p.next.Handles(op)
}

// Admit implements admission.MutationInterface.
func (p presentAdmission) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if past := view.PastOf(ctx); past != nil {
		return admitNamespace(past, a)
	}
	if next, ok := p.next.(admission.MutationInterface); ok && p.next.Handles(a.GetOperation()) {
		return next.Admit(ctx, a, o)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (p presentAdmission) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if view.PastOf(ctx) != nil {
		return nil
	}
	if next, ok := p.next.(admission.ValidationInterface); ok && p.next.Handles(a.GetOperation()) {
		return next.Validate(ctx, a, o)
	}
	return nil
}

var namespaces = schema.GroupResource{Resource: "namespaces"}

// admitNamespace refuses new objects in a namespace that was not there, or was going.
func admitNamespace(past *view.Reader, a admission.Attributes) error {
	name := a.GetNamespace()
	if a.GetOperation() != admission.Create || name == "" || a.GetResource().GroupResource() == namespaces {
		return nil
	}
	prefix := prefixOf(namespaces)
	item, ok := past.Table(prefix).Get(prefix + "/" + name)
	if !ok {
		return apierrors.NewNotFound(namespaces, name)
	}
	namespace := &corev1.Namespace{}
	if err := json.Unmarshal(item.Object, namespace); err != nil {
		return fmt.Errorf("namespace %s at revision %d: %w", name, past.Rev, err)
	}
	if namespace.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	err := apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(),
		fmt.Errorf("namespace %s was being terminated at that instant, and took no new content", name))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s was being terminated", name), Field: "metadata.namespace"})
	return err
}
