package kinds

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"
)

// rulesOfToday says what whoever writes roles and bindings may do himself: today, also
// in a dry run on the past. The roles that are written and referred to are those of then.
type rulesOfToday struct {
	rbacvalidation.AuthorizationRuleResolver
	present func(context.Context) context.Context
}

// RulesFor implements rbacvalidation.AuthorizationRuleResolver.
func (r rulesOfToday) RulesFor(ctx context.Context, who user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	return r.AuthorizationRuleResolver.RulesFor(r.present(ctx), who, namespace)
}
