package apiserver_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// decoding makes upstream's handlers answer, which decode, instead of the stored bytes: it
// asks for nothing, but stored bytes are never pretty.
const decoding = "pretty=false"

// zoo is objects of many kinds, with whatever selectors and tables look at.
type zoo struct {
	*cluster
	ns, custom string
}

func newZoo(t *testing.T) *zoo {
	t.Helper()
	c := server(t)
	z := &zoo{cluster: c, ns: c.namespace(t)}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 30 {
		z.addPod(t, random, n)
	}
	for n := range 5 {
		c.configMap(t, z.ns, fmt.Sprintf("m%d", n), map[string]string{"n": fmt.Sprint(n), "odd.example.org/k.e_y": "v.1-x"})
		_, err := c.client.CoreV1().Services(z.ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", n)},
			Spec: corev1.ServiceSpec{ClusterIP: []string{"", "None"}[n%2], Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = c.client.CoreV1().Events(z.ns).Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("e%d", n)}, Type: "Normal", Reason: "Seen",
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: z.ns, Name: fmt.Sprintf("p%d", n%2)}, Source: corev1.EventSource{Component: []string{"", "kubelet"}[n%2]}, ReportingController: "reporter",
			FirstTimestamp: metav1.NewTime(time.Now().Add(-90 * time.Minute)), LastTimestamp: metav1.NewTime(time.Now().Add(-time.Hour)), Count: int32(n)}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: "Never", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
	_, err := c.client.BatchV1().Jobs(z.ns).Create(t.Context(), job, metav1.CreateOptions{})
	require.NoError(t, err)
	z.addCustom(t)
	return z
}

func (z *zoo) addPod(t *testing.T, random *rand.Rand, n int) {
	t.Helper()
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	pod := benchPod(fmt.Sprintf("p%d", n), pick("", "node-a", "node-b"))
	pod.Labels = map[string]string{"app": pick("a", "b", "c"), "empty": "", pick("x", "example.org/Y_z"): pick("1", "2", "v.1-x")}
	pod.Annotations = map[string]string{"text": "<&> \"\\\u2028 ü\n" + pick("", "Z\"")}
	pod.Spec.HostNetwork = random.IntN(4) == 0
	if pod.Spec.HostNetwork {
		pod.Spec.Containers[0].Ports, pod.Spec.Containers[1].Ports = nil, nil
	}
	made, err := z.client.CoreV1().Pods(z.ns).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	if random.IntN(3) == 0 {
		return
	}
	made.Status = benchStatus()
	made.Status.Phase = corev1.PodPhase(pick("Running", "Succeeded", "Failed"))
	made.Status.ContainerStatuses[0].RestartCount = int32(random.IntN(3))
	made.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(time.Now().Add(-20 * time.Minute)), Reason: "Error", ExitCode: 1}
	_, err = z.client.CoreV1().Pods(z.ns).UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
	require.NoError(t, err)
}

