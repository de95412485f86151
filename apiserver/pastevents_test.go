package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/schemas"
)

func (p *past) events(t *testing.T, ns string, then, deleted int64) {
	query := fmt.Sprintf("/history/events?namespace=%s&since=rev-%d&until=rev-%d", ns, then-2, deleted)
	a := p.send(t, http.MethodGet, query, "")
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	require.Equal(t, "application/x-ndjson", a.header.Get("Content-Type"))
	require.NotContains(t, string(a.body), "sealed")
	require.NotContains(t, string(a.body), "CANARY")
	var got []schemas.Event
	for line := range strings.Lines(string(a.body)) {
		var e schemas.Event
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		got = append(got, e)
	}
	require.NotEmpty(t, got)
	last := got[len(got)-1]
	require.Equal(t, deleted, last.Rev)
	require.Equal(t, schemas.Deleted, last.Type)
	require.Equal(t, "gone", last.Key.Name)
	require.Equal(t, "admin", last.Header.User)

	one := p.send(t, http.MethodGet, "/history/events?group=core&resource=configmaps&name=gone&limit=1", "")
	require.Len(t, strings.Split(strings.TrimSpace(string(one.body)), "\n"), 1)

	for name, query := range map[string]string{
		`parameter "since"`: "since=yesterday", `parameter "until"`: "until=rev-x", `parameter "limit"`: "limit=0",
		`parameter "follow"`: "follow=maybe", `parameter "resource"`: "resource=*", `parameter "colour"`: "colour=red",
		`"until" can't be given`: "until=now&follow=true",
	} {
		a := p.send(t, http.MethodGet, "/history/events?"+query, "")
		require.Equal(t, http.StatusBadRequest, a.status, "%s: %s", query, a.body)
		require.Contains(t, a.apiStatus(t).Message, name)
	}
	for query, ok := range map[string]bool{"since=rev-%d&until=rev-%d": false, "since=rev-%[2]d&until=rev-%[2]d": true} {
		a := p.send(t, http.MethodGet, "/history/events?"+fmt.Sprintf(query, deleted, then-2), "")
		require.Equal(t, ok, a.status == http.StatusOK, "%s: %s", query, a.body)
		if !ok {
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Contains(t, a.apiStatus(t).Message, "where the events asked for end")
		}
	}
	for query, want := range map[string]string{
		"events?resource=nosuch": `resource "nosuch" is not`, "events?group=nosuch.io": `group "nosuch.io" is not`,
		"events?group=apps&resource=pods": `resource "pods" of group "apps" is not`, "state?at=now&resource=deploy": `resource "deploy" is not`,
	} {
		a := p.send(t, http.MethodGet, "/history/"+query, "")
		require.Equal(t, http.StatusNotFound, a.status, "%s: %s", query, a.body)
		require.Contains(t, a.apiStatus(t).Message, want+" served at present, and nothing of it is held")
	}
	a = p.send(t, http.MethodGet, "/history/events?resource=configmaps&name=never", "")
	require.Equal(t, http.StatusOK, a.status, "what is served may have no past: %s", a.body)
	require.Empty(t, a.body)
	_, err := p.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "Reads all * it may"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	a = p.send(t, http.MethodGet, "/history/events?resource=roles&name=Reads+all+*+it+may", "")
	require.Contains(t, string(a.body), `"name":"Reads all * it may"`)
	a = p.send(t, http.MethodGet, "/history/events", "", "Last-Event-ID: seven")
	require.Contains(t, a.apiStatus(t).Message, "Last-Event-ID")
	p.restricted(t, ns)
	p.sse(t, ns, deleted)
}

// restricted asks as somebody who may watch the ConfigMaps of one namespace.
func (p *past) restricted(t *testing.T, ns string) {
	_, err := p.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "watcher"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = p.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "watcher"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "watcher"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	as := []string{"Impersonate-User: jane", "Impersonate-Group: system:authenticated"}
	eventually(t, func() error {
		a := p.send(t, http.MethodGet, "/history/events", "", as...)
		lines := strings.TrimSpace(string(a.body))
		if lines == "" {
			return errors.New("the role has not come to the authorizer yet")
		}
		for line := range strings.Lines(lines) {
			var e schemas.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Key.Resource != "configmaps" || e.Key.Namespace != ns {
				t.Fatalf("jane sees %s: %v", line, err)
			}
		}
		return nil
	})
	a := p.send(t, http.MethodGet, "/history/events?group=&resource=secrets&namespace="+ns, "", as...)
	require.Equal(t, http.StatusForbidden, a.status, "%s", a.body)
	a = p.send(t, http.MethodGet, "/history/state?at=now", "", as...)
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	require.Empty(t, a.body, "who may watch may not list")
	a = p.send(t, http.MethodGet, "/history/state?at=now&group=&resource=configmaps&namespace="+ns, "", as...)
	require.Equal(t, http.StatusForbidden, a.status, "%s", a.body)
	require.Equal(t, http.StatusUnauthorized, send(t, p.withToken(""), http.MethodGet, "/history/status", "").status)
}

// sse follows events as a browser does.
func (p *past) sse(t *testing.T, ns string, deleted int64) {
	client, err := rest.HTTPClientFor(p.config)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.config.Host+"/history/events?follow=true&group=core&resource=configmaps&namespace="+ns, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", fmt.Sprintf("%d.0", deleted-1))
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	next := func(prefix string) string {
		for lines.Scan() {
			if value, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return value
			}
		}
		t.Fatalf("no %q: %v", prefix, lines.Err())
		return ""
	}
	require.Equal(t, fmt.Sprintf("%d.0", deleted), next("id: "), "resumes behind the event that was named")
	require.Equal(t, "DELETED", next("event: "))
	p.configMap(t, ns, "live", nil)
	for {
		var e schemas.Event
		require.NoError(t, json.Unmarshal([]byte(next("data: ")), &e))
		if e.Key.Name == "live" {
			return
		}
	}
}

// marks are names for revisions, kept in a ConfigMap.
