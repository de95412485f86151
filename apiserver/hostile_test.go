package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// refusal checks an answer to a request that may make no sense: it is never the server's
// fault, and what refuses it is a Status whose code is that of the response.
func refusal(t *testing.T, a answer) {
	t.Helper()
	require.Less(t, a.status, http.StatusInternalServerError, "%s", a.body)
	if a.status < http.StatusBadRequest {
		return
	}
	status := a.apiStatus(t)
	require.Equal(t, metav1.StatusFailure, status.Status)
	require.Equal(t, int32(a.status), status.Code)
	require.NotEmpty(t, status.Message)
	require.NotEmpty(t, status.Reason)
}

// FuzzList reads with any parameters.
func FuzzList(f *testing.F) {
	c := server(f)
	path := "/api/v1/namespaces/" + c.maps(f, 3) + "/configmaps"
	first := c.send(f, "GET", path+"?limit=1", "").object(f)
	token := first["metadata"].(map[string]any)["continue"].(string)
	f.Add("", "", "", "", "", "", "application/json")
	f.Add("number in (0,1),!other", "metadata.name=m0", "2", "", "", "", "*/*")
	f.Add("number>0", "metadata.name!=m0,metadata.namespace=", "1", token, "", "", "application/json;as=Table;g=meta.k8s.io;v=v1")
	f.Add("", "", "0", token[:len(token)/2], "", "", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
	f.Add("in in (in)", "data.a=1", "-1", "e30", "1", "Exact", "application/json;as=Table;g=x;v=y")
	f.Add("=", "==", "9223372036854775807", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4vIn0", "0", "NotOlderThan", "")
	f.Add("a=b,", "metadata.name", "1e3", "", "18446744073709551615", "Exact", "text/plain, application/json;q=0.1")
	f.Add("\x00", "\xff", "٣", "\n", "-1", "exact", ";;,")
	f.Fuzz(func(t *testing.T, labels, fields, limit, token, revision, match, accept string) {
		if strings.ContainsFunc(accept, unicode.IsControl) {
			return // no client sends it
		}
		query := url.Values{"labelSelector": {labels}, "fieldSelector": {fields}, "limit": {limit}, "continue": {token},
			"resourceVersion": {revision}, "resourceVersionMatch": {match}}
		a := c.send(t, "GET", path+"?"+query.Encode(), "", "Accept: "+accept)
		if a.status == http.StatusGatewayTimeout { // a revision that is not there yet
			require.Equal(t, metav1.StatusReasonTimeout, a.apiStatus(t).Reason)
			return
		}
		refusal(t, a)
	})
}

// writeMethods are what seeds name by number.
var writeMethods = []string{"POST", "PUT", patchMethod: "PATCH", "DELETE"}

const patchMethod = 2

// addWrites adds writes of ConfigMap m0 that make sense, and such as make none.
func addWrites(f *testing.F) {
	const whole = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m0"},"data":{"a":"1"}}`
	for i := range writeMethods {
		method := uint(i)
		f.Add(method, "application/json", whole, "", "Strict")
		f.Add(method, "application/json", whole[:40], "tester", "")
		f.Add(method, "application/yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: m0}, data: &a {b: *a}}", "", "Warn")
		f.Add(method, "application/vnd.kubernetes.protobuf", "k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x06\x0a\x04\x0a\x02m0\x1a\x00\x22\x00", "", "")
		f.Add(method, "application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m0","name":"m1","labels":[],"ownerReferences":[{}],"managedFields":[{"fieldsV1":3}]},"data":{"a":1}}`, "", "Strict")
		f.Add(method, "application/json", strings.Repeat(`{"a":`, 20000)+"1"+strings.Repeat("}", 20000), "", "Ignore")
	}
	f.Add(uint(patchMethod), "application/json-patch+json", `[{"op":"add","path":"/data/b","value":"2"},{"op":"test","path":"/data/a","value":"9"}]`, "", "")
	f.Add(uint(patchMethod), "application/json-patch+json", `[{"op":"copy","from":"/data","path":"/data/a/-"},{"op":"move"},{"op":"fly","path":7}]`, "", "")
	f.Add(uint(patchMethod), "application/merge-patch+json", `{"metadata":null,"data":["a"],"kind":7}`, "", "Strict")
	f.Add(uint(patchMethod), "application/strategic-merge-patch+json", `{"$patch":"replace","data":{"$retainKeys":[7]},"metadata":{"ownerReferences":[{"$patch":"delete"}]}}`, "", "")
	f.Add(uint(patchMethod), "application/apply-patch+yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m0}\ndata: {a: 3, a: 4}\n", "tester", "")
	f.Add(uint(patchMethod), "application/apply-patch+yaml", "- a\n- &x [*x]\n", strings.Repeat("m", 200), "Fast")
	f.Add(uint(patchMethod+1), "application/json", `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":7},"gracePeriodSeconds":-9,"propagationPolicy":"Sideways"}`, "", "")
}

// FuzzWrite sends any body as any type to what is there, without keeping it.
func FuzzWrite(f *testing.F) {
	c := server(f)
	path := "/api/v1/namespaces/" + c.maps(f, 1) + "/configmaps"
	addWrites(f)
	f.Fuzz(func(t *testing.T, which uint, kind, body, manager, validation string) {
		fuzzWrite(t, c, path, which, kind, body, manager, validation)
	})
}

// FuzzDryRunOfThePast does the same to the past, whose object stays what it was while
// nothing is written.
func FuzzDryRunOfThePast(f *testing.F) {
	p := withHistory(f)
	ns := p.maps(f, 1)
	path := fmt.Sprintf("/at/rev-%d/api/v1/namespaces/%s/configmaps", p.revision(f), ns)
	was := string(p.send(f, "GET", path+"/m0", "", "Accept: application/yaml").body)
	now := p.revision(f)
	addWrites(f)
	f.Fuzz(func(t *testing.T, which uint, kind, body, manager, validation string) {
		fuzzWrite(t, p.cluster, path, which, kind, body, manager, validation)
		require.Equal(t, was, string(p.send(t, "GET", path+"/m0", "", "Accept: application/yaml").body))
		require.Equal(t, now, p.revision(t))
	})
}

func fuzzWrite(t *testing.T, c *cluster, path string, which uint, kind, body, manager, validation string) {
	t.Helper()
	method := writeMethods[which%uint(len(writeMethods))]
	if strings.ContainsFunc(kind, unicode.IsControl) {
		return
	}
	query := url.Values{"dryRun": {"All"}}
	if manager != "" {
		query.Set("fieldManager", manager)
	}
	if validation != "" {
		query.Set("fieldValidation", validation)
	}
	target := path
	if method != "POST" {
		target += "/m0"
	}
	a := c.send(t, method, target+"?"+query.Encode(), body, "Content-Type: "+kind)
	if bytes.Contains(a.body, []byte(`"message":"failed to create typed patch object`)) {
		return // an apply of the wrong type, which upstream's code calls an error of the server
	}
	refusal(t, a)
}

// TestStalledWatchesHarmNobody holds watches whose clients have stopped reading while
// more is written than the kernel and HTTP/2 buffer for them.
func TestStalledWatchesHarmNobody(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	path := "/api/v1/namespaces/" + ns + "/configmaps?watch=1&resourceVersion=" + fmt.Sprint(c.revision(t))
	stalled := make([]*bufio.Scanner, 5)
	for i := range stalled {
		stalled[i] = c.open(t, path)
	}
	reader := c.open(t, path)
	const changes = 100
	big := strings.Repeat("x", 256<<10)
	for i := range changes {
		m := configMap(fmt.Sprintf("m%d", i), nil)
		m.Data["a"] = big
		_, err := c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), m, metav1.CreateOptions{})
		require.NoError(t, err)
		require.True(t, reader.Scan(), "a watch beside stalled ones ended: %v", reader.Err())
		require.Contains(t, reader.Text()[:1000], fmt.Sprintf(`"name":"m%d"`, i))
	}
	for _, s := range stalled { // who reads again misses nothing
		for i := range changes {
			require.True(t, s.Scan(), "change %d: %v", i, s.Err())
			require.Contains(t, s.Text()[:1000], fmt.Sprintf(`"name":"m%d"`, i))
		}
	}
}

// open begins a request on a connection of its own whose answer is read line by line.
func (c *cluster) open(t *testing.T, path string) *bufio.Scanner {
	t.Helper()
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), "GET", c.config.Host+path, nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close(); client.CloseIdleConnections() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	return lines
}

