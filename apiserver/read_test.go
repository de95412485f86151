package apiserver_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

func names(list *corev1.ConfigMapList) []string {
	out := []string{}
	for _, m := range list.Items {
		out = append(out, m.Name)
	}
	return out
}

// maps makes n ConfigMaps m0, m1, … in a namespace of their own.
func (c *cluster) maps(t testing.TB, n int) string {
	t.Helper()
	ns := c.namespace(t)
	for i := range n {
		c.configMap(t, ns, fmt.Sprintf("m%d", i), map[string]string{"number": fmt.Sprint(i)})
	}
	return ns
}

func TestLimitAndContinue(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 5)
	maps := c.client.CoreV1().ConfigMaps(ns)
	first, err := maps.List(t.Context(), metav1.ListOptions{Limit: 2})
	require.NoError(t, err)
	require.Equal(t, []string{"m0", "m1"}, names(first))
	require.Equal(t, int64(3), *first.RemainingItemCount)

	c.configMap(t, ns, "m1-late", nil) // is not part of the list that has begun
	second, err := maps.List(t.Context(), metav1.ListOptions{Limit: 2, Continue: first.Continue})
	require.NoError(t, err)
	require.Equal(t, []string{"m2", "m3"}, names(second))
	require.Equal(t, int64(1), *second.RemainingItemCount)
	require.Equal(t, first.ResourceVersion, second.ResourceVersion)
	third, err := maps.List(t.Context(), metav1.ListOptions{Limit: 2, Continue: second.Continue})
	require.NoError(t, err)
	require.Equal(t, []string{"m4"}, names(third))
	require.Empty(t, third.Continue)
	require.Nil(t, third.RemainingItemCount)

	_, err = maps.List(t.Context(), metav1.ListOptions{Continue: "nonsense"})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
	_, err = maps.List(t.Context(), metav1.ListOptions{Continue: first.Continue, ResourceVersion: first.ResourceVersion})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
}

func TestLimitWithSelectorFillsPages(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 9)
	opts := metav1.ListOptions{Limit: 2, LabelSelector: "number in (1,3,5,7,8)"}
	var got []string
	for {
		page, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), opts)
		require.NoError(t, err)
		require.Nil(t, page.RemainingItemCount, "the rest is not known under a selector")
		require.LessOrEqual(t, len(page.Items), 2)
		got = append(got, names(page)...)
		if opts.Continue = page.Continue; opts.Continue == "" {
			break
		}
	}
	require.Equal(t, []string{"m1", "m3", "m5", "m7", "m8"}, got)
}

// compact makes etcd forget what was before now, and the server know that it is now.
func (c *cluster) compact(t *testing.T, ns string) {
	t.Helper()
	c.configMap(t, ns, "zz-after", nil)
	_, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	_, err = c.etcd.Compact(t.Context(), c.revision(t))
	require.NoError(t, err)
}

func TestContinueAfterCompaction(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 3)
	maps := c.client.CoreV1().ConfigMaps(ns)
	first, err := maps.List(t.Context(), metav1.ListOptions{Limit: 2})
	require.NoError(t, err)
	c.compact(t, ns)

	_, err = maps.List(t.Context(), metav1.ListOptions{Limit: 2, Continue: first.Continue})
	require.True(t, apierrors.IsResourceExpired(err), "%v", err)
	var status apierrors.APIStatus
	require.True(t, errors.As(err, &status))
	token := status.Status().Continue
	require.NotEmpty(t, token, "410 must come with a token for the inconsistent rest")
	rest, err := maps.List(t.Context(), metav1.ListOptions{Limit: 10, Continue: token})
	require.NoError(t, err)
	require.Equal(t, []string{"m2", "zz-after"}, names(rest))
	require.NotEqual(t, first.ResourceVersion, rest.ResourceVersion)

	_, err = maps.List(t.Context(), metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	require.True(t, apierrors.IsResourceExpired(err), "%v", err)
}

