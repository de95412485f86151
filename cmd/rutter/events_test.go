package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

var gapEvent = schemas.Event{Rev: 90, Cnt: 1, Type: schemas.Gap, PrevRev: 40, Object: []byte(`{"reason":"etcd has compacted the revisions"}`)}

func TestEventCloudEvents(t *testing.T) {
	var out bytes.Buffer
	write, err := eventWriter(&out, "cloudevents", nil)
	require.NoError(t, err)
	e := event
	e.Epoch, e.Recorded = "c1.2", time.Date(2026, 1, 2, 15, 4, 5, 7000, time.UTC)
	require.NoError(t, write(e))
	require.Equal(t, `{"authid":"alice","authtype":"user","causationid":"9","causes":"7,9","data":{"kind":"Deployment"},"datacontenttype":"application/json",`+
		`"epoch":"c1.2","fieldmanager":"kubectl","id":"42","previousrevision":"40","recordedtime":"2026-01-02T15:04:05.000007Z","revision":"42",`+
		`"sequence":"0000000000000000042.000000","source":"/rutter/clusters/c1","specversion":"1.0","subject":"apps/deployments/shop/web",`+
		`"time":"2026-01-02T15:04:05.000006Z","type":"dev.rutter.resource.v1.updated","verb":"update"}`+"\n", out.String())
}

func TestEventDiff(t *testing.T) {
	first, second, third := event, event, event
	first.Rev, first.Type, first.Object = 40, schemas.Added, []byte(`{"metadata":{"managedFields":[1]},"spec":{"replicas":1}}`)
	second.Object = []byte(`{"metadata":{"managedFields":[2],"labels":{"a":"b"}},"spec":{"replicas":3}}`)
	third.Rev, third.PrevRev, third.Object = 50, 45, []byte(`{"spec":{"replicas":4}}`)
	gone := event
	gone.Rev, gone.Type = 60, schemas.Deleted
	for name, tc := range map[string]struct {
		events []schemas.Event
		before func(schemas.Event) (schemas.Event, error)
		want   []string
	}{
		"seen before": {events: []schemas.Event{first, second}, want: []string{
			"15:04:05.000006 40 ADDED shop deployments.apps/web by alice (kubectl)",
			"15:04:05.000006 42 MODIFIED shop deployments.apps/web by alice (kubectl)",
			`    + metadata.labels: {"a":"b"}`, "    ~ spec.replicas: 1 → 3"}},
		"read from the stream": {events: []schemas.Event{second}, before: func(schemas.Event) (schemas.Event, error) { return first, nil }, want: []string{
			"15:04:05.000006 42 MODIFIED shop deployments.apps/web by alice (kubectl)",
			`    + metadata.labels: {"a":"b"}`, "    ~ spec.replicas: 1 → 3"}},
		"no longer there": {events: []schemas.Event{second, third}, before: func(schemas.Event) (schemas.Event, error) { return schemas.Event{}, bus.ErrNotFound }, want: []string{
			"15:04:05.000006 42 MODIFIED shop deployments.apps/web by alice (kubectl)", "    the stream no longer has the state before, revision 40",
			"15:04:05.000006 50 MODIFIED shop deployments.apps/web by alice (kubectl)", "    the stream no longer has the state before, revision 45"}},
		"deleted, and a gap": {events: []schemas.Event{gone, gapEvent}, want: []string{
			"15:04:05.000006 60 DELETED shop deployments.apps/web by alice (kubectl)", "90 GAP changes after revision 40 and before 90 are lost: etcd has compacted the revisions"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			write, err := eventWriter(&out, "diff", tc.before)
			require.NoError(t, err)
			for _, e := range tc.events {
				require.NoError(t, write(e))
			}
			require.Equal(t, strings.Join(tc.want, "\n")+"\n", out.String())
		})
	}
}

func TestTapFlags(t *testing.T) {
	byBob, byNobody := event, event
	byBob.Header.User, byBob.Type = "bob", schemas.Deleted
	byNobody.Header = schemas.Header{}
	all := []schemas.Event{event, byBob, byNobody, gapEvent}
	for name, tc := range map[string]struct {
		flags tapFlags
		want  []schemas.Event
	}{
		"all":          {tapFlags{}, all},
		"by type":      {tapFlags{types: []string{"deleted", "ADDED"}}, []schemas.Event{byBob, gapEvent}},
		"by user":      {tapFlags{user: "alice"}, []schemas.Event{event, gapEvent}},
		"by manager":   {tapFlags{manager: "kubectl"}, []schemas.Event{event, byBob, gapEvent}},
		"by both":      {tapFlags{manager: "kubectl", user: "carol"}, []schemas.Event{gapEvent}},
		"with a limit": {tapFlags{limit: 2}, all[:2]},
	} {
		t.Run(name, func(t *testing.T) {
			pass, err := tc.flags.filter()
			require.NoError(t, err)
			var got []schemas.Event
			show := tc.flags.limited(pass, func(e schemas.Event) error { got = append(got, e); return nil })
			for _, e := range all {
				if err := show(e); err != nil {
					require.ErrorIs(t, err, errLimit)
					break
				}
			}
			require.Equal(t, tc.want, got)
		})
	}
}

func TestTapExitCodes(t *testing.T) {
	broken := errors.New("broken")
	for err, want := range map[error]error{errLimit: nil, context.Canceled: nil, context.DeadlineExceeded: errFound, broken: broken} {
		require.Equal(t, want, tapEnd(err))
	}
}

