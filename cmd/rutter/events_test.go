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
			"15:04:05.000006 60 DELETED shop deployments.apps/web by alice (kubectl)", "90 GAP changes after revision 40 are lost: etcd has compacted the revisions"}},
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
		"namespaced nodes":     {[]string{"nodes", "-n", "shop"}, `--namespace "shop": nodes have no namespace, no change would ever match; leave it out`},
		"name with a slash":    {[]string{"pods/a/b"}, `"pods/a/b" names no object`},
		"no name":              {[]string{"pods/"}, `"pods/" names no object`},
		"a star for a name":    {[]string{"pods/*"}, `"pods/*" names no object`},
		"type":                 {[]string{"--type", "EXPLODED"}, `--type "EXPLODED": want ADDED, MODIFIED, DELETED`},
		"since the future":     {[]string{"--since", "2999-01-01T00:00:00Z"}, `--since "2999-01-01T00:00:00Z" lies in the future`},
		"less than no changes": {[]string{"--limit", "-1"}, `--limit -1: want a number of changes`},
		"less than no time":    {[]string{"--timeout", "-1s"}, `--timeout -1s: want a time`},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := rutter(t, append([]string{"tap", "--data-dir", t.TempDir()}, tc.args...)...)
			require.Equal(t, exitFailed, code)
			require.Empty(t, out)
			require.Contains(t, errs, tc.want)
		})
	}
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
