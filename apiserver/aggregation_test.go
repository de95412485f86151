package apiserver_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

const aggregatedGroup = "flavors.example.com"

// flavors is an API server with one resource that answers who asked. It knows neither
// aggregated discovery nor OpenAPI v3, as the oldest servers still in use.
func flavors(w http.ResponseWriter, r *http.Request) {
	reply := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/apis/" + aggregatedGroup + "/v1":
		reply(metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: aggregatedGroup + "/v1",
			APIResources: []metav1.APIResource{{Name: "flavors", SingularName: "flavor", Kind: "Flavor", Verbs: metav1.Verbs{"get", "list"}}}})
	case "/apis/" + aggregatedGroup + "/v1/flavors":
		reply(map[string]any{"kind": "FlavorList", "apiVersion": aggregatedGroup + "/v1", "metadata": map[string]any{}, "items": []any{},
			"user": r.Header.Get("X-Remote-User"), "groups": r.Header["X-Remote-Group"], "proxy": r.TLS.PeerCertificates[0].Subject.CommonName})
	case "/apis/" + aggregatedGroup + "/v1/reviews":
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reply(refuse(r.Header.Get("X-Remote-User"), &review))
	case "/apis/" + aggregatedGroup + "/v1/talk":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		if line, err := rw.ReadString('\n'); err == nil {
			_, _ = rw.WriteString(r.Header.Get("X-Remote-User") + " says " + line)
			_ = rw.Flush()
		}
	case "/openapi/v2":
		reply(map[string]any{"swagger": "2.0", "info": map[string]any{"title": "flavors", "version": "1"},
			"paths": map[string]any{"/apis/" + aggregatedGroup + "/v1/flavors": map[string]any{}, "/apis/other/": map[string]any{}}, "definitions": map[string]any{}})
	default:
		http.NotFound(w, r)
	}
}

// aggregate registers a server for the group, by a Service in a namespace of its own, and
// waits until it is available.
func (c *cluster) aggregate(t *testing.T) (ns string) {
	t.Helper()
	ns = c.namespace(t)
	trusted, err := c.client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM([]byte(trusted.Data["requestheader-client-ca-file"])))
	port := c.backend(t, ns, "flavors", http.HandlerFunc(flavors), &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	name := "v1." + aggregatedGroup
	services := "/apis/apiregistration.k8s.io/v1/apiservices"
	a := c.send(t, "POST", services, fmt.Sprintf(`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: %s}, spec: {
group: %s, version: v1, groupPriorityMinimum: 2000, versionPriority: 15, caBundle: %s, service: {namespace: %s, name: flavors, port: %d}}}`,
		name, aggregatedGroup, base64.StdEncoding.EncodeToString(c.ca.CAPEM()), ns, port), yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	t.Cleanup(func() {
		c.send(t, "DELETE", services+"/"+name, "")
		eventually(t, func() error {
			if b := c.send(t, "GET", "/apis", "").body; strings.Contains(string(b), aggregatedGroup) {
				return fmt.Errorf("the group is still announced")
			}
			return nil
		})
	})
	next := c.stream(t, services+"?watch=true&fieldSelector=metadata.name="+name)
	for {
		frame := next()
		require.NotNil(t, frame)
		conditions, _ := at(frame, "object", "status", "conditions").([]any)
		for _, each := range conditions {
			if at(each, "type") == "Available" && at(each, "status") == "True" {
				return ns
			}
		}
	}
}

func TestAggregatedServer(t *testing.T) {
	c := server(t)
	c.aggregate(t)
	path := "/apis/" + aggregatedGroup + "/v1"
	t.Run("requests carry the user and the proxy's certificate", func(t *testing.T) {
		eventually(t, func() error {
			if a := c.send(t, "GET", path+"/flavors", ""); a.status != 200 {
				return fmt.Errorf("%d %s", a.status, a.body)
			}
			return nil
		})
		config := rest.CopyConfig(c.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"system:masters"}}
		got := send(t, config, "GET", path+"/flavors", "").object(t)
		require.Equal(t, "jane", got["user"])
		require.Contains(t, got["groups"], "system:masters")
		require.Equal(t, "front-proxy-client", got["proxy"])
	})
	t.Run("who may not read is refused before", func(t *testing.T) {
		config := rest.CopyConfig(c.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
		require.Equal(t, 403, send(t, config, "GET", path+"/flavors", "").status)
	})
	t.Run("discovery", func(t *testing.T) {
		eventually(t, func() error {
			if b := c.send(t, "GET", "/apis", "", "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").body; !strings.Contains(string(b), `"flavors"`) {
				return fmt.Errorf("not announced: %.200s", b)
			}
			return nil
		})
		_, lists, err := c.client.Discovery().ServerGroupsAndResources()
		require.NoError(t, err)
		found := false
		for _, list := range lists {
			found = found || list.GroupVersion == aggregatedGroup+"/v1" && list.APIResources[0].Name == "flavors"
		}
		require.True(t, found)
		require.Contains(t, string(c.send(t, "GET", "/apis/"+aggregatedGroup, "").body), aggregatedGroup+"/v1")
		require.Contains(t, string(c.send(t, "GET", path, "").body), `"flavors"`)
	})
	t.Run("OpenAPI", func(t *testing.T) {
		doc := string(c.send(t, "GET", "/openapi/v2", "").body)
		require.Contains(t, doc, path+"/flavors")
		require.NotContains(t, doc, "/apis/other/")
		require.Contains(t, doc, "/api/v1/namespaces")
		require.Contains(t, string(c.send(t, "GET", "/openapi/v3", "").body), "apis/"+aggregatedGroup+"/v1")
		require.Contains(t, string(c.send(t, "GET", "/openapi/v3/apis/"+aggregatedGroup+"/v1", "").body), path+"/flavors")
	})
	t.Run("upgrades pass", func(t *testing.T) {
		config, err := rest.TLSConfigFor(c.config)
		require.NoError(t, err)
		config.NextProtos = []string{"http/1.1"}
		conn, err := tls.Dial("tcp", strings.TrimPrefix(c.config.Host, "https://"), config)
		require.NoError(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "GET %s/talk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", path)
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
		_, err = conn.Write([]byte("hello\n"))
		require.NoError(t, err)
		line, err := reader.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "admin says hello\n", line)
	})
}