func TestTapRefusesWhatCanNeverMatch(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"namespace":            {[]string{"-n", "Shop_1"}, `--namespace "Shop_1" names no namespace: `},
		"namespaced object":    {[]string{"ns/shop", "-n", "shop"}, `--namespace "shop": namespaces have no namespace, no change would ever match; leave it out`},
		"no such resource":     {[]string{"widgets"}, `the server has no resource "widgets"; see `},
		"no resource":          {[]string{""}, `"" names no resource`},
		"a name of nothing":    {[]string{"/web"}, `"/web" names no resource`},
		"name with a slash":    {[]string{"pods/a/b"}, `"pods/a/b" names no object`},
		"no name":              {[]string{"pods/"}, `"pods/" names no object`},
		"a star for a name":    {[]string{"pods/*"}, `"pods/*" names no object`},
		"type":                 {[]string{"--type", "EXPLODED"}, `--type "EXPLODED": want ADDED, MODIFIED, DELETED`},
		"since noon":           {[]string{"--since", "at noon"}, `--since "at noon" is no instant; want `},
		"since no revision":    {[]string{"--since", "rev-0"}, `--since "rev-0": rev- wants a positive revision number`},
		"since the future":     {[]string{"--since", "2999-01-01T00:00:00Z", "-n", "shop", "--timeout", "1m"}, `--since 2999-01-01T00:00:00Z: instant "2999-01-01T00:00:00Z" has not come yet`},
		"since no mark":        {[]string{"--since", "never-set"}, `--since never-set: instant "never-set" is not held; the oldest instant held is rev-5`},
		"a revision to come":   {[]string{"--since", "rev-42"}, `--since rev-42 has not come yet; the newest is rev-40`},
		"less than no changes": {[]string{"--limit", "-1"}, `--limit -1: want a number of changes`},
		"less than no time":    {[]string{"--timeout", "-1s"}, `--timeout -1s: want a time`},
	} {
		t.Run(name, func(t *testing.T) {
			startStory(t)
			code, out, errs := rutter(t, append([]string{"tap"}, tc.args...)...)
			require.Equal(t, exitFailed, code)
			require.Empty(t, out)
			require.Contains(t, errs, tc.want)
		})
	}
}

// TestTap: with nothing but a kubeconfig.
func TestTap(t *testing.T) {
	since := func(flags ...string) []string { return append([]string{"tap", "--timeout", "1m"}, flags...) }
	for name, tc := range map[string]struct {
		args  []string
		want  string // in the first line
		asked string
	}{
		"everything":          {since("--since", "rev-5", "--limit", "1", "-o", "diff"), "5 ADDED namespaces/shop by alice (kubectl-create)", "follow=true"},
		"a short name":        {since("deploy/web", "-n", "shop", "--since", "rev-11", "--limit", "1", "-o", "diff"), "30 MODIFIED shop deployments.apps/web by bob (kubectl)", "follow=true&group=apps&name=web&namespace=shop&resource=deployments"},
		"of the cluster":      {since("ns/shop", "--since", "rev-1", "--limit", "1", "-o", "diff"), "5 ADDED namespaces/shop", "follow=true&group=&name=shop&namespace=&resource=namespaces"},
		"by user and type":    {since("--since", "rev-5", "--user", "carol", "--type", "modified", "--limit", "1", "-o", "diff"), "40 MODIFIED shop deployments.apps/web by carol (helm)", "follow=true"},
		"behind a time":       {since("--since", "-1m", "--limit", "1", "-o", "diff"), "25 MODIFIED shop secrets/db by bob (kubectl)", "follow=true"},
		"the last change":     {since("--since", "rev-40", "--limit", "1", "-o", "diff"), "40 MODIFIED shop deployments.apps/web by carol (helm)", "follow=true"},
		"before all there is": {since("--since", "2025-01-01T00:00:00Z", "--limit", "1", "-o", "diff"), "5 ADDED namespaces/shop", "follow=true&since=2025-01-01T00%3A00%3A00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			f := startStory(t)
			code, out, errs := rutter(t, tc.args...)
			require.Zero(t, code, errs)
			require.Empty(t, errs)
			first, _, _ := strings.Cut(out, "\n")
			require.Contains(t, first, tc.want)
			require.Equal(t, tc.asked, f.asked[0])
		})
	}
	f := startStory(t)
	code, out, errs := rutter(t, "tap", "widgets.example.com", "--timeout", "50ms")
	require.Equal(t, exitFound, code)
	require.Empty(t, out)
	require.Equal(t, "widgets.example.com is not served at present; it may have been, or come\n", errs)
	require.Equal(t, []string{"follow=true&group=example.com&resource=widgets"}, f.asked)
	code, out, errs = rutter(t, "tap", "--since", "rev-41", "--timeout", "50ms")
	require.Equal(t, exitFound, code, "the next revision may be waited for")
	require.Empty(t, out+errs)
}

func TestTapCompletion(t *testing.T) {
	code, out, _ := rutter(t, "__complete", "tap", "--output", "")
	require.Zero(t, code)
	require.Equal(t, "table\nndjson\njson\ncloudevents\ndiff\n:4\n", out)
	_, out, _ = rutter(t, "__complete", "tap", "--type", "")
	require.Equal(t, "ADDED\nMODIFIED\nDELETED\n:4\n", out)
	_, out, _ = rutter(t, "__complete", "tap", "")
	require.Contains(t, out, "deploy\n")
	require.Contains(t, out, "netpol\n")
}
