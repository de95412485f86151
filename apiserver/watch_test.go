package apiserver_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// seen is what a test compares of an event.
type seen struct {
	Type watch.EventType
	Name string
}

// next waits for the next event of a watch.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		require.True(t, ok, "the watch ended")
		return e
	case <-time.After(patience):
		t.Fatal("no event")
		return watch.Event{}
	}
}

// expect waits for exactly these events, with increasing revisions.
func expect(t *testing.T, w watch.Interface, want ...seen) []*corev1.ConfigMap {
	t.Helper()
	var got []seen
	var objects []*corev1.ConfigMap
	last := uint64(0)
	for range want {
		e := next(t, w)
		m, ok := e.Object.(*corev1.ConfigMap)
		require.True(t, ok, "%v", e)
		rev, err := strconv.ParseUint(m.ResourceVersion, 10, 64)
		require.NoError(t, err)
		require.Greater(t, rev, last)
		last = rev
		got, objects = append(got, seen{e.Type, m.Name}), append(objects, m)
	}
	require.Equal(t, want, got)
	return objects
}

func (c *cluster) watch(t *testing.T, ns string, opts metav1.ListOptions) watch.Interface {
	t.Helper()
	w, err := c.client.CoreV1().ConfigMaps(ns).Watch(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	return w
}

func TestWatchFromListRevision(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	maps := c.client.CoreV1().ConfigMaps(ns)
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	m := c.configMap(t, ns, "new", nil) // before the watch: it has to catch up
	w := c.watch(t, ns, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	c.configMap(t, c.namespace(t), "elsewhere", nil)
	m.Data["a"] = "2"
	_, err = maps.Update(t.Context(), m, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.NoError(t, maps.Delete(t.Context(), "new", metav1.DeleteOptions{}))
	got := expect(t, w, seen{watch.Added, "new"}, seen{watch.Modified, "new"}, seen{watch.Deleted, "new"})
	require.Equal(t, "1", got[0].Data["a"])
	require.Equal(t, "2", got[2].Data["a"], "the last state comes with the deletion")
}

func TestWatchFromAnyState(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 2)
	_, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, rv := range []string{"", "0"} {
		w := c.watch(t, ns, metav1.ListOptions{ResourceVersion: rv})
		got := map[string]bool{}
		for range 2 {
			e := next(t, w)
			require.Equal(t, watch.Added, e.Type)
			got[e.Object.(*corev1.ConfigMap).Name] = true
		}
		require.Equal(t, map[string]bool{"m0": true, "m1": true}, got)
		w.Stop()
	}
}

func TestWatchOfOneObject(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	list, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	w := c.watch(t, ns, metav1.ListOptions{ResourceVersion: list.ResourceVersion, FieldSelector: "metadata.name=mine"})
	c.configMap(t, ns, "mine-not", nil)
	c.configMap(t, ns, "mine", nil)
	expect(t, w, seen{watch.Added, "mine"})
}

func TestWatchSendsBookmarks(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	list, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	c.namespace(t) // other resources move on
	// A bookmark comes shortly before the watch's time is over.
	seconds := int64(3)
	w := c.watch(t, ns, metav1.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true, TimeoutSeconds: &seconds})
	e := next(t, w)
	require.Equal(t, watch.Bookmark, e.Type)
	m := e.Object.(*corev1.ConfigMap)
	require.Empty(t, m.Name)
	require.Greater(t, m.ResourceVersion, list.ResourceVersion)
	require.Empty(t, m.Annotations)
}

func TestWatchSendsInitialEvents(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 2)
	yes := true
	list, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for name, rv := range map[string]string{"latest": "", "any": "0", "not older": list.ResourceVersion} {
		t.Run(name, func(t *testing.T) {
			w := c.watch(t, ns, metav1.ListOptions{ResourceVersion: rv, SendInitialEvents: &yes, AllowWatchBookmarks: true,
				ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
			for range 2 {
				require.Equal(t, watch.Added, next(t, w).Type)
			}
			e := next(t, w)
			require.Equal(t, watch.Bookmark, e.Type)
			end := e.Object.(*corev1.ConfigMap)
			require.Equal(t, "true", end.Annotations[metav1.InitialEventsAnnotationKey])
			require.GreaterOrEqual(t, end.ResourceVersion, list.ResourceVersion)
			made := c.configMap(t, ns, "after-"+strconv.Itoa(len(rv)), nil)
			expect(t, w, seen{watch.Added, made.Name})
			require.NoError(t, c.client.CoreV1().ConfigMaps(ns).Delete(t.Context(), made.Name, metav1.DeleteOptions{}))
		})
	}
	_, err = c.client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true})
	require.True(t, apierrors.IsInvalid(err), "%v", err)
}

// Who watches from no revision, or any, is told where the initial state ends if it takes
// bookmarks, as kube-apiserver does: in the old way to ask as well, and in every form.
func TestWatchWithBookmarksMarksTheEndOfTheInitialState(t *testing.T) {
	c := server(t)
	path := "/api/v1/namespaces/" + c.maps(t, 2) + "/configmaps?watch=true&timeoutSeconds=1"
	for _, rv := range []string{"", "&resourceVersion=0"} {
		for _, accept := range []string{"application/json", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1;g=meta.k8s.io"} {
			with := c.send(t, "GET", path+rv+"&allowWatchBookmarks=true", "", "Accept: "+accept)
			require.Contains(t, string(with.body), metav1.InitialEventsAnnotationKey, "%s %s", rv, accept)
			without := c.send(t, "GET", path+rv, "", "Accept: "+accept)
			require.NotContains(t, string(without.body), metav1.InitialEventsAnnotationKey)
		}
	}
	list, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	from := c.send(t, "GET", path+"&allowWatchBookmarks=true&resourceVersion="+list.ResourceVersion, "")
	require.NotContains(t, string(from.body), metav1.InitialEventsAnnotationKey, "there is no initial state")
}