func TestResourceVersionOfLists(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 2)
	maps := c.client.CoreV1().ConfigMaps(ns)
	old, err := maps.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	c.configMap(t, ns, "m2", nil)
	before, after := []string{"m0", "m1"}, []string{"m0", "m1", "m2"}
	exact, newer := metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan

	invalid := func(err error) bool { return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) }
	for name, tc := range map[string]struct {
		opts metav1.ListOptions
		want []string
		fail func(error) bool
	}{
		"latest":                  {opts: metav1.ListOptions{}, want: after},
		"exact":                   {opts: metav1.ListOptions{ResourceVersion: old.ResourceVersion, ResourceVersionMatch: exact}, want: before},
		"exact with limit":        {opts: metav1.ListOptions{ResourceVersion: old.ResourceVersion, ResourceVersionMatch: exact, Limit: 1}, want: before[:1]},
		"version with limit":      {opts: metav1.ListOptions{ResourceVersion: old.ResourceVersion, Limit: 1}, want: before[:1]},
		"not older":               {opts: metav1.ListOptions{ResourceVersion: old.ResourceVersion, ResourceVersionMatch: newer}, want: after},
		"exact zero":              {opts: metav1.ListOptions{ResourceVersion: "0", ResourceVersionMatch: exact}, fail: invalid},
		"match without version":   {opts: metav1.ListOptions{ResourceVersionMatch: exact}, fail: invalid},
		"unknown match":           {opts: metav1.ListOptions{ResourceVersion: "1", ResourceVersionMatch: "Roughly"}, fail: invalid},
		"no number":               {opts: metav1.ListOptions{ResourceVersion: "new"}, fail: invalid},
		"initial events of lists": {opts: metav1.ListOptions{SendInitialEvents: new(bool)}, fail: invalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := maps.List(t.Context(), tc.opts)
			if tc.fail != nil {
				require.True(t, tc.fail(err), "%v", err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, names(got))
		})
	}
	// "0" is any state the server has, which after a consistent list is that one.
	got, err := maps.List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	require.NoError(t, err)
	require.Equal(t, after, names(got))
}

func TestResourceVersionOfGets(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	made := c.configMap(t, ns, "m", nil)
	maps := c.client.CoreV1().ConfigMaps(ns)
	for _, rv := range []string{"", made.ResourceVersion} {
		got, err := maps.Get(t.Context(), "m", metav1.GetOptions{ResourceVersion: rv})
		require.NoError(t, err)
		require.Equal(t, made, got)
	}
	_, err := maps.Get(t.Context(), "m", metav1.GetOptions{ResourceVersion: "x"})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
}

// A revision that is yet to come is refused with a hint to try again, which client-go
// follows by itself.
func TestFutureResourceVersion(t *testing.T) {
	c := server(t)
	path := "/api/v1/namespaces/" + c.maps(t, 1) + "/configmaps"
	for _, rev := range []string{strconv.FormatInt(c.revision(t)+1000, 10), "9223372036854775807", "18446744073709551615"} {
		future := "resourceVersion=" + rev
		for _, p := range []string{path + "?" + future, path + "?resourceVersionMatch=Exact&" + future, path + "?limit=1&" + future, path + "/m0?" + future} {
			a := c.send(t, "GET", p, "")
			require.Equal(t, 504, a.status, p)
			require.Contains(t, a.apiStatus(t).Message, "Too large resource version: "+rev)
			require.Equal(t, "1", a.header.Get("Retry-After"))
			require.True(t, apierrors.HasStatusCause(&apierrors.StatusError{ErrStatus: a.apiStatus(t)}, metav1.CauseTypeResourceVersionTooLarge))
		}
		// A watch waits for it instead, as it does for any revision.
		for _, unusual := range []string{"", "&unusual=1"} { // is upstream's handler's
			watch := c.send(t, "GET", path+"?watch=true&timeoutSeconds=1&"+future+unusual, "")
			require.Equal(t, 200, watch.status)
			require.Empty(t, watch.body)
		}
	}
}

func TestSelectors(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	c.pod(t, ns, "on-1", "node-1")
	c.pod(t, ns, "on-2", "node-2")
	failed := c.pod(t, ns, "failed", "node-1")
	failed.Status.Phase = corev1.PodFailed
	_, err := c.client.CoreV1().Pods(ns).UpdateStatus(t.Context(), failed, metav1.UpdateOptions{})
	require.NoError(t, err)
	for selector, want := range map[string][]string{
		"spec.nodeName=node-1":                      {"failed", "on-1"},
		"spec.nodeName=node-1,status.phase=Pending": {"on-1"},
		"status.phase!=Failed":                      {"on-1", "on-2"},
		"metadata.name=on-2":                        {"on-2"},
		"metadata.namespace=" + ns:                  {"failed", "on-1", "on-2"},
		"metadata.namespace=elsewhere":              {},
	} {
		for _, rv := range []string{"", "0"} {
			list, err := c.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{FieldSelector: selector, ResourceVersion: rv})
			require.NoError(t, err, selector)
			got := []string{}
			for _, p := range list.Items {
				got = append(got, p.Name)
			}
			require.Equal(t, want, got, selector)
		}
	}
	_, err = c.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.colour=red"})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
	_, err = c.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "a in b"})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
}

