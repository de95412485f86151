package apiserver_test

import (
	"bufio"
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/apiserver"
)

// metrics are the samples that the server shows, by name and labels as they are written.
func (c *cluster) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	a := c.send(t, "GET", "/metrics", "")
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	samples := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(a.body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		require.NoError(t, err, "%s", line)
		samples[line[:at]] = value
	}
	require.NoError(t, lines.Err())
	return samples
}

// TestMetricsOfStorage: what dashboards of kube-apiserver ask for moves with what is
// stored, read and watched. No other test touches PodTemplates, nor tokens of this
// account.
func TestMetricsOfStorage(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	path := "/api/v1/namespaces/" + ns + "/podtemplates"
	template := func(name string) string {
		return `{"apiVersion":"v1","kind":"PodTemplate","metadata":{"name":"` + name + `","labels":{"n":"` + name + `"}},"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}`
	}
	ask := func(method, path, body string, status int) {
		t.Helper()
		a := c.send(t, method, path, body, "Content-Type: application/json")
		require.Equal(t, status, a.status, "%s", a.body)
	}
	before := c.metrics(t)
	for _, name := range []string{"a", "b", "c"} {
		ask("POST", path, template(name), http.StatusCreated)
	}
	ask("PUT", path+"/a", strings.Replace(template("a"), `"n":"a"`, `"n":"x"`, 1), http.StatusOK)
	ask("DELETE", path+"/c", "", http.StatusOK)
	ask("GET", path+"/a", "", http.StatusOK)
	ask("GET", path+"/nobody", "", http.StatusNotFound)
	ask("GET", path, "", http.StatusOK)
	ask("GET", path+"?labelSelector=n=x", "", http.StatusOK)
	ask("GET", path+"?watch=1&timeoutSeconds=1&resourceVersion=0", "", http.StatusOK)
	ask("POST", "/api/v1/namespaces/"+ns+"/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}`, http.StatusCreated)
	ask("GET", "/api/v1/namespaces/"+ns+"/secrets/s", "", http.StatusOK)
	c.pod(t, ns, "p", "")
	made := c.send(t, "POST", "/api/v1/namespaces/"+ns+"/serviceaccounts/default/token", // as kubelets ask for it
		`{"spec":{"expirationSeconds":3607,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p"}}}`, "Content-Type: application/json").object(t)
	account := c.withToken(made["status"].(map[string]any)["token"].(string))
	require.Equal(t, http.StatusForbidden, send(t, account, "GET", path, "").status)
	after := c.metrics(t)

	const of = `group="",resource="podtemplates"`
	for name, want := range map[string]float64{
		`etcd_requests_total{group="",operation="create",resource="podtemplates"}`:                                     3,
		`etcd_requests_total{group="",operation="update",resource="podtemplates"}`:                                     1,
		`etcd_requests_total{group="",operation="delete",resource="podtemplates"}`:                                     1,
		`etcd_request_duration_seconds_count{group="",operation="create",resource="podtemplates"}`:                     3,
		`etcd_requests_total{group="",operation="getCurrentResourceVersion",resource="podtemplates"}`:                  2,
		`apiserver_storage_events_received_total{` + of + `}`:                                                          5,
		`apiserver_watch_cache_events_received_total{` + of + `}`:                                                      5,
		`apiserver_watch_cache_events_dispatched_total{` + of + `}`:                                                    5,
		`apiserver_watch_cache_consistent_read_total{fallback="false",` + of + `,success="true"}`:                      2,
		`apiserver_watch_cache_read_wait_seconds_count{` + of + `}`:                                                    2,
		`apiserver_storage_list_total{group="",index="",resource="podtemplates",storage="watchcache"}`:                 2,
		`apiserver_storage_list_fetched_objects_total{group="",index="",resource="podtemplates",storage="watchcache"}`: 4,
		`apiserver_storage_list_evaluated_objects_total{` + of + `,storage="watchcache"}`:                              2,
		`apiserver_storage_list_returned_objects_total{` + of + `,storage="watchcache"}`:                               3,
		`apiserver_init_events_total{` + of + `}`:                                                                      2,
		`apiserver_storage_objects{resource="podtemplates"}`:                                                           2,
		`apiserver_resource_objects{` + of + `}`:                                                                       2,
	} {
		require.Equal(t, want, after[name]-before[name], name)
	}
	for _, name := range []string{
		`etcd_requests_total{group="",operation="get",resource="podtemplates"}`,
		`apiserver_resource_size_estimate_bytes{` + of + `}`,
		`apiserver_watch_cache_resource_version{` + of + `}`,
		`apiserver_storage_transformation_operations_total{resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="aesgcm"}`,
		`apiserver_storage_transformation_operations_total{resource="secrets",status="OK",transformation_type="from_storage",transformer_prefix="aesgcm"}`,
		`serviceaccount_valid_tokens_total`,
	} {
		require.Greater(t, after[name], before[name], name)
	}
	for _, name := range []string{
		`apiserver_storage_size_bytes{storage_cluster_id="etcd-0"}`, `apiserver_watch_cache_capacity{` + of + `}`, `rutter_feed_revision`,
		`kube_apiserver_clusterip_allocator_available_ips{cidr="10.96.0.0/16"}`,
	} {
		require.Positive(t, after[name], name)
	}
	require.Contains(t, after, "kube_apiserver_nodeport_allocator_available_ports")
}

// TestUnknownResourcesTakeNothing: whoever may ask may name any resource.
func TestUnknownResourcesTakeNothing(t *testing.T) {
	c := server(t)
	require.Equal(t, http.StatusNotFound, c.send(t, "GET", "/apis/nowhere.example.com/v1/phantoms", "").status)
	require.NotContains(t, c.metrics(t), `apiserver_resource_objects{group="nowhere.example.com",resource="phantoms"}`)
}

// TestPages: what the process is and how it was started, as text and in the version that
// is asked for.
func TestPages(t *testing.T) {
	c := alone(t, func(cfg *apiserver.Config) { cfg.Flags = map[string]string{"data-dir": "/somewhere"} })
	require.Regexp(t, "data-dir[:= ]+/somewhere", string(c.send(t, "GET", "/flagz", "").body)) // which sign is chance
	status := string(c.send(t, "GET", "/statusz", "").body)
	require.Contains(t, status, "apiserver statusz")
	require.Regexp(t, `Binary version[:= ]+1\.37\.2`, status)
	structured := c.send(t, "GET", "/flagz", "", "Accept: application/json;g=config.k8s.io;v=v1beta1;as=Flagz").object(t)
	require.Equal(t, map[string]any{"data-dir": "/somewhere"}, structured["flags"])
	require.Equal(t, http.StatusNotAcceptable, c.send(t, "GET", "/statusz", "", "Accept: application/json").status)
	nobody := c.as(t, "nobody").CoreV1().RESTClient()
	require.True(t, apierrors.IsForbidden(nobody.Get().AbsPath("/flagz").Do(t.Context()).Error()))
}
