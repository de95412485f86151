package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// attempt is a write that is only tried.
type attempt struct {
	name, method, path, kind, body string
	want                           int    // status
	says                           string // in the answer
}

const (
	jsonPatch      = "Content-Type: application/json-patch+json"
	strategicPatch = "Content-Type: application/strategic-merge-patch+json"
)

// attempts are writes of all kinds on what tryOut has prepared in a namespace; widgets is
// where its custom resources are.
func attempts(ns, group string) []attempt {
	maps, api := "/api/v1/namespaces/"+ns+"/configmaps", strings.TrimPrefix(group, "/apis/")
	deploy := "/apis/apps/v1/namespaces/" + ns + "/deployments/web"
	services, widgets := "/api/v1/namespaces/"+ns+"/services", group+"/v1/namespaces/default/widgets"
	cm := func(name, more string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"` + more + `},"data":{"a":"2"}}`
	}
	service := func(name, spec string) string {
		return `{"apiVersion":"v1","kind":"Service","metadata":{"name":"` + name + `"},"spec":{` + spec + `}}`
	}
	return []attempt{
		{"create", "POST", maps, jsonBody, cm("new", ""), 201, `"data":{"a":"2"}`},
		{"create in YAML", "POST", maps, yamlBody, "{apiVersion: v1, kind: ConfigMap, metadata: {name: new}}", 201, `"new"`},
		{"create what is there", "POST", maps, jsonBody, cm("held", ""), 409, `\"held\" already exists`},
		{"create with a generated name", "POST", maps, jsonBody, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"gen-"}}`, 201, `"gen-`},
		{"create in no namespace", "POST", "/api/v1/namespaces/nowhere/configmaps", jsonBody, cm("new", ""), 404, `namespaces \"nowhere\" not found`},
		{"create another kind", "POST", maps, jsonBody, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`, 400, "ConfigMap"},
		{"create with an unknown field", "POST", maps + "?fieldValidation=Strict", jsonBody, cm("new", `,"colour":1`), 400, "unknown field"},
		{"create with a bad name", "POST", maps, jsonBody, cm("Not A Name", ""), 422, "metadata.name"},
		{"create nothing", "POST", maps, jsonBody, "", 400, ""},
		{"create a namespace", "POST", "/api/v1/namespaces", jsonBody, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"tried"}}`, 201, "tried"},
		{"update", "PUT", maps + "/held", jsonBody, cm("held", ""), 200, `"data":{"a":"2"}`},
		{"update an old version", "PUT", maps + "/held", jsonBody, cm("held", `,"resourceVersion":"1"`), 409, "the object has been modified"},
		{"update what is not there", "PUT", maps + "/none", jsonBody, cm("none", ""), 404, "not found"},
		{"JSON patch", "PATCH", maps + "/held", jsonPatch, `[{"op":"replace","path":"/data/a","value":"3"}]`, 200, `"a":"3"`},
		{"JSON patch that fails", "PATCH", maps + "/held", jsonPatch, `[{"op":"test","path":"/data/a","value":"9"}]`, 422, ""},
		{"merge patch", "PATCH", maps + "/held", mergePatch, `{"data":{"b":"3"}}`, 200, `"b":"3"`},
		{"merge patch of what is not there", "PATCH", maps + "/none", mergePatch, `{"data":{"b":"3"}}`, 404, "not found"},
		{"strategic patch", "PATCH", deploy, strategicPatch, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"registry.invalid/other"}]}}}}`, 200, "registry.invalid/other"},
		{"strategic patch that is not valid", "PATCH", deploy, strategicPatch, `{"spec":{"replicas":-1}}`, 422, "spec.replicas"},
		{"apply", "PATCH", maps + "/held?fieldManager=me", applyPatch, "{apiVersion: v1, kind: ConfigMap, metadata: {name: held}, data: {mine: x}}", 200, `"mine":"x"`},
		{"apply against others", "PATCH", maps + "/held?fieldManager=me", applyPatch, "{apiVersion: v1, kind: ConfigMap, metadata: {name: held}, data: {a: x}}", 409, "conflict with"},
		{"apply by force", "PATCH", maps + "/held?fieldManager=me&force=true", applyPatch, "{apiVersion: v1, kind: ConfigMap, metadata: {name: held}, data: {a: x}}", 200, `"a":"x"`},
		{"apply what is not there", "PATCH", maps + "/fresh?fieldManager=me", applyPatch, "{apiVersion: v1, kind: ConfigMap, metadata: {name: fresh}}", 201, "fresh"},
		{"apply without a manager", "PATCH", maps + "/held", applyPatch, "{apiVersion: v1, kind: ConfigMap}", 422, "fieldManager"},
		{"scale", "PATCH", deploy + "/scale", mergePatch, `{"spec":{"replicas":7}}`, 200, `"replicas":7`},
		{"status", "PATCH", deploy + "/status", mergePatch, `{"status":{"replicas":7}}`, 200, `"replicas":7`},
		{"secret", "PATCH", "/api/v1/namespaces/" + ns + "/secrets/s", mergePatch, `{"stringData":{"q":"x"}}`, 200, `"q":"eA=="`},
		{"role", "PUT", "/apis/rbac.authorization.k8s.io/v1/namespaces/" + ns + "/roles/r", jsonBody, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"r"},"rules":[]}`, 200, `"rules"`},
		{"service", "POST", services, jsonBody, service("new", `"ports":[{"port":80}]`), 201, `"clusterIPs":["`},
		{"service with a free node port", "POST", services, jsonBody, service("new", `"type":"NodePort","ports":[{"port":80,"nodePort":31999}]`), 201, `"nodePort":31999`},
		{"service with a node port that is taken", "POST", services, jsonBody, service("new", `"type":"NodePort","ports":[{"port":80,"nodePort":31998}]`), 422, "provided port is already allocated"},
		{"service with an address that is not one", "POST", services, jsonBody, service("new", `"clusterIP":"192.0.2.1","ports":[{"port":80}]`), 422, "not in the valid range"},
		{"service that gets a node port", "PATCH", services + "/taken", mergePatch, `{"spec":{"ports":[{"port":80,"nodePort":31997}]}}`, 200, `"nodePort":31997`},
		{"custom", "PATCH", widgets + "/a", mergePatch, `{"spec":{"color":"blue"}}`, 200, `"color":"blue"`},
		{"custom against its schema", "PATCH", widgets + "/a", mergePatch, `{"spec":{"size":"large"}}`, 422, "spec.size"},
		{"custom by apply", "PATCH", widgets + "/a?fieldManager=me", applyPatch, "{apiVersion: " + api + "/v1, kind: Widget, metadata: {name: a}, spec: {replicas: 3}}", 200, `"replicas":3`},
		{"custom in a form it has not", "PATCH", widgets + "/a", strategicPatch, `{}`, 415, ""},
		{"custom to be created", "POST", widgets, yamlBody, "{apiVersion: " + api + "/v1, kind: Widget, metadata: {name: b}, spec: {size: 1}}", 201, `"b"`},
	}
}

