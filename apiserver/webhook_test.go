package apiserver_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/apiserver/pki"
)

// backend runs a TLS server behind a Service and returns the port under which the
// Service has it. The Service is an ExternalName, since endpoints may not be loopback
// addresses; how endpoints are found is tested where the resolver is.
func (c *cluster) backend(t *testing.T, ns, name string, handler http.Handler, config *tls.Config) int32 {
	t.Helper()
	pair, err := c.ca.Issue(pki.Leaf{Name: "backend-" + ns + "-" + name, CommonName: name, Hosts: []string{name + "." + ns + ".svc"}, Server: true})
	require.NoError(t, err)
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(handler)
	if config == nil {
		config = &tls.Config{}
	}
	config.Certificates = []tls.Certificate{cert}
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	require.NoError(t, err)
	number, err := strconv.ParseInt(port, 10, 32)
	require.NoError(t, err)
	_, err = c.client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return int32(number)
}

// hook is an admission webhook that notes what it was asked.
type hook struct {
	mu    sync.Mutex
	asked []admissionv1.AdmissionRequest // guarded by mu
	say   func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.asked = append(h.asked, *review.Request)
	h.mu.Unlock()
	review.Response = h.say(review.Request)
	review.Response.UID = review.Request.UID
	_ = json.NewEncoder(w).Encode(review)
}

func (h *hook) requests() []admissionv1.AdmissionRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]admissionv1.AdmissionRequest(nil), h.asked...)
}

// hooked creates a webhook configuration and removes it at the end. kind is Mutating or
// Validating; more are further fields of the webhook.
func (c *cluster) hooked(t *testing.T, kind, ns, service string, port int32, more string) {
	t.Helper()
	name := strings.ToLower(kind) + "-" + ns
	path := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(kind) + "webhookconfigurations"
	body := fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: %sWebhookConfiguration, metadata: {name: %s}, webhooks: [{
name: hook.example.com, admissionReviewVersions: [v1], sideEffects: None, timeoutSeconds: 5,
namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}},
rules: [{apiGroups: ["*"], apiVersions: ["*"], operations: [CREATE, UPDATE, DELETE], resources: [configmaps, widgets]}],
clientConfig: {caBundle: %s, service: {namespace: %s, name: %s, port: %d, path: /admit}}%s}]}`,
		kind, name, ns, base64.StdEncoding.EncodeToString(c.ca.CAPEM()), ns, service, port, more)
	a := c.send(t, "POST", path, body, yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	t.Cleanup(func() { c.send(t, "DELETE", path+"/"+name, "") })
}

// probe sends writes until the webhook is in force: the server learns of it by watching.
func probe(t *testing.T, h *hook, write func()) {
	t.Helper()
	eventually(t, func() error {
		write()
		if len(h.requests()) == 0 {
			return fmt.Errorf("the webhook has not been asked")
		}
		return nil
	})
}

func allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

func TestValidatingWebhookByService(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	h := &hook{say: func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if strings.HasPrefix(r.Name, "bad") {
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "bad name", Code: 403}}
		}
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"be careful"}}
	}}
	port := c.backend(t, ns, "hook", h, nil)
	c.hooked(t, "Validating", ns, "hook", port, `, matchConditions: [{name: not-skipped, expression: "!(has(request.name) && request.name == 'skipped')"}]`)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	create := func(name, query string) answer {
		return c.send(t, "POST", path+"?"+query, "{apiVersion: v1, kind: ConfigMap, metadata: {name: "+name+"}}", yamlBody)
	}
	probe(t, h, func() { create("good", "dryRun=All") })
	good := create("good", "")
	require.Equal(t, 201, good.status, "%s", good.body)
	require.Contains(t, good.header.Get("Warning"), "be careful")
	bad := create("bad", "")
	require.Equal(t, 403, bad.status)
	require.Contains(t, bad.apiStatus(t).Message, `admission webhook "hook.example.com" denied the request: bad name`)
	before := len(h.requests())
	require.Equal(t, 201, create("skipped", "").status)
	require.Len(t, h.requests(), before, "a match condition keeps the request from the webhook")
	require.Equal(t, 200, c.send(t, "DELETE", path+"/good", "").status)
	last := h.requests()[len(h.requests())-1]
	require.Equal(t, admissionv1.Delete, last.Operation)
	require.NotEmpty(t, last.OldObject.Raw)
}

func TestMutatingWebhookByServiceOnCustomResources(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	ns := c.namespace(t)
	h := &hook{say: func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		jsonPatch := admissionv1.PatchTypeJSONPatch
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &jsonPatch,
			Patch: []byte(`[{"op":"add","path":"/spec/color","value":"green"},{"op":"add","path":"/spec/unknown","value":1}]`)}
	}}
	port := c.backend(t, ns, "hook", h, nil)
	c.hooked(t, "Mutating", ns, "hook", port, ", reinvocationPolicy: IfNeeded")
	path := group + "/v1/namespaces/" + ns + "/widgets"
	body := "{apiVersion: " + group[len("/apis/"):] + "/v1, kind: Widget, metadata: {name: w}, spec: {color: red}}"
	probe(t, h, func() { c.send(t, "POST", path+"?dryRun=All", body, yamlBody) })
	a := c.send(t, "POST", path, body, yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	require.Equal(t, "green", at(a.object(t), "spec", "color"))
	require.Nil(t, at(a.object(t), "spec", "unknown"), "what a webhook adds is pruned too")
}

func TestWebhookThatDoesNotAnswer(t *testing.T) {
	c := server(t)
	for policy, want := range map[string]int{"Fail": 500, "Ignore": 201} {
		t.Run(policy, func(t *testing.T) {
			ns := c.namespace(t)
			alive := &hook{say: allow}
			port := c.backend(t, ns, "alive", alive, nil)
			c.hooked(t, "Mutating", ns, "alive", port, "")
			c.hooked(t, "Validating", ns, "missing", 443, ", failurePolicy: "+policy)
			create := func(query string) answer {
				return c.send(t, "POST", "/api/v1/namespaces/"+ns+"/configmaps?"+query, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", yamlBody)
			}
			probe(t, alive, func() { create("dryRun=All") })
			eventually(t, func() error {
				if a := create("dryRun=All"); a.status != want {
					return fmt.Errorf("answered %d: %s", a.status, a.body)
				}
				return nil
			})
		})
	}
}

// converter renames spec.color to spec.colour in version v2 and back.
func converter(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var review apiextensions.ConversionReview
	if err == nil {
		err = json.Unmarshal(body, &review)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := &apiextensions.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal(raw.Raw, &u.Object); err != nil {
			response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		from, to := "color", "colour"
		if strings.HasSuffix(review.Request.DesiredAPIVersion, "/v1") {
			from, to = to, from
		}
		if value, ok, _ := unstructured.NestedString(u.Object, "spec", from); ok {
			unstructured.RemoveNestedField(u.Object, "spec", from)
			_ = unstructured.SetNestedField(u.Object, value, "spec", to)
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Response, review.Request = response, nil
	_ = json.NewEncoder(w).Encode(review)
}

const converted = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "widgets.%%[1]s"}
spec:
  group: "%%[1]s"
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {caBundle: %s, service: {namespace: %s, name: convert, port: %d, path: /}}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {color: {type: string}}}}}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {colour: {type: string}}}}}}}
`