// TestCutRequestsLeaveNothing breaks off requests in the middle of their bodies.
func TestCutRequestsLeaveNothing(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	defer client.CloseIdleConnections()
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		body := &cutBody{text: strings.NewReader(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cut"},"data":{"a":"` + strings.Repeat("x", i<<10)), cut: cancel}
		req, err := http.NewRequestWithContext(ctx, "POST", c.config.Host+"/api/v1/namespaces/"+ns+"/configmaps", body)
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		require.ErrorIs(t, err, context.Canceled)
	}
	list, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, list.Items)
}

// cutBody gives its text, then breaks the request off.
type cutBody struct {
	text *strings.Reader
	cut  context.CancelFunc
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.text.Len() > 0 {
		return b.text.Read(p)
	}
	b.cut()
	return 0, context.Canceled
}

// TestFlowControl gives a user a priority level without seats.
func TestFlowControl(t *testing.T) {
	c := server(t)
	flows := c.client.FlowcontrolV1()
	none := int32(0)
	_, err := flows.PriorityLevelConfigurations().Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "no-seats"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: &none, LendablePercent: &none, BorrowingLimitPercent: &none,
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	flow, err := flows.FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "crowd"},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "no-seats"}, MatchingPrecedence: 10,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "crowd"}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}}},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		require.NoError(t, flows.FlowSchemas().Delete(ctx, "crowd", metav1.DeleteOptions{}))
		require.NoError(t, flows.PriorityLevelConfigurations().Delete(ctx, "no-seats", metav1.DeleteOptions{}))
	})
	const path = "/api/v1/namespaces/default/configmaps"
	eventually(t, func() error { // without seats, one request goes ahead at a time
		answers := make([]answer, 8)
		var wait sync.WaitGroup
		for i := range answers {
			wait.Go(func() {
				answers[i] = c.send(t, "GET", path, "", "Impersonate-User: crowd", "Impersonate-Group: system:authenticated")
			})
		}
		wait.Wait()
		i := slices.IndexFunc(answers, func(a answer) bool { return a.status == http.StatusTooManyRequests })
		if i < 0 {
			return errors.New("all went ahead")
		}
		require.NotEmpty(t, answers[i].header.Get("Retry-After"))
		require.Equal(t, string(flow.UID), answers[i].header.Get("X-Kubernetes-PF-FlowSchema-UID"))
		return nil
	})
	require.Equal(t, http.StatusOK, c.send(t, "GET", path, "").status, "others are served")
}
