package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// frame is one line of a watch.
type frame struct {
	Type   string `json:"type"`
	Object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Message  string            `json:"message"`
	} `json:"object"`
}

func frames(t testing.TB, body []byte) []frame {
	t.Helper()
	var all []frame
	for line := range strings.Lines(string(body)) {
		var f frame
		require.NoError(t, json.Unmarshal([]byte(line), &f), line)
		all = append(all, f)
	}
	return all
}

func (p *past) quietWatch(t *testing.T, ns string, then int64) {
	for name, selector := range map[string]string{"stored bytes": "", "decoded": "&labelSelector=a%3Db"} {
		a := p.send(t, http.MethodGet, fmt.Sprintf("/at/rev-%d/api/v1/namespaces/%s/configmaps?watch=true&timeoutSeconds=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan%s", then, ns, selector), "")
		got := frames(t, a.body)
		require.GreaterOrEqual(t, len(got), 2, "%s: %s", name, a.body)
		require.Equal(t, "ADDED", got[0].Type)
		require.Equal(t, "gone", got[0].Object.Metadata.Name)
		require.Equal(t, "BOOKMARK", got[1].Type)
		require.Equal(t, "true", got[1].Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey])
		for _, f := range got {
			require.NotEqual(t, "DELETED", f.Type, "what came later is not told")
		}
	}
}

func (p *past) replays(t *testing.T, ns string, then, deleted int64) {
	cm, err := p.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("again", map[string]string{"a": "b"}), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = p.client.CoreV1().ConfigMaps(ns).Patch(t.Context(), "again", types.MergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	end := p.revision(t)
	span := fmt.Sprintf("/at/rev-%d..rev-%d", then, end)
	list := p.send(t, http.MethodGet, fmt.Sprintf("%s/api/v1/namespaces/%s/configmaps", span, ns), "")
	require.Equal(t, then, revOf(t, list))
	for name, selector := range map[string]string{"stored bytes": "", "decoded": "&labelSelector=a%3Db"} {
		path := fmt.Sprintf("%s/api/v1/namespaces/%s/configmaps?watch=true&speed=max&allowWatchBookmarks=true%s&resourceVersion=", span, ns, selector)
		got := frames(t, p.send(t, http.MethodGet, path+fmt.Sprint(then), "").body)
		var types []string
		last := then
		for _, f := range got {
			types = append(types, f.Type+" "+f.Object.Metadata.Name)
			rev, err := strconv.ParseInt(f.Object.Metadata.ResourceVersion, 10, 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, rev, last, "revisions rise, and the bookmark repeats the last")
			last = rev
		}
		require.Equal(t, []string{"DELETED gone", "ADDED again", "MODIFIED again", "BOOKMARK "}, types, name)
		require.Equal(t, end, last, "the bookmark is of the end")
		resumed := frames(t, p.send(t, http.MethodGet, path+cm.ResourceVersion, "").body)
		require.Len(t, resumed, 2, "goes on in the middle")
		require.Equal(t, "MODIFIED", resumed[0].Type)
	}
	path := fmt.Sprintf("%s/api/v1/namespaces/%s/configmaps?watch=true&resourceVersion=%d&timeoutSeconds=1", span, ns, end)
	require.Empty(t, frames(t, p.send(t, http.MethodGet, path, "").body), "a watch from the end is quiet")
	path = fmt.Sprintf("/at/rev-%d..rev-%d,speed=max/api/v1/namespaces/%s/configmaps?watch=true&resourceVersion=%d", then, deleted, ns, then)
	require.Len(t, frames(t, p.send(t, http.MethodGet, path, "").body), 1, "the speed in the path, no bookmark asked for")
}