func TestConversionWebhookByService(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	port := c.backend(t, ns, "convert", http.HandlerFunc(converter), nil)
	group := c.define(t, fmt.Sprintf(converted, base64.StdEncoding.EncodeToString(c.ca.CAPEM()), ns, port))
	w := c.widget(t, group, "a", "{color: red}")
	second := strings.Replace(w, "/v1/", "/v2/", 1)
	eventually(t, func() error { // the Service is learned of by watching
		if a := c.send(t, "GET", second, ""); at(a.object(t), "spec", "colour") != "red" {
			return fmt.Errorf("%s", a.body)
		}
		return nil
	})
	a := c.send(t, "PATCH", second, `{"spec":{"colour":"blue"}}`, mergePatch)
	require.Equal(t, 200, a.status, "%s", a.body)
	require.Equal(t, "blue", at(c.send(t, "GET", w, "").object(t), "spec", "color"))
	list := c.send(t, "GET", group+"/v2/widgets", "").object(t)
	require.Equal(t, "blue", at(list["items"].([]any)[0], "spec", "colour"))
	patched, err := c.client.RESTClient().Patch(types.ApplyPatchType).AbsPath(second).Param("fieldManager", "x").Param("force", "true").
		Body([]byte("{apiVersion: " + group[len("/apis/"):] + "/v2, kind: Widget, metadata: {name: a}, spec: {colour: green}}")).DoRaw(t.Context())
	require.NoError(t, err, "%s", patched)
	require.Equal(t, "green", at(c.send(t, "GET", w, "").object(t), "spec", "color"))
}