// dry is the attempt's path as a dry run.
func (a attempt) dry() string {
	sep := "?"
	if strings.Contains(a.path, "?") {
		sep = "&"
	}
	return a.path + sep + "dryRun=All"
}

// tryOut prepares what attempts write to.
func (p *past) tryOut(t *testing.T, ns, group string) {
	t.Helper()
	p.configMap(t, ns, "held", nil)
	p.secret(t, ns)
	for path, body := range map[string]string{
		"/apis/apps/v1/namespaces/" + ns + "/deployments":                `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: registry.invalid/c}]}}}}`,
		"/api/v1/namespaces/" + ns + "/services":                         `{apiVersion: v1, kind: Service, metadata: {name: taken}, spec: {type: NodePort, ports: [{port: 80, nodePort: 31998}]}}`,
		"/apis/rbac.authorization.k8s.io/v1/namespaces/" + ns + "/roles": `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r}, rules: [{verbs: [get], apiGroups: [""], resources: [pods]}]}`,
		group + "/v1/namespaces/default/widgets":                         "{apiVersion: " + group[len("/apis/"):] + "/v1, kind: Widget, metadata: {name: a}, spec: {color: red, size: 2}}",
	} {
		a := p.send(t, "POST", path, body, yamlBody)
		require.Equal(t, 201, a.status, "%s", a.body)
	}
}

// essence is an answer without what no two answers have in common.
func essence(t *testing.T, a answer) string {
	t.Helper()
	o := a.object(t)
	if meta, ok := o["metadata"].(map[string]any); ok && a.status < 300 {
		if strings.HasPrefix(fmt.Sprint(meta["name"]), "gen-") {
			delete(meta, "name")
		}
		if a.status == 201 {
			delete(meta, "uid")
			delete(meta, "creationTimestamp")
		}
		fields, _ := meta["managedFields"].([]any)
		for _, each := range fields {
			delete(each.(map[string]any), "time")
		}
		if spec, ok := o["spec"].(map[string]any); ok && a.status == 201 {
			delete(spec, "clusterIP") // any free one
			delete(spec, "clusterIPs")
		}
	}
	text, err := json.Marshal(o)
	require.NoError(t, err)
	return fmt.Sprint(a.status, string(text))
}

