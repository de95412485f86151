// Package aggregation fills ClusterRoles that are the sum of others: admin, edit and
// view, and those that operators bring along.
package aggregation

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "clusterrole-aggregation"
	workers = 2
)

type reconciler struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
}

// New returns the controller. It reads ClusterRoles; it owns the rules of those with an
// aggregationRule.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	informer := source.For(rbacv1.SchemeGroupVersion.WithResource("clusterroles"), &rbacv1.ClusterRole{})
	r := &reconciler{client: client, roles: rbaclisters.NewClusterRoleLister(informer.GetIndexer())}
	c := engine.NewController(r, workers, log)
	return c, c.Watch(informer, r.keysOf)
}

func (r *reconciler) Name() string { return name }

// keysOf names the aggregated roles that a changed role is part of, before or after the
// change, and the role itself if it is aggregated.
func (r *reconciler) keysOf(old, obj any) []string {
	all, err := r.roles.List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []string
	for _, role := range all {
		if role.AggregationRule == nil {
			continue
		}
		for _, changed := range []any{old, obj} {
			part, ok := changed.(*rbacv1.ClusterRole)
			if ok && (part.Name == role.Name || selects(role, part)) && !slices.Contains(keys, role.Name) {
				keys = append(keys, role.Name)
			}
		}
	}
	return keys
}

func selects(sum, part *rbacv1.ClusterRole) bool {
	for i := range sum.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&sum.AggregationRule.ClusterRoleSelectors[i])
		if err == nil && selector.Matches(labels.Set(part.Labels)) {
			return true
		}
	}
	return false
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	sum, err := r.roles.Get(key)
	if apierrors.IsNotFound(err) || (err == nil && sum.AggregationRule == nil) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := r.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	rules := rulesOf(sum, all)
	if equality.Semantic.DeepEqual(sum.Rules, rules) {
		return nil
	}
	update := sum.DeepCopy()
	update.Rules = rules
	_, err = r.client.RbacV1().ClusterRoles().Update(ctx, update, metav1.UpdateOptions{})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // on a conflict the newer version's event comes and wakes us
	}
	return fmt.Errorf("aggregate %s: %w", key, err)
}

// rulesOf is the union of the rules of all selected roles, in the order of their names,
// each rule once.
func rulesOf(sum *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) []rbacv1.PolicyRule {
	parts := slices.Clone(all)
	slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for _, part := range parts {
		if part.Name == sum.Name || !selects(sum, part) {
			continue
		}
		for _, rule := range part.Rules {
			if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
				rules = append(rules, rule)
			}
		}
	}
	return rules
}
