package main

import "testing"

func TestLog(t *testing.T) {
	runStory(t, "log", map[string]command{
		"table":    {args: []string{"log", "deploy/web"}},
		"by-kind":  {args: []string{"log", "Deployment.apps/web", "-n", "shop", "--until", "rev-30"}},
		"tree":     {args: []string{"log", "deploy/web", "--tree"}},
		"diff":     {args: []string{"log", "deployments.v1.apps/web", "--diff"}},
		"deleted":  {args: []string{"log", "pod/web-1-a", "-o", "ndjson", "--since", "rev-33"}},
		"since":    {args: []string{"log", "pod/web-1-a", "--since", "-1m"}, stderr: "--since -1m is rev-20 (2026-01-02T15:04:20.000Z)\n"},
		"too-old":  {args: []string{"log", "ns/shop", "--since", "2025-01-01T00:00:00Z"}, stderr: "--since 2025-01-01T00:00:00Z is before everything that is held; beginning with the oldest\n"},
		"nothing":  {args: []string{"log", "pod/none"}, code: exitFound, stderr: "No changes of shop pods/none are held.\n"},
		"unknown":  {args: []string{"log", "gadget/x"}, code: exitFailed, stderr: "rutter: the server has no resource \"gadget\"; see `kubectl api-resources`\n"},
		"context":  {args: []string{"log", "pod/x", "--context", "nope"}, code: exitFailed, stderr: "rutter: kubeconfig: context \"nope\" does not exist\n"},
		"in-form":  {args: []string{"log", "pod/x", "-o", "xml"}, code: exitFailed, stderr: "rutter: --output \"xml\": want table, ndjson, json, cloudevents, diff\n"},
		"no-time":  {args: []string{"log", "pod/web-1-a", "--until", "noon"}, code: exitFailed, stderr: "rutter: --until \"noon\" is no instant; want a time ago such as -5m, an RFC 3339 time such as 2026-01-02T03:04:05Z, now, rev-N, or a mark\n"},
		"not-held": {args: []string{"log", "pod/web-1-a", "--until", "rev-99"}, code: exitFailed, stderr: "rutter: --until rev-99: instant \"rev-99\" is not held; the oldest instant held is rev-5\n"},
	})
}