// What a server said of its kinds holds on while it does not answer, as kubectl explain
// asks for it, and is forgotten with its APIService.
func TestOpenAPIOfAServerThatIsGone(t *testing.T) {
	c := server(t)
	ns := c.aggregate(t)
	path, document := "/apis/"+aggregatedGroup+"/v1", "/openapi/v3/apis/"+aggregatedGroup+"/v1"
	described := func(what, url string, want bool) {
		t.Helper()
		eventually(t, func() error {
			if b := string(c.send(t, "GET", url, "").body); strings.Contains(b, path+"/flavors") != want {
				return fmt.Errorf("%s: %s: want the path: %v", what, url, want)
			}
			return nil
		})
	}
	described("alive", "/openapi/v2", true)
	described("alive", document, true)
	require.NoError(t, c.client.CoreV1().Services(ns).Delete(t.Context(), "flavors", metav1.DeleteOptions{}))
	eventually(t, func() error {
		if a := c.send(t, "GET", path+"/flavors", ""); a.status != 503 {
			return fmt.Errorf("still answered, %d", a.status)
		}
		return nil
	})
	for range 2 { // the second time it is not new
		require.Contains(t, string(c.send(t, "GET", "/openapi/v2", "").body), path+"/flavors")
		require.Contains(t, string(c.send(t, "GET", document, "").body), path+"/flavors")
		require.Contains(t, string(c.send(t, "GET", "/openapi/v3", "").body), strings.TrimPrefix(path, "/"))
	}
	c.send(t, "DELETE", "/apis/apiregistration.k8s.io/v1/apiservices/v1."+aggregatedGroup, "")
	described("no more registered", "/openapi/v2", false)
	described("no more registered", document, false)
}

func TestUnavailableAggregatedServer(t *testing.T) {
	c := server(t)
	services := "/apis/apiregistration.k8s.io/v1/apiservices"
	a := c.send(t, "POST", services, `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.gone.example.com}, spec: {
group: gone.example.com, version: v1, groupPriorityMinimum: 2000, versionPriority: 15, insecureSkipTLSVerify: true, service: {namespace: default, name: gone}}}`, yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	defer func() {
		c.send(t, "DELETE", services+"/v1.gone.example.com", "")
		eventually(t, func() error { // others expect all of discovery to be there
			_, _, err := c.client.Discovery().ServerGroupsAndResources()
			return err
		})
	}()
	eventually(t, func() error {
		got := c.send(t, "GET", services+"/v1.gone.example.com", "")
		if !strings.Contains(string(got.body), `"reason":"ServiceNotFound"`) {
			return fmt.Errorf("%s", got.body)
		}
		return nil
	})
	require.Equal(t, 503, c.send(t, "GET", "/apis/gone.example.com/v1/things", "").status)
	eventually(t, func() error { // who must not miss anything learns that something is missing
		_, _, err := c.client.Discovery().ServerGroupsAndResources()
		if err == nil || !discovery.IsGroupDiscoveryFailedError(err) || !strings.Contains(err.Error(), "stale GroupVersion discovery: gone.example.com/v1") {
			return errors.Join(errors.New("discovery does not say what is missing"), err)
		}
		return nil
	})
	for _, path := range []string{"/apis", "/apis/gone.example.com"} {
		require.Contains(t, string(c.send(t, "GET", path, "").body), `"groupVersion":"gone.example.com/v1"`, path)
	}
}

func TestAPIServicesOfThisServer(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	services := "/apis/apiregistration.k8s.io/v1/apiservices/"
	for _, name := range []string{"v1.", "v1.apps", "v2.autoscaling", "v1." + group[len("/apis/"):], "v1beta1." + group[len("/apis/"):]} {
		eventually(t, func() error {
			a := c.send(t, "GET", services+name, "")
			if a.status != 200 || !strings.Contains(string(a.body), `"reason":"Local"`) {
				return fmt.Errorf("%s: %s", name, a.body)
			}
			return nil
		})
	}
	c.undefine(t, "widgets."+group[len("/apis/"):])
	eventually(t, func() error {
		if a := c.send(t, "GET", services+"v1."+group[len("/apis/"):], ""); a.status != 404 {
			return fmt.Errorf("still there")
		}
		return nil
	})
}
