package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const policies = "/apis/admissionregistration.k8s.io/v1/"

// policy creates a policy and its binding, and removes them at the end.
func (c *cluster) policy(t *testing.T, kind, name, spec, binding string) {
	t.Helper()
	plural := strings.ToLower(strings.TrimSuffix(kind, "y")) + "ies"
	for path, body := range map[string]string{
		plural:                             fmt.Sprintf("{apiVersion: admissionregistration.k8s.io/v1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec),
		strings.ToLower(kind) + "bindings": fmt.Sprintf("{apiVersion: admissionregistration.k8s.io/v1, kind: %sBinding, metadata: {name: %s}, spec: {policyName: %s%s}}", kind, name, name, binding),
	} {
		a := c.send(t, "POST", policies+path, body, yamlBody)
		require.Equal(t, 201, a.status, "%s", a.body)
		t.Cleanup(func() { c.send(t, "DELETE", policies+path+"/"+name, "") })
	}
}

// matching selects creations of widgets of a group.
func matching(group string) string {
	return fmt.Sprintf("{resourceRules: [{apiGroups: [%q], apiVersions: [v1], operations: [CREATE], resources: [widgets]}]}", group[len("/apis/"):])
}

func TestValidatingPolicyOnCustomResourcesWithParams(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	c.widget(t, group, "limit", "{size: 10}")
	name := "limit." + group[len("/apis/"):]
	c.policy(t, "ValidatingAdmissionPolicy", name,
		fmt.Sprintf(`{paramKind: {apiVersion: "%s/v1", kind: Widget}, matchConstraints: %s, validations: [{expression: "object.spec.size <= params.spec.size", messageExpression: "'at most ' + string(params.spec.size)"}]}`,
			group[len("/apis/"):], matching(group)),
		`, validationActions: [Deny], paramRef: {name: limit, namespace: default, parameterNotFoundAction: Deny}`)
	path := group + "/v1/namespaces/default/widgets?dryRun=All"
	create := func(size int) answer {
		return c.send(t, "POST", path, fmt.Sprintf("{apiVersion: %s/v1, kind: Widget, metadata: {generateName: w-}, spec: {size: %d}}", group[len("/apis/"):], size), yamlBody)
	}
	eventually(t, func() error {
		if a := create(11); a.status != 422 || !strings.Contains(string(a.body), "at most 10") {
			return fmt.Errorf("%s", a.body)
		}
		return nil
	})
	require.Equal(t, 201, create(10).status)
}

func TestMutatingPolicyOnCustomResources(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	c.policy(t, "MutatingAdmissionPolicy", "paint."+group[len("/apis/"):],
		fmt.Sprintf(`{matchConstraints: %s, reinvocationPolicy: Never, failurePolicy: Fail, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{spec: Object.spec{color: 'gold', tags: ['painted']}}"}}]}`, matching(group)), "")
	path := group + "/v1/namespaces/default/widgets?dryRun=All"
	eventually(t, func() error {
		a := c.send(t, "POST", path, "{apiVersion: "+group[len("/apis/"):]+"/v1, kind: Widget, metadata: {generateName: w-}, spec: {tags: [plain]}}", yamlBody)
		if a.status != 201 || at(a.object(t), "spec", "color") != "gold" {
			return fmt.Errorf("%s", a.body)
		}
		if tags := at(a.object(t), "spec", "tags").([]any); len(tags) != 2 {
			return fmt.Errorf("the set is not merged: %v", tags)
		}
		return nil
	})
}

func TestPoliciesAreTypeChecked(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	for name, tc := range map[string]struct{ constraints, expression, want string }{
		"custom resource": {matching(group), "object.spec.colr == 'red'", "undefined field 'colr'"},
		"built-in kind": {`{resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]}`,
			"object.spec.replicas > 'a'", "found no matching overload"},
	} {
		t.Run(name, func(t *testing.T) {
			policy := "types-" + strings.ReplaceAll(name, " ", "-")
			c.policy(t, "ValidatingAdmissionPolicy", policy, fmt.Sprintf(`{matchConstraints: %s, validations: [{expression: "%s"}]}`, tc.constraints, tc.expression),
				", validationActions: [Audit]")
			eventually(t, func() error {
				got := c.send(t, "GET", policies+"validatingadmissionpolicies/"+policy, "").object(t)
				if at(got, "status", "observedGeneration") != float64(1) {
					return fmt.Errorf("not checked: %v", got["status"])
				}
				warnings, _ := at(got, "status", "typeChecking", "expressionWarnings").([]any)
				if len(warnings) != 1 || !strings.Contains(fmt.Sprint(warnings[0]), tc.want) {
					t.Fatalf("%v", got["status"])
				}
				return nil
			})
		})
	}
}