// addCustom defines a kind with columns and makes objects of it.
func (z *zoo) addCustom(t *testing.T) {
	t.Helper()
	group := z.ns + ".example.org"
	z.custom = "/apis/" + group + "/v1/namespaces/" + z.ns + "/beasts"
	crd := fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"beasts.%[1]s"},"spec":{"group":"%[1]s","scope":"Namespaced",
		"names":{"plural":"beasts","singular":"beast","kind":"Beast","listKind":"BeastList"},"versions":[{"name":"v1","served":true,"storage":true,
		"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}},
		"additionalPrinterColumns":[{"name":"Legs","type":"integer","jsonPath":".spec.legs"},{"name":"Since","type":"date","jsonPath":".spec.since"},{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}]}]}}`, group)
	a := z.send(t, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd, "Content-Type: application/json")
	require.Equal(t, 201, a.status, "%s", a.body)
	t.Cleanup(func() { z.undefine(t, "beasts."+group) })
	client, err := dynamic.NewForConfig(z.config)
	require.NoError(t, err)
	eventually(t, func() error {
		_, err := client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "beasts"}).Namespace(z.ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
	for n := range 6 {
		beast := &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1", "kind": "Beast",
			"metadata": map[string]any{"name": fmt.Sprintf("b%d", n), "labels": map[string]any{"n": fmt.Sprint(n % 2)}},
			"spec":     map[string]any{"legs": int64(n), "since": time.Now().Add(-26 * time.Hour).UTC().Format(time.RFC3339), "odd": "<\u2028>", "labels": map[string]any{"n": "7"}}}}
		_, err := client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "beasts"}).Namespace(z.ns).Create(t.Context(), beast, metav1.CreateOptions{})
		require.NoError(t, err)
	}
}

var accepts = map[string]string{
	"json": "application/json", "protobuf": acceptProto, "table": acceptTable, "metadata": acceptMetadata, "metadata protobuf": acceptMetaProto,
}

// same compares two answers: protobuf byte by byte, JSON by its meaning.
func same(a, b answer) error {
	if a.status != b.status || a.header.Get("Content-Type") != b.header.Get("Content-Type") {
		return fmt.Errorf("%d %s, want %d %s: %s", a.status, a.header.Get("Content-Type"), b.status, b.header.Get("Content-Type"), b.body)
	}
	return sameBody(a.header.Get("Content-Type"), a.body, b.body)
}

func sameBody(contentType string, a, b []byte) error {
	if strings.Contains(contentType, "json") {
		var err error
		if a, err = normal(a); err == nil {
			b, err = normal(b)
		}
		if err != nil {
			return err
		}
	}
	if string(a) != string(b) {
		at := 0
		for at < min(len(a), len(b)) && a[at] == b[at] {
			at++
		}
		cut := func(s []byte) []byte { return s[max(0, at-100):min(len(s), at+200)] }
		return fmt.Errorf("bodies differ at %d:\n%q\n%q", at, cut(a), cut(b))
	}
	return nil
}

func normal(body []byte) ([]byte, error) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	return json.Marshal(v)
}

// What is answered from stored bytes is what upstream's handlers answer by decoding.
func TestStoredBytesAnswerAsDecodedObjects(t *testing.T) {
	z := newZoo(t)
	core := "/api/v1/namespaces/" + z.ns
	everything := []string{"", "resourceVersion=0", "limit=4", "limit=100", "labelSelector=app%3Da", "labelSelector=nothing%3Dhere", "labelSelector=%21x", "labelSelector=n+in+(1,3),n&limit=1",
		"labelSelector=n%3D1", "labelSelector=bad%3D%3D%3D", "fieldSelector=metadata.name%3Dm1", "fieldSelector=metadata.name!%3Dm1", "fieldSelector=nonsense%3D1", "resourceVersion=99999999", "resourceVersionMatch=Exact",
		"limit=-1", "limit=x", "continue=x"}
	paths := map[string][]string{
		core + "/pods": append(slices.Clone(everything), "fieldSelector=spec.nodeName%3Dnode-a", "fieldSelector=spec.host%3Dnode-a", "fieldSelector=spec.nodeName%3D", "fieldSelector=status.phase!%3DRunning,spec.nodeName%3Dnode-b&limit=2",
			"fieldSelector=spec.hostNetwork%3Dtrue", "fieldSelector=spec.hostNetwork%3Dfalse", "fieldSelector=status.podIP%3D10.1.2.3", "fieldSelector=spec.restartPolicy%3DAlways,spec.schedulerName%3Ddefault-scheduler,spec.serviceAccountName%3Ddefault", "labelSelector=app%3Da,x&fieldSelector=spec.nodeName%3Dnode-a"),
		"/api/v1/pods":       {"fieldSelector=metadata.namespace%3D" + z.ns, "fieldSelector=metadata.name%3Dp1", "fieldSelector=status.nominatedNodeName%3Dx"},
		core + "/configmaps": everything,
		core + "/services":   append(slices.Clone(everything), "fieldSelector=spec.clusterIP%3DNone", "fieldSelector=spec.type%3DClusterIP"),
		core + "/events":     append(slices.Clone(everything), "fieldSelector=involvedObject.name%3Dp1,involvedObject.kind%3DPod", "fieldSelector=source%3Dreporter", "fieldSelector=source%3Dkubelet", "fieldSelector=reason%3DSeen,type%3DNormal,reportingComponent%3Dreporter"),
		"/apis/events.k8s.io/v1/namespaces/" + z.ns + "/events": everything,
		"/apis/batch/v1/namespaces/" + z.ns + "/jobs":           append(slices.Clone(everything), "fieldSelector=status.successful%3D0"),
		core + "/secrets":    everything,
		core + "/endpoints":  {""},
		"/api/v1/namespaces": append(slices.Clone(everything), "fieldSelector=status.phase%3DActive", "fieldSelector=metadata.name%3D"+z.ns),
		"/api/v1/nodes":      {"", "fieldSelector=spec.unschedulable%3Dfalse"},
		z.custom:             everything,
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions": {"", "limit=1"},
		"/apis/autoscaling/v1/horizontalpodautoscalers":           {""},
	}
	for path, queries := range paths {
		for form, accept := range accepts {
			t.Run(strings.ReplaceAll(path, z.ns, "ns")+" "+form, func(t *testing.T) {
				for _, query := range queries {
					z.compare(t, path+"?"+query, accept)
				}
				if form == "table" {
					for _, include := range []string{"None", "Metadata", "Object", "Nonsense"} {
						z.compare(t, path+"?includeObject="+include, accept)
					}
				}
			})
		}
	}
	for _, path := range []string{core + "/pods/p1", core + "/pods/none", core + "/pods/p2?resourceVersion=0", core + "/configmaps/m1", z.custom + "/b1", z.custom + "/none", "/api/v1/namespaces/" + z.ns} {
		for form, accept := range accepts {
			t.Run(strings.ReplaceAll(path, z.ns, "ns")+" "+form, func(t *testing.T) {
				z.compare(t, path, strings.ReplaceAll(accept, "MetadataList", "Metadata"))
			})
		}
	}
}

// compare asks twice. Revisions and ages may move between the two, so it tries again.
func (z *zoo) compare(t *testing.T, path, accept string) {
	t.Helper()
	with := path + "?" + decoding
	if strings.Contains(path, "?") {
		with = path + "&" + decoding
	}
	eventually(t, func() error {
		fast := z.send(t, "GET", path, "", "Accept: "+accept, "Accept-Encoding: identity")
		slow := z.send(t, "GET", with, "", "Accept: "+accept, "Accept-Encoding: identity")
		if err := same(fast, slow); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
}

// A long list goes through its pages whatever happens meanwhile, in any form.
func TestPagesOfForms(t *testing.T) {
	z := newZoo(t)
	path := "/api/v1/namespaces/" + z.ns + "/pods?limit=7"
	whole := z.send(t, "GET", path[:strings.Index(path, "?")], "", "Accept: application/json")
	want := len(whole.object(t)["items"].([]any))
	for _, form := range []string{"json", "metadata", "table"} {
		got, next := 0, ""
		for page := 0; ; page++ {
			a := z.send(t, "GET", path+next, "", "Accept: "+accepts[form])
			require.Equal(t, 200, a.status, "%s", a.body)
			o := a.object(t)
			for _, name := range []string{"items", "rows"} {
				if items, ok := o[name].([]any); ok {
					got += len(items)
				}
			}
			token, _ := o["metadata"].(map[string]any)["continue"].(string)
			if token == "" {
				break
			}
			require.EqualValues(t, want-got, o["metadata"].(map[string]any)["remainingItemCount"])
			next = "&continue=" + url.QueryEscape(token)
			z.pod(t, z.ns, fmt.Sprintf("p0-late-%s-%d", form, page), "")
		}
		require.Equal(t, want, got, form)
		want = len(podsOf(t, z)) // what came late belongs to the next list
	}
}

func podsOf(t *testing.T, z *zoo) []corev1.Pod {
	t.Helper()
	list, err := z.client.CoreV1().Pods(z.ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	return list.Items
}

// Long lists are compressed for those who take it, unless they are plain JSON.
func TestLongListsAreCompressed(t *testing.T) {
	z := newZoo(t)
	path := "/api/v1/namespaces/" + z.ns + "/pods"
	for form, want := range map[string]string{"json": "", "protobuf": "", "table": "", "metadata": ""} {
		a := z.send(t, "GET", path+"?limit=1", "", "Accept: "+accepts[form], "Accept-Encoding: gzip")
		require.Equal(t, want, a.header.Get("Content-Encoding"), form)
	}
	big := z.namespace(t)
	for n := range 3 {
		m := configMap(fmt.Sprintf("m%d", n), nil)
		m.Annotations = map[string]string{"big": strings.Repeat("x", 100_000)}
		_, err := z.client.CoreV1().ConfigMaps(big).Create(t.Context(), m, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	for form, want := range map[string]string{"json": "", "protobuf": "gzip", "table": "gzip", "metadata": "gzip", "metadata protobuf": "gzip"} {
		path := "/api/v1/namespaces/" + big + "/configmaps"
		a := z.send(t, "GET", path, "", "Accept: "+accepts[form], "Accept-Encoding: gzip")
		require.Equal(t, want, a.header.Get("Content-Encoding"), form)
	}
	list, err := clientOf(t, protobufOf(z.config)).CoreV1().ConfigMaps(big).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, list.Items, 3)
}

func protobufOf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return config
}

// pair is one watch from stored bytes and the same by decoding.
type pair struct {
	name, accept string
	fast, slow   *frameReader
}

// Watches from stored bytes tell what upstream's handlers tell.
func TestWatchesTellWhatDecodedOnesTell(t *testing.T) {
	z := newZoo(t)
	pods := "/api/v1/namespaces/" + z.ns + "/pods"
	var pairs []pair
	for path, queries := range map[string][]string{
		pods:     {"", "labelSelector=app%3Da", "labelSelector=moved%3Dyes", "labelSelector=moved!%3Dyes", "fieldSelector=status.phase%3DFailed", "fieldSelector=metadata.name%3Dp3", "fieldSelector=spec.nodeName%3Dnode-a"},
		z.custom: {"", "labelSelector=n%3D1", "labelSelector=moved%3Dyes", "fieldSelector=metadata.name%3Db3"},
	} {
		for form, accept := range accepts {
			for _, query := range queries {
				accept = strings.ReplaceAll(accept, "MetadataList", "Metadata")
				asked := path + "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=5&" + query
				p := pair{form + " " + asked, accept, z.stream(t, asked, accept), z.stream(t, asked+"&"+decoding, accept)}
				p.compareInitial(t)
				pairs = append(pairs, p)
			}
		}
	}
	for _, patch := range []string{`{"metadata":{"labels":{"moved":"yes","app":"a","n":"1"}}}`, `{"metadata":{"annotations":{"again":"and again"}}}`, `{"metadata":{"labels":{"moved":null,"app":"z","n":"0"}}}`, `{"metadata":{"labels":{"moved":"yes","app":"a","n":"1"}}}`} {
		for _, path := range []string{pods + "/p3", z.custom + "/b3"} {
			a := z.send(t, "PATCH", path, patch, "Content-Type: "+string(types.MergePatchType))
			require.Equal(t, 200, a.status, "%s", a.body)
		}
	}
	require.NoError(t, z.client.CoreV1().Pods(z.ns).Delete(t.Context(), "p3", *metav1.NewDeleteOptions(0)))
	told := 0
	for _, p := range pairs {
		a, b := p.fast.rest(t), p.slow.rest(t)
		require.Len(t, a, len(b), p.name)
		for i := range a {
			require.NoError(t, sameFrame(t, a[i], b[i]), p.name)
		}
		told += len(a)
	}
	require.Greater(t, told, 3*len(pairs))
}

func (p pair) compareInitial(t *testing.T) {
	t.Helper()
	for {
		a, b := p.fast.next(t), p.slow.next(t)
		require.NoError(t, sameFrame(t, a, b), p.name)
		if strings.Contains(string(a), metav1.InitialEventsAnnotationKey) {
			return
		}
	}
}

func sameFrame(t *testing.T, a, b []byte) error {
	t.Helper()
	if a[0] != '{' {
		return sameBody("protobuf", a, b)
	}
	return sameBody("json", bare(t, a), bare(t, b))
}

// bare takes out of an event what may differ: the cells of a table that tell of time, and
// the empty rest of a bookmark's object.
func bare(t *testing.T, frame []byte) []byte {
	t.Helper()
	var event struct {
		Type   string         `json:"type"`
		Object map[string]any `json:"object"`
	}
	require.NoError(t, json.Unmarshal(frame, &event), "%s", frame)
	rows, _ := event.Object["rows"].([]any)
	for _, row := range rows {
		cells := row.(map[string]any)["cells"].([]any)
		for i, cell := range cells {
			if text, ok := cell.(string); ok && (strings.HasSuffix(text, "s") || strings.HasSuffix(text, "m")) {
				cells[i] = "a while"
			}
		}
	}
	if event.Type == "BOOKMARK" {
		delete(event.Object, "spec")
		delete(event.Object, "status")
	}
	out, err := json.Marshal(event)
	require.NoError(t, err)
	return out
}

// frameReader reads the events of a watch.
type frameReader struct {
	proto bool
	r     *bufio.Reader
}

func (z *zoo) stream(t *testing.T, path, accept string) *frameReader {
	t.Helper()
	client, err := rest.HTTPClientFor(z.config)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, z.config.Host+path, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	require.Equal(t, 200, resp.StatusCode)
	return &frameReader{proto: strings.Contains(resp.Header.Get("Content-Type"), "protobuf"), r: bufio.NewReaderSize(resp.Body, 1<<20)}
}

func (f *frameReader) read() ([]byte, error) {
	if !f.proto {
		return f.r.ReadBytes('\n')
	}
	var size [4]byte
	if _, err := io.ReadFull(f.r, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(f.r, frame)
	return frame, err
}

func (f *frameReader) next(t *testing.T) []byte {
	t.Helper()
	frame, err := f.read()
	require.NoError(t, err)
	return frame
}

// rest reads all events until the watch times out, but for bookmarks: these come when they
// come.
func (f *frameReader) rest(t *testing.T) (all [][]byte) {
	t.Helper()
	for {
		frame, err := f.read()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		if !strings.Contains(string(frame[:min(40, len(frame))]), "BOOKMARK") {
			all = append(all, frame)
		}
	}
}