func TestEventsInBothGroups(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	for _, name := range []string{"a", "b"} {
		_, err := c.client.CoreV1().Events(ns).Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e-" + name},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: name, UID: "1"}, Reason: "Tested", Type: "Normal", Message: "m"}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	got, err := c.client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,involvedObject.name=a,involvedObject.uid=1"})
	require.NoError(t, err)
	require.Len(t, got.Items, 1)
	require.Equal(t, "e-a", got.Items[0].Name)
	other, err := c.client.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=b"})
	require.NoError(t, err)
	require.Len(t, other.Items, 1)
	require.Equal(t, "m", other.Items[0].Note)
	require.Equal(t, "events.k8s.io/v1", c.send(t, "GET", "/apis/events.k8s.io/v1/namespaces/"+ns+"/events", "").object(t)["apiVersion"])

	// Events expire: they are kept under a lease.
	resp, err := c.etcd.Get(t.Context(), "/rutter/registry/core/events/"+ns+"/e-a")
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	require.NotZero(t, resp.Kvs[0].Lease)
}

func TestTableAndMetadataForms(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 2)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	table := "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"
	for include, check := range map[string]func(object any){
		"None":     func(o any) { require.Nil(t, o) },
		"Metadata": func(o any) { require.Equal(t, "PartialObjectMetadata", o.(map[string]any)["kind"]) },
		"Object":   func(o any) { require.Equal(t, "ConfigMap", o.(map[string]any)["kind"]) },
	} {
		for _, p := range []string{path, path + "/m0"} {
			a := c.send(t, "GET", p+"?includeObject="+include, "", table)
			require.Equal(t, 200, a.status, "%s", a.body)
			got := a.object(t)
			require.Equal(t, "Table", got["kind"])
			require.Equal(t, "Name", got["columnDefinitions"].([]any)[0].(map[string]any)["name"])
			row := got["rows"].([]any)[0].(map[string]any)
			require.Equal(t, "m0", row["cells"].([]any)[0])
			check(row["object"])
		}
	}
	a := c.send(t, "GET", path, "", "Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
	var list metav1.PartialObjectMetadataList
	require.NoError(t, json.Unmarshal(a.body, &list))
	require.Equal(t, "PartialObjectMetadataList", list.Kind)
	require.Len(t, list.Items, 2)
	require.NotEmpty(t, list.Items[0].ResourceVersion)
	require.NotContains(t, string(a.body), `"data"`)
	a = c.send(t, "GET", path+"/m0", "", "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	require.Equal(t, "PartialObjectMetadata", a.object(t)["kind"])
	a = c.send(t, "GET", path, "", "Accept: application/json;as=Chair;v=v1;g=meta.k8s.io")
	require.Equal(t, 406, a.status, "%s", a.body)
}

func TestFormats(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	a := c.send(t, "POST", path, "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: m\ndata:\n  a: \"1\"\n", "Content-Type: application/yaml", "Accept: application/yaml")
	require.Equal(t, 201, a.status, "%s", a.body)
	require.Equal(t, "application/yaml", a.header.Get("Content-Type"))
	var m corev1.ConfigMap
	require.NoError(t, yaml.UnmarshalStrict(a.body, &m))
	require.Equal(t, "m", m.Name)

	binary := rest.CopyConfig(c.config)
	binary.ContentType = "application/vnd.kubernetes.protobuf"
	got, err := clientOf(t, binary).CoreV1().ConfigMaps(ns).Get(t.Context(), "m", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1"}, got.Data)
	list, err := clientOf(t, binary).CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"m"}, names(list))
	_, err = clientOf(t, binary).CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("n", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	a = c.send(t, "GET", path, "", "Accept: application/vnd.kubernetes.protobuf")
	require.Equal(t, "k8s\x00", string(a.body[:4]))

	plain := c.send(t, "GET", path+"/m", "")
	require.Equal(t, "application/json", plain.header.Get("Content-Type"))
	pretty := c.send(t, "GET", path+"/m?pretty=1", "")
	require.Greater(t, strings.Count(string(pretty.body), "\n"), strings.Count(string(plain.body), "\n"))
	require.JSONEq(t, string(plain.body), string(pretty.body))
}

func TestListOfNothingHasItems(t *testing.T) {
	c := server(t)
	a := c.send(t, "GET", "/api/v1/namespaces/"+c.namespace(t)+"/configmaps", "")
	require.Contains(t, string(a.body), `"items":[]`)
	require.Equal(t, "ConfigMapList", a.object(t)["kind"])
}

func TestHTTPAnswers(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	big := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`
	for name, tc := range map[string]struct {
		method, path, body string
		headers            []string
		want               int
		reason             metav1.StatusReason // of the Status in the body, if there must be one
	}{
		"head":                  {"HEAD", path, "", nil, 405, ""}, // as upstream,
		"head of nothing":       {"HEAD", path + "/absent", "", nil, 405, ""},
		"object not there":      {"GET", path + "/absent", "", nil, 404, metav1.StatusReasonNotFound},
		"resource not there":    {"GET", "/api/v1/namespaces/" + ns + "/widgets", "", nil, 404, ""},
		"subresource not there": {"GET", path + "/m0/colour", "", nil, 404, ""},
		"version not there":     {"GET", "/apis/apps/v9/deployments", "", nil, 404, ""},
		"group not there":       {"GET", "/apis/example.com/v1/widgets", "", nil, 404, ""},
		"path not there":        {"GET", "/nothing", "", nil, 404, ""},
		"put on a collection":   {"PUT", path, "{}", nil, 405, metav1.StatusReasonMethodNotAllowed},
		"post on an object":     {"POST", path + "/m0", "{}", nil, 405, metav1.StatusReasonMethodNotAllowed},
		"unknown body":          {"POST", path, "x", []string{"Content-Type: text/plain"}, 415, metav1.StatusReasonUnsupportedMediaType},
		"unknown answer":        {"GET", path, "", []string{"Accept: text/csv"}, 406, ""},
		"too large":             {"POST", path, big, []string{"Content-Type: application/json"}, 413, metav1.StatusReasonRequestEntityTooLarge},
		"not JSON":              {"POST", path, "{", []string{"Content-Type: application/json"}, 400, metav1.StatusReasonBadRequest},
		"empty body":            {"POST", path, "", []string{"Content-Type: application/json"}, 400, ""},
		"other name":            {"PUT", path + "/m0", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m1"}}`, []string{"Content-Type: application/json"}, 400, metav1.StatusReasonBadRequest},
		"other namespace":       {"POST", path, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"y"}}`, []string{"Content-Type: application/json"}, 400, metav1.StatusReasonBadRequest},
		"already there":         {"POST", path, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m0"}}`, []string{"Content-Type: application/json"}, 409, metav1.StatusReasonAlreadyExists},
		"deprecated watch":      {"GET", "/api/v1/watch/namespaces/" + ns + "/configmaps?timeoutSeconds=1", "", nil, 200, ""},
		"root":                  {"GET", "/", "", nil, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.send(t, tc.method, tc.path, tc.body, tc.headers...)
			require.Equal(t, tc.want, a.status, "%s", a.body)
			if tc.reason != "" {
				status := a.apiStatus(t)
				require.Equal(t, tc.reason, status.Reason)
				require.Equal(t, int32(tc.want), status.Code)
			}
			if tc.method == "HEAD" {
				require.Empty(t, a.body)
			}
			require.NotEmpty(t, a.header.Get("Audit-Id"))
		})
	}
}

