package apiserver

import (
	"context"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/rutter-project/rutter/apiserver/internal/customresources"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// readVerbs are what can be done to the past.
var readVerbs = []string{"get", "list", "watch"}

const pastReason = "this is the past, which can only be read: writes are tried in a dry run at most"

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

// thens are servers of custom resources as they were defined in the past.
type thens struct {
	config  customresources.Config
	prefix  string // of definitions in etcd
	present *view.Table

	mu   sync.Mutex
	made map[string]custom // by the mark of their definitions; guarded by mu
}

// maxThens bounds how many sets of definitions of the past are kept ready.
const maxThens = 8

// at serves the custom resources that were defined in the past which a request reads.
// The mark is empty if these are the present's, which now serves.
func (t *thens) at(ctx context.Context, now serve.Custom) (serve.Custom, string) {
	table := view.PastOf(ctx).Table(strings.TrimSuffix(t.prefix, "/"))
	mark := customresources.Mark(table, t.prefix)
	if mark == customresources.Mark(t.present, t.prefix) {
		return now, ""
	}
	if mark == "" {
		mark = "none"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	server, ok := t.made[mark]
	if !ok {
		config := t.config
		config.Source = customresources.Then(table, t.prefix)
		server = custom{customresources.New(config)}
		if len(t.made) >= maxThens {
			clear(t.made)
		}
		t.made[mark] = server
	}
	return server, mark
}
