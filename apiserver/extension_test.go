package apiserver_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const unsafely = `{"kind":"DeleteOptions","apiVersion":"v1","ignoreStoreReadErrorWithClusterBreakingPotential":true}`

func TestOnlyWhatCannotBeReadIsDeletedUnread(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	missing := fmt.Sprintf(converted, base64.StdEncoding.EncodeToString(c.ca.CAPEM()), ns, 443) // there is no such Service
	group := c.define(t, missing)
	first := c.widget(t, group, "a", "{color: red}")
	second := strings.Replace(first, "/v1/", "/v2/", 1)
	key := "/rutter/registry/" + group[len("/apis/"):] + "/widgets/default/a"

	list := c.send(t, "GET", group+"/v2/widgets", "").apiStatus(t)
	require.Equal(t, metav1.StatusReasonStoreReadError, list.Reason, "%+v", list)
	require.Equal(t, key, list.Details.Causes[0].Field, "it tells which object it is")
	require.Contains(t, c.send(t, "GET", second, "").apiStatus(t).Message, key)
	require.Equal(t, 500, c.send(t, "DELETE", second, "").status)

	readable := c.send(t, "DELETE", first, unsafely, jsonBody)
	require.Equal(t, 409, readable.status, "%s", readable.body)
	require.Contains(t, readable.apiStatus(t).Message, "unsafe deletion is not allowed because the object is decodable from storage")

	dry := strings.TrimSuffix(unsafely, "}") + `,"dryRun":["All"]}`
	require.Equal(t, 200, c.send(t, "DELETE", second, dry, jsonBody).status)
	require.Equal(t, 200, c.send(t, "GET", first, "").status, "a dry run deletes nothing")
	require.Equal(t, 200, c.send(t, "DELETE", second, unsafely, jsonBody).status)
	require.Equal(t, 404, c.send(t, "GET", first, "").status)
	require.Equal(t, 404, c.send(t, "DELETE", second, unsafely, jsonBody).status)
}

// TestWatchTellsWhatCameBeforeItsEnd: the objects of a definition go before it does, and
// who watches them must not keep any.
func TestWatchTellsWhatCameBeforeItsEnd(t *testing.T) {
	const objects = 60
	for name, definition := range map[string]string{
		"bytes":   strings.Replace(plainThings, "{plural: things, singular: thing, kind: Thing}", "{plural: widgets, singular: widget, kind: Widget}", 1),
		"decoded": widgets,
	} {
		t.Run(name, func(t *testing.T) {
			c := server(t)
			definition := strings.NewReplacer("things.%[1]s", "widgets.%[1]s", "scope: Cluster", "scope: Namespaced").Replace(definition)
			group := c.define(t, definition)
			for i := range objects {
				c.widget(t, group, fmt.Sprintf("w%d", i), "{}")
			}
			next := c.stream(t, group+"/v1/widgets?watch=true&resourceVersion=0")
			for range objects {
				require.Equal(t, "ADDED", next()["type"])
			}
			c.undefine(t, "widgets."+group[len("/apis/"):])
			gone := 0
			for frame := next(); frame != nil; frame = next() {
				if frame["type"] == "DELETED" {
					gone++
				}
			}
			require.Equal(t, objects, gone)
		})
	}
}

// TestWebhookOfOneEventGroupHearsOfBoth: Events are one kind with two faces.
func TestWebhookOfOneEventGroupHearsOfBoth(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	h := &hook{say: allow}
	port := c.backend(t, ns, "hook", h, nil)
	path := "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
	a := c.send(t, "POST", path, fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: %[1]s}, webhooks: [{
name: hook.example.com, admissionReviewVersions: [v1], sideEffects: None, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}},
rules: [{apiGroups: [events.k8s.io], apiVersions: [v1], operations: [CREATE], resources: [events]}],
clientConfig: {caBundle: %[2]s, service: {namespace: %[1]s, name: hook, port: %[3]d}}}]}`, ns, base64.StdEncoding.EncodeToString(c.ca.CAPEM()), port), yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	t.Cleanup(func() { c.send(t, "DELETE", path+"/"+ns, "") })
	probe(t, h, func() {
		c.send(t, "POST", "/api/v1/namespaces/"+ns+"/events?dryRun=All",
			"{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {namespace: "+ns+", name: x}, reason: r}", yamlBody)
	})
	asked := h.requests()[0]
	require.Equal(t, "events.k8s.io", asked.Kind.Group, "it is shown the group it asked for")
	require.Empty(t, asked.RequestKind.Group)
}

// TestWebhookBehindThisServer: an aggregated server may be a webhook too; its address is
// this server's.
func TestWebhookBehindThisServer(t *testing.T) {
	c := server(t)
	c.aggregate(t)
	ns := c.namespace(t)
	path := "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
	a := c.send(t, "POST", path, fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: %[1]s}, webhooks: [{
name: hook.example.com, admissionReviewVersions: [v1], sideEffects: None, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}},
rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}],
clientConfig: {caBundle: %[2]s, service: {namespace: default, name: kubernetes, path: /apis/%[3]s/v1/reviews}}}]}`,
		ns, base64.StdEncoding.EncodeToString(c.ca.CAPEM()), aggregatedGroup), yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	t.Cleanup(func() { c.send(t, "DELETE", path+"/"+ns, "") })
	eventually(t, func() error {
		a := c.send(t, "POST", "/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", yamlBody)
		if a.status != 403 || !strings.Contains(string(a.body), "system:apiserver asks in vain") {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
}

// refuse answers a review.
func refuse(user string, review *admissionv1.AdmissionReview) *admissionv1.AdmissionReview {
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{Message: user + " asks in vain", Code: 403}}
	review.Request = nil
	return review
}
