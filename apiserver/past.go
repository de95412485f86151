package apiserver

import (
	"context"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// readVerbs are what can be done to the past.
var readVerbs = []string{"get", "list", "watch"}

const pastReason = "this is the past, which can only be read"

// readOnlyInPast answers access reviews: in the past, nobody may write, and reading is
// today's permission (invariant 9).
type readOnlyInPast struct {
	authorizer.UnconditionalAuthorizer
}

// Authorize implements authorizer.UnconditionalAuthorizer.
func (r readOnlyInPast) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if view.PastOf(ctx) != nil && !readable(a) {
		return authorizer.DecisionDeny, pastReason, nil
	}
	return r.UnconditionalAuthorizer.Authorize(ctx, a)
}

// readable tells what there is to be read of the past: objects, but not what was
// streamed from nodes.
func readable(a authorizer.Attributes) bool {
	if !slices.Contains(readVerbs, a.GetVerb()) {
		return false
	}
	switch a.GetSubresource() {
	case "log", "exec", "attach", "portforward", "proxy":
		return false
	default:
		return true
	}
}

// readRulesInPast is the same for reviews of rules.
type readRulesInPast struct{ authorizer.RuleResolver }

// RulesFor implements authorizer.RuleResolver.
func (r readRulesInPast) RulesFor(ctx context.Context, who user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, others, incomplete, err := r.RuleResolver.RulesFor(ctx, who, namespace)
	if view.PastOf(ctx) == nil {
		return rules, others, incomplete, err
	}
	var kept []authorizer.ResourceRuleInfo
	for _, rule := range rules {
		if verbs := readVerbsOf(rule.GetVerbs()); len(verbs) > 0 {
			kept = append(kept, &authorizer.DefaultResourceRuleInfo{
				Verbs: verbs, APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
			})
		}
	}
	return kept, others, incomplete, err
}

// readVerbsOf keeps the verbs that read.
func readVerbsOf(verbs []string) []string {
	if slices.Contains(verbs, "*") {
		return readVerbs
	}
	var kept []string
	for _, verb := range verbs {
		if slices.Contains(readVerbs, verb) {
			kept = append(kept, verb)
		}
	}
	return kept
}
