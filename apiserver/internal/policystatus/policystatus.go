// Package policystatus checks the types of ValidatingAdmissionPolicies' expressions
// against the kinds they match and writes what it found into their status, which is how
// users learn that an expression can never work.
package policystatus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	applyadmission "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	informers "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"
)

// Manager is the field manager of statuses; it is upstream's controller's.
const Manager = "validatingadmissionpolicy-status"

// retryAfter is how long a policy rests whose status could not be written.
const retryAfter = 5 * time.Second

// Checker finds expressions that can't work.
type Checker interface {
	Check(policy *admissionregistration.ValidatingAdmissionPolicy) []admissionregistration.ExpressionWarning
}

var _ Checker = (*validating.TypeChecker)(nil)

// Controller writes the status of policies. Make it with New, run it once with Run.
type Controller struct {
	client   kubernetes.Interface
	policies listers.ValidatingAdmissionPolicyLister
	checker  Checker

	mu      sync.Mutex
	pending map[string]bool // names to look at; guarded by mu
	wake    chan struct{}   // has room for one: there is something pending
}

// New returns a controller fed by the informer, which must not have been started yet.
func New(client kubernetes.Interface, policies informers.ValidatingAdmissionPolicyInformer, checker Checker) (*Controller, error) {
	c := &Controller{client: client, policies: policies.Lister(), checker: checker, pending: map[string]bool{}, wake: make(chan struct{}, 1)}
	see := func(obj any) {
		if p, ok := obj.(*admissionregistration.ValidatingAdmissionPolicy); ok && outdated(p) {
			c.add(p.Name)
		}
	}
	_, err := policies.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }})
	if err != nil {
		return nil, fmt.Errorf("follow policies: %w", err)
	}
	return c, nil
}

// outdated tells that the status is not of the present generation.
func outdated(p *admissionregistration.ValidatingAdmissionPolicy) bool {
	return p.Generation > p.Status.ObservedGeneration
}

func (c *Controller) add(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		c.pending[name] = true
	}
	if len(c.pending) == 0 {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Controller) take() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.pending
	c.pending = map[string]bool{}
	return taken
}

// Run works until the context ends. A status that can't be written is tried again: the
// API says so when it can't, and what is left to do shows in the policy itself.
func (c *Controller) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	<-retry.C
	defer retry.Stop()
	var failed []string
	for {
		select {
		case <-c.wake:
		case <-retry.C:
			c.add(failed...)
			failed = nil
			continue
		case <-ctx.Done():
			return nil
		}
		for name := range c.take() {
			if err := c.sync(ctx, name); err != nil {
				failed = append(failed, name)
				retry.Reset(retryAfter)
			}
		}
	}
}

// sync brings one policy's status up to date.
func (c *Controller) sync(ctx context.Context, name string) error {
	policy, err := c.policies.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || !outdated(policy) {
		return err
	}
	checked := applyadmission.TypeChecking()
	for _, w := range c.checker.Check(policy) {
		checked.WithExpressionWarnings(applyadmission.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	status := applyadmission.ValidatingAdmissionPolicyStatus().WithObservedGeneration(policy.Generation).WithTypeChecking(checked)
	_, err = c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx,
		applyadmission.ValidatingAdmissionPolicy(name).WithStatus(status), metav1.ApplyOptions{FieldManager: Manager, Force: true})
	if apierrors.IsNotFound(err) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
