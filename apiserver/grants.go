package apiserver

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/rutter-project/rutter/schemas"
)

// maxFilters bounds how many subjects one client of the bus is granted. The bus checks
// every one of them for every subscription.
const maxFilters = 1000

// grantedFilters are the subjects that rules let somebody watch: those that hold in the
// whole cluster, and those of each namespace. They are the narrowest that say the same.
func grantedFilters(cluster []authorizer.ResourceRuleInfo, namespaces map[string][]authorizer.ResourceRuleInfo) ([]string, error) {
	filters := ruleFilters(cluster, schemas.AnyToken)
	for namespace, rules := range namespaces {
		filters = append(filters, ruleFilters(rules, namespace)...)
	}
	filters = withoutCovered(filters)
	if len(filters) > maxFilters {
		return nil, fmt.Errorf("may watch %d sets of objects, the bus grants %d at most: bind a ClusterRole to whoever reads in so many namespaces", len(filters), maxFilters)
	}
	return filters, nil
}

// ruleFilters are the subjects of the rules that allow to watch.
func ruleFilters(rules []authorizer.ResourceRuleInfo, namespace string) []string {
	var filters []string
	for _, rule := range rules {
		if !slices.Contains(rule.GetVerbs(), "watch") && !slices.Contains(rule.GetVerbs(), "*") {
			continue
		}
		for _, group := range rule.GetAPIGroups() {
			for _, resource := range rule.GetResources() {
				if strings.Contains(resource, "/") {
					continue // subresources have no events of their own
				}
				filters = append(filters, nameFilters(schemas.Key{Group: group, Resource: resource, Namespace: namespace}, rule.GetResourceNames())...)
			}
		}
	}
	return filters
}

// nameFilters are the subjects of named objects, or of all if no name is given. RBAC's
// "*" is the bus' word for any, too.
func nameFilters(k schemas.Key, names []string) []string {
	if len(names) == 0 {
		k.Name = schemas.AnyToken
		return []string{strings.TrimSuffix(schemas.Filter(k), schemas.AnyToken) + ">"}
	}
	filters := make([]string, len(names))
	for i, name := range names {
		k.Name = name
		filters[i] = schemas.Filter(k)
		if name == schemas.AnyToken { // RBAC takes names literally
			filters[i] = strings.TrimSuffix(filters[i], schemas.AnyToken) + schemas.EscapeToken(name)
		}
	}
	return filters
}

// withoutCovered drops filters that another one covers, and sorts the rest.
func withoutCovered(filters []string) []string {
	slices.SortFunc(filters, func(a, b string) int {
		if n := wildcards(b) - wildcards(a); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	var kept []string
	for _, filter := range slices.Compact(filters) {
		if !slices.ContainsFunc(kept, func(wider string) bool { return covers(wider, filter) }) {
			kept = append(kept, filter)
		}
	}
	slices.Sort(kept)
	return kept
}

func wildcards(filter string) int { return strings.Count(filter, "*") + strings.Count(filter, ">") }

// covers reports that every subject that narrow matches, wide matches too. Both have as
// many tokens.
func covers(wide, narrow string) bool {
	w, n := strings.Split(wide, "."), strings.Split(narrow, ".")
	for i := range w {
		if w[i] != n[i] && w[i] != "*" && w[i] != ">" {
			return false
		}
	}
	return true
}