// TestDryRunsOfThePast: what the present answered to a dry run, the past answers when all
// of it has gone, and so does a recording.
func TestDryRunsOfThePast(t *testing.T) {
	p := withHistory(t)
	ns := p.namespace(t)
	from := p.revision(t)
	var group string
	var all []attempt
	var live []answer
	var then int64
	require.True(t, t.Run("present", func(t *testing.T) {
		group = p.define(t, widgets) // until the end of this part
		p.tryOut(t, ns, group)
		then = p.revision(t)
		all = attempts(ns, group)
		for _, a := range all {
			got := p.send(t, a.method, a.dry(), a.body, a.kind)
			if got.status != a.want || !strings.Contains(string(got.body), a.says) {
				t.Errorf("%s: want %d %s, got %d %s", a.name, a.want, a.says, got.status, got.body)
			}
			live = append(live, got)
		}
		require.Equal(t, then, p.revision(t))
	}))
	require.Equal(t, 200, p.send(t, "DELETE", "/apis/apps/v1/namespaces/"+ns+"/deployments/web", "").status)
	for _, gone := range []string{"configmaps/held", "secrets/s", "services/taken"} {
		require.Equal(t, 200, p.send(t, "DELETE", "/api/v1/namespaces/"+ns+"/"+gone, "").status)
	}
	// What is taken today was free then.
	a := p.send(t, "POST", "/api/v1/namespaces/"+ns+"/services", `{apiVersion: v1, kind: Service, metadata: {name: new}, spec: {type: NodePort, ports: [{port: 80, nodePort: 31999}]}}`, yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	now := p.revision(t)
	at := fmt.Sprintf("/at/rev-%d", then)
	before := p.faces(t, at, ns, group)

	for i, try := range all {
		t.Run(try.name, func(t *testing.T) {
			got := p.send(t, try.method, at+try.dry(), try.body, try.kind)
			require.Equal(t, essence(t, live[i]), essence(t, got))
			require.Contains(t, got.header.Get("Warning"), "admission plugins and webhooks")
			require.Equal(t, fmt.Sprint(then), got.header.Get("Rutter-Instant-Revision"))
		})
	}
	require.Equal(t, now, p.revision(t), "nothing was written")
	require.Equal(t, before, p.faces(t, at, ns, group), "the past is what it was")
	t.Run("recording", func(t *testing.T) {
		recording := opened(t, p.record(t, from, p.revision(t)))
		recording.UserAgent = p.config.UserAgent // is the field manager
		for i, try := range all {
			if try.name == "secret" {
				continue // a recording has no values
			}
			got := send(t, recording, try.method, at+try.dry(), try.body, try.kind)
			require.Equal(t, essence(t, live[i]), essence(t, got), try.name)
		}
		a := send(t, recording, "PATCH", "/api/v1/namespaces/"+ns+"/services/new?dryRun=All", `{"metadata":{"labels":{"a":"b"}}}`, mergePatch)
		require.Equal(t, 200, a.status, "its end: %s", a.body)
		a = send(t, recording, "PATCH", "/api/v1/namespaces/"+ns+"/services/new", `{"metadata":{"labels":{"a":"b"}}}`, mergePatch)
		require.Equal(t, 405, a.status, "%s", a.body)
	})
	t.Run("otherwise refused", func(t *testing.T) { p.notTried(t, ns, at) })
	t.Run("access", func(t *testing.T) { p.trialAccess(t, ns, then) })
	t.Run("webhooks", func(t *testing.T) { p.trialHooks(t, at, ns) })
}

// faces are the forms in which objects of an instant are read: a dry run that touched
// what is kept in memory would show in one of them.
func (p *past) faces(t *testing.T, at, ns, group string) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"/api/v1/namespaces/" + ns + "/configmaps", "/api/v1/namespaces/" + ns + "/secrets", "/api/v1/namespaces/" + ns + "/services",
		"/apis/apps/v1/namespaces/" + ns + "/deployments/web", group + "/v1/namespaces/default/widgets"} {
		for _, accept := range []string{"application/json", "application/yaml", asTable} {
			a := p.send(t, "GET", at+path, "", "Accept: "+accept)
			require.Equal(t, 200, a.status, "%s: %s", path, a.body)
			all.Write(a.body)
		}
	}
	return all.String()
}

