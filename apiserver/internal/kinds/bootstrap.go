package kinds

import (
	"context"
	"errors"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowcontrolbootstrap "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	systemclasses "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// EnsurePolicy creates the RBAC bootstrap policy or adds what is missing from it;
// objects marked with autoupdate=false stay as they are.
func EnsurePolicy(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	ensure := func(what string, run func() error) {
		if ctx.Err() != nil {
			return
		}
		if err := retry.RetryOnConflict(retry.DefaultBackoff, run); err != nil {
			errs = append(errs, fmt.Errorf("bootstrap policy %s: %w", what, err))
		}
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		ensure("clusterrole "+r.Name, func() error {
			return reconcileRole(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}, reconciliation.ClusterRoleModifier{Client: client.RbacV1().ClusterRoles()})
		})
	}
	for _, r := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		ensure("clusterrolebinding "+r.Name, func() error {
			return reconcileBinding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &r}, reconciliation.ClusterRoleBindingClientAdapter{Client: client.RbacV1().ClusterRoleBindings()})
		})
	}
	for namespace, roles := range bootstrappolicy.NamespaceRoles() {
		for _, r := range roles {
			ensure("role "+namespace+"/"+r.Name, func() error {
				return reconcileRole(reconciliation.RoleRuleOwner{Role: &r}, reconciliation.RoleModifier{Client: client.RbacV1(), NamespaceClient: client.CoreV1().Namespaces()})
			})
		}
	}
	for namespace, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, r := range bindings {
			ensure("rolebinding "+namespace+"/"+r.Name, func() error {
				return reconcileBinding(reconciliation.RoleBindingAdapter{RoleBinding: &r}, reconciliation.RoleBindingClientAdapter{Client: client.RbacV1(), NamespaceClient: client.CoreV1().Namespaces()})
			})
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func reconcileRole(role reconciliation.RuleOwner, client reconciliation.RuleOwnerModifier) error {
	opts := reconciliation.ReconcileRoleOptions{Role: role, Client: client, Confirm: true}
	_, err := opts.Run()
	return err
}

func reconcileBinding(binding reconciliation.RoleBinding, client reconciliation.RoleBindingModifier) error {
	opts := reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Client: client, Confirm: true}
	_, err := opts.Run()
	return err
}

// EnsurePriorityClasses creates the system priority classes.
func EnsurePriorityClasses(ctx context.Context, client kubernetes.Interface) error {
	for _, class := range systemclasses.SystemPriorityClasses() {
		if err := create(ctx, client.SchedulingV1().PriorityClasses().Create, class); err != nil {
			return fmt.Errorf("priority class %s: %w", class.Name, err)
		}
	}
	return nil
}

// EnsureFlowControl creates the flow schemas and priority levels that kube-apiserver
// brings along.
func EnsureFlowControl(ctx context.Context, client kubernetes.Interface) error {
	for _, level := range slices.Concat(flowcontrolbootstrap.MandatoryPriorityLevelConfigurations, flowcontrolbootstrap.SuggestedPriorityLevelConfigurations) {
		if err := create(ctx, client.FlowcontrolV1().PriorityLevelConfigurations().Create, level); err != nil {
			return fmt.Errorf("priority level %s: %w", level.Name, err)
		}
	}
	for _, flow := range slices.Concat(flowcontrolbootstrap.MandatoryFlowSchemas, flowcontrolbootstrap.SuggestedFlowSchemas) {
		if err := create(ctx, client.FlowcontrolV1().FlowSchemas().Create, flow); err != nil {
			return fmt.Errorf("flow schema %s: %w", flow.Name, err)
		}
	}
	return nil
}

func create[T *schedulingv1.PriorityClass | *flowcontrolv1.FlowSchema | *flowcontrolv1.PriorityLevelConfiguration](
	ctx context.Context, do func(context.Context, T, metav1.CreateOptions) (T, error), object T) error {
	_, err := do(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