func TestWatchSelectorTransitions(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	maps := c.client.CoreV1().ConfigMaps(ns)
	m, err := maps.Get(t.Context(), "m0", metav1.GetOptions{})
	require.NoError(t, err)
	w := c.watch(t, ns, metav1.ListOptions{ResourceVersion: m.ResourceVersion, LabelSelector: "in=yes"})
	change := func(label, value string) {
		t.Helper()
		m.Labels["in"], m.Data["a"] = label, value
		m, err = maps.Update(t.Context(), m, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	change("no", "1")
	change("yes", "2")
	change("yes", "3")
	change("no", "4")
	left := m.ResourceVersion
	change("yes", "5")
	require.NoError(t, maps.Delete(t.Context(), "m0", metav1.DeleteOptions{}))
	got := expect(t, w, seen{watch.Added, "m0"}, seen{watch.Modified, "m0"}, seen{watch.Deleted, "m0"}, seen{watch.Added, "m0"}, seen{watch.Deleted, "m0"})
	require.Equal(t, "3", got[2].Data["a"], "what left the selector comes as it last was in it")
	require.Equal(t, left, got[2].ResourceVersion, "with the revision at which it left")
}

func TestWatchFieldTransitions(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	p := c.pod(t, ns, "p", "node-1")
	w, err := c.client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: p.ResourceVersion, FieldSelector: "status.phase=Running"})
	require.NoError(t, err)
	defer w.Stop()
	for _, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodSucceeded} {
		p.Status.Phase = phase
		p, err = c.client.CoreV1().Pods(ns).UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	require.Equal(t, watch.Added, next(t, w).Type)
	require.Equal(t, watch.Deleted, next(t, w).Type)
}

func TestWatchEndsAtItsTime(t *testing.T) {
	c := server(t)
	seconds := int64(1)
	w := c.watch(t, c.namespace(t), metav1.ListOptions{TimeoutSeconds: &seconds})
	select {
	case e, ok := <-w.ResultChan():
		require.False(t, ok, "%v", e)
	case <-time.After(patience):
		t.Fatal("the watch goes on")
	}
}

func TestWatchOfFuture(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	_, err := c.client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: "new"})
	require.True(t, apierrors.IsBadRequest(err) || apierrors.IsInvalid(err), "%v", err)
}

// stream reads the frames of a watch as they come, nil at its end.
func (c *cluster) stream(t *testing.T, path string, headers ...string) func() map[string]any {
	t.Helper()
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.config.Host+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close(); client.CloseIdleConnections() })
	require.Equal(t, 200, resp.StatusCode)
	lines := bufio.NewReader(resp.Body)
	return func() map[string]any {
		t.Helper()
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		require.NoError(t, err)
		var frame map[string]any
		require.NoError(t, json.Unmarshal(line, &frame))
		return frame
	}
}

func TestWatchAsTable(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 2)
	frame := c.stream(t, "/api/v1/namespaces/"+ns+"/configmaps?watch=1", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	first, second := frame()["object"].(map[string]any), frame()["object"].(map[string]any)
	require.Equal(t, "Table", first["kind"])
	require.NotEmpty(t, first["columnDefinitions"])
	require.Empty(t, second["columnDefinitions"], "columns are told once")
	require.Len(t, second["rows"], 1)
}

func TestWatchAsMetadata(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	frame := c.stream(t, "/api/v1/namespaces/"+ns+"/configmaps?watch=1", "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")()
	require.Equal(t, "ADDED", frame["type"])
	require.Equal(t, "PartialObjectMetadata", frame["object"].(map[string]any)["kind"])
}

func TestWatchInProtobuf(t *testing.T) {
	c := server(t)
	ns := c.maps(t, 1)
	binary := rest.CopyConfig(c.config)
	binary.ContentType = "application/vnd.kubernetes.protobuf"
	w, err := clientOf(t, binary).CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer w.Stop()
	expect(t, w, seen{watch.Added, "m0"})
}

// A second server on the same etcd has no events of the time before it came.
func TestSecondServer(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	before := c.configMap(t, ns, "before", nil)
	c.configMap(t, ns, "between", nil)
	second := &cluster{etcd: c.etcd, sealFile: c.sealFile}
	stop, err := second.start(filepath.Dir(c.ca.CAFile()), "second")
	defer func() { require.NoError(t, stop()) }()
	require.NoError(t, err)

	w, err := second.client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: before.ResourceVersion})
	if err == nil {
		defer w.Stop()
		e := next(t, w)
		require.Equal(t, watch.Error, e.Type, "%v", e)
		err = apierrors.FromObject(e.Object)
	}
	require.True(t, apierrors.IsResourceExpired(err) || apierrors.IsGone(err), "%v", err)
	require.Regexp(t, `too old resource version: `+before.ResourceVersion+` \(\d+\)`, err.Error())

	// Each sees at once what the other wrote.
	made := second.configMap(t, ns, "second", nil)
	got, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"before", "between", "second"}, names(got))
	require.NoError(t, c.client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "second", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &made.ResourceVersion}}))
	_, err = second.client.CoreV1().ConfigMaps(ns).Get(t.Context(), "second", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}