// Names that would lead elsewhere if they were files' are refused as namespaces, too.
func TestNamespacesOfDots(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	for _, dots := range []string{"%2e", "%2e%2e"} {
		for _, path := range []string{"/api/v1/namespaces/" + dots + "/configmaps", "/api/v1/namespaces/" + dots + "/secrets", group + "/v1/namespaces/" + dots + "/widgets"} {
			for _, query := range []string{"", "?limit=1", "?watch=true&timeoutSeconds=1"} {
				a := c.send(t, "GET", path+query, "")
				require.Equal(t, 500, a.status, "%s: %s", path+query, a.body)
				require.Contains(t, a.apiStatus(t).Message, "invalid key")
			}
			require.Equal(t, 500, c.send(t, "DELETE", path, "").status)
		}
	}
}

// Fixed paths are served whatever the method, as kube-apiserver does, and what is below
// them is refused with a Status.
func TestFixedPathsTakeAnyMethod(t *testing.T) {
	c := server(t)
	for _, method := range []string{"POST", "FOO", "get"} {
		for path, want := range map[string]int{"/healthz": 200, "/livez/ping": 200, "/metrics": 200, "/openapi/v3": 200, "/": 200, "/statusz": 200, "/version": 405, "/nowhere": 404} {
			require.Equal(t, want, c.send(t, method, path, "").status, "%s %s", method, path)
		}
	}
	a := c.send(t, "GET", "/version/more", "")
	require.Equal(t, 404, a.status)
	require.Equal(t, metav1.StatusReasonNotFound, a.apiStatus(t).Reason)
	require.Equal(t, "metrics reset\n", string(c.send(t, "DELETE", "/metrics", "").body))
}

// Creating at the path of a name is refused: who may create that object only could create
// any other. Subresources that are not there are not found.
func TestCreateAtAName(t *testing.T) {
	c := server(t)
	path := c.define(t, widgets) + "/v1/namespaces/default/widgets/a"
	require.Equal(t, 405, c.send(t, "POST", path, `{"metadata":{"name":"b"}}`, "Content-Type: application/json").status)
	require.Equal(t, 404, c.send(t, "POST", path+"/nowhere", "{}", "Content-Type: application/json").status)
	require.Equal(t, 405, c.send(t, "POST", "/api/v1/namespaces/default/configmaps/a", `{"metadata":{"name":"b"}}`, "Content-Type: application/json").status)
}