// notTried is what is no dry run, or of what there is none.
func (p *past) notTried(t *testing.T, ns, at string) {
	base := "/api/v1/namespaces/" + ns
	for _, tc := range []struct{ method, path string }{
		{"PATCH", base + "/configmaps/held"},
		{"PATCH", base + "/configmaps/held?dryRun="},
		{"PATCH", base + "/configmaps/held?dryRun=None"},
		{"PATCH", base + "/configmaps/held?dryRun=all"},
		{"PATCH", base + "/configmaps/held?dryRun=All&dryRun=None"},
		{"PATCH", base + "/configmaps/held?DryRun=All"},
		{"DELETE", base + "/configmaps/held?dryRun=All"},
		{"DELETE", base + "/configmaps?dryRun=All"},
		{"POST", base + "/bindings?dryRun=All"},
		{"POST", base + "/pods/web/eviction?dryRun=All"},
		{"POST", base + "/pods/web/binding?dryRun=All"},
		{"POST", base + "/serviceaccounts/default/token?dryRun=All"},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews?dryRun=All"},
		{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews?dryRun=All"},
		{"POST", "/apis/authorization.k8s.io/v1/namespaces/" + ns + "/localsubjectaccessreviews?dryRun=All"},
		{"PUT", base + "/pods/web/proxy/x?dryRun=All"},
		{"POST", "/history/events?dryRun=All"},
	} {
		a := p.send(t, tc.method, at+tc.path, "{}", mergePatch)
		require.Equal(t, 405, a.status, "%s %s: %s", tc.method, tc.path, a.body)
		require.Contains(t, a.apiStatus(t).Message, "the past", tc.path)
	}
	for instant, code := range map[string]int{"2001-01-01T00:00:00Z": 410, "rev-999999999": 400, "noon": 400} {
		a := p.send(t, "PATCH", "/at/"+instant+base+"/configmaps/held?dryRun=All", "{}", mergePatch)
		require.Equal(t, code, a.status, "%s: %s", instant, a.body)
	}
}

// trialAccess asks as somebody who may do this or that today.
func (p *past) trialAccess(t *testing.T, ns string, then int64) {
	grant := func(user string, verbs ...string) {
		_, err := p.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user},
			Rules: []rbacv1.PolicyRule{{Verbs: verbs, APIGroups: []string{"", rbacv1.GroupName}, Resources: []string{"configmaps", "secrets", "roles"}}}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = p.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user}, Subjects: []rbacv1.Subject{{Kind: "User", Name: user}}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	grant("getter", "get")
	grant("writer", "create", "update", "patch")
	grant("patcher", "get", "patch")
	grant("both", "get", "create", "update", "patch")
	at := fmt.Sprintf("/at/rev-%d/api/v1/namespaces/%s", then, ns)
	as := func(user, method, path, body, kind string) answer {
		return p.send(t, method, path, body, kind, "Impersonate-User: "+user, "Impersonate-Group: system:authenticated")
	}
	eventually(t, func() error { // the last role has come to the authorizer
		if a := as("both", "PATCH", at+"/configmaps/held?dryRun=All", "{}", mergePatch); a.status != 200 {
			return fmt.Errorf("%s", a.body)
		}
		return nil
	})
	fresh := "{apiVersion: v1, kind: ConfigMap, metadata: {name: fresh}}"
	for _, tc := range []struct {
		user, method, path, body, kind string
		want                           int
		says                           string
	}{
		{"both", "POST", "/configmaps?dryRun=All", fresh, yamlBody, 201, ""},
		{"both", "PATCH", "/secrets/s?dryRun=All", "{}", mergePatch, 200, `"p":"`},
		{"both", "PATCH", "/configmaps/fresh?dryRun=All&fieldManager=me", fresh, applyPatch, 201, ""},
		{"patcher", "PATCH", "/configmaps/held?dryRun=All", "{}", mergePatch, 200, ""},
		{"patcher", "PATCH", "/configmaps/fresh?dryRun=All&fieldManager=me", fresh, applyPatch, 403, "cannot create"},
		{"patcher", "PUT", "/configmaps/held?dryRun=All", fresh, yamlBody, 403, "cannot update"},
		{"getter", "PATCH", "/configmaps/held?dryRun=All", "{}", mergePatch, 403, "cannot patch"},
		{"writer", "PATCH", "/configmaps/held?dryRun=All", "{}", mergePatch, 403, "cannot get"},
		{"writer", "PATCH", "/secrets/s?dryRun=All", "{}", mergePatch, 403, "cannot get"},
		{"writer", "POST", "/configmaps?dryRun=All", fresh, yamlBody, 403, "cannot get"},
		{"nobody", "PATCH", "/configmaps/held?dryRun=All", "{}", mergePatch, 403, "cannot patch"},
	} {
		a := as(tc.user, tc.method, at+tc.path, tc.body, tc.kind)
		require.Equal(t, tc.want, a.status, "%s %s as %s: %s", tc.method, tc.path, tc.user, a.body)
		require.Contains(t, string(a.body), tc.says, tc.path)
	}
	roles := fmt.Sprintf("/at/rev-%d/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles?dryRun=All", then, ns)
	for verb, want := range map[string]int{"get": 201, "delete": 403} { // rules that both was given after the instant
		a := as("both", "POST", roles, `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: x}, rules: [{verbs: [`+verb+`], apiGroups: [""], resources: [configmaps]}]}`, yamlBody)
		require.Equal(t, want, a.status, "%s: %s", verb, a.body)
	}
	for _, verb := range []string{"patch", "create", "update"} { // as before: what a write needs, nobody has
		a := p.send(t, "POST", fmt.Sprintf("/at/rev-%d/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", then),
			`{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"namespace":"`+ns+`","verb":"`+verb+`","resource":"configmaps"}}}`, jsonBody)
		require.Equal(t, 201, a.status, "%s", a.body)
		status := a.object(t)["status"].(map[string]any)
		require.Equal(t, false, status["allowed"])
		require.Contains(t, status["reason"], "dry run")
	}
}

// trialHooks has a webhook of today that would deny what was tried then.
func (p *past) trialHooks(t *testing.T, at, ns string) {
	h := &hook{say: allow}
	p.hooked(t, "Validating", ns, "hook", p.backend(t, ns, "hook", h, nil), "")
	probe(t, h, func() {
		p.send(t, "POST", "/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, jsonBody)
	})
	asked := len(h.requests())
	a := p.send(t, "POST", at+"/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, jsonBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	require.Len(t, h.requests(), asked, "a webhook of the present was asked about the past")
}

// TestDryRunInANamespaceThatWasGoing is refused as it would have been.
func TestDryRunInANamespaceThatWasGoing(t *testing.T) {
	p := withHistory(t)
	ns, err := p.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	there := p.revision(t)
	require.NoError(t, p.client.CoreV1().Namespaces().Delete(t.Context(), ns.Name, metav1.DeleteOptions{}))
	going := p.revision(t)
	try := func(rev int64) answer {
		return p.send(t, "POST", fmt.Sprintf("/at/rev-%d/api/v1/namespaces/going/configmaps?dryRun=All", rev), `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, jsonBody)
	}
	require.Equal(t, 201, try(there).status)
	a := try(going)
	require.Equal(t, http.StatusForbidden, a.status, "%s", a.body)
	require.Contains(t, a.apiStatus(t).Message, "was being terminated")
	require.Equal(t, corev1.NamespaceTerminatingCause, a.apiStatus(t).Details.Causes[0].Type)
	require.Equal(t, 404, try(there-1).status)
}

// TestDryRunsOfManyAtOnce do not see each other, though they begin with one object.
func TestDryRunsOfManyAtOnce(t *testing.T) {
	p := withHistory(t)
	ns := p.namespace(t)
	p.configMap(t, ns, "held", nil)
	then := p.revision(t)
	path := fmt.Sprintf("/at/rev-%d/api/v1/namespaces/%s/configmaps/held", then, ns)
	want := p.send(t, "GET", path, "", "Accept: application/yaml").body
	t.Run("all", func(t *testing.T) {
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				config := rest.CopyConfig(p.config)
				for n := range 20 {
					a := send(t, config, "PATCH", path+"?dryRun=All", fmt.Sprintf(`{"data":{"a":"%d-%d","x%d":"y"},"metadata":{"labels":{"l":"%d"}}}`, i, n, i, n), mergePatch)
					require.Equal(t, 200, a.status, "%s", a.body)
					data := a.object(t)["data"].(map[string]any)
					require.Equal(t, map[string]any{"a": fmt.Sprintf("%d-%d", i, n), fmt.Sprintf("x%d", i): "y"}, data)
				}
			})
		}
	})
	require.Equal(t, string(want), string(p.send(t, "GET", path, "", "Accept: application/yaml").body))
}
