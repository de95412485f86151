package bus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// tapOf is a client that may read the namespace prod, and one object there.
func tapOf(t *testing.T) (*testBus, *Client, schemas.Key) {
	t.Helper()
	b, ca := secureBus(t)
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, ""), Token: "prod", User: "alice"})
	key := schemas.Key{Resource: "pods", Namespace: "prod", Name: "a"}
	b.send(t, schemas.Added, key, 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	return b, c, key
}

// create asks for a consumer and returns the server's answer.
func create(t *testing.T, c *Client, name, filter string, config map[string]any) string {
	t.Helper()
	config["name"], config["filter_subject"] = name, filter
	if config["ack_policy"] == nil {
		config["ack_policy"] = "none"
	}
	body, err := json.Marshal(map[string]any{"stream_name": StreamArchive, "config": config})
	require.NoError(t, err)
	msg, err := c.nc.Request(edgeAPI+".CONSUMER.CREATE."+StreamArchive+"."+name+"."+filter, body, 5*time.Second)
	require.NoError(t, err)
	return string(msg.Data)
}

// TestTapCannotMakeTheServerDeliver: a consumer that pushes does so within the account of
// the streams. So anybody who may write an object and read its events could put a checkpoint
// of his own into the relay's hands, which would then leave out changes.
func TestTapCannotMakeTheServerDeliver(t *testing.T) {
	b, c, key := tapOf(t)
	for i, to := range []string{
		checkpointSubject, "$JS.API.STREAM.DELETE.STATE", "$JS.API.STREAM.PURGE.STATE", "h._.pods.prod.evil", "live.h._.pods.other.a", "_INBOX.u.bob.x", gateAPI + "ARCHIVE.x.h.>",
	} {
		answer := create(t, c, fmt.Sprint("x", i), key.Subject(), map[string]any{"deliver_subject": to})
		require.Contains(t, answer, `"description":"deliver_subject: consumers are pulled here; leave it out"`, to)
		_, err := b.js.Consumer(t.Context(), StreamArchive, fmt.Sprint("x", i))
		require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
	}
	head, err := b.Head(t.Context(), StreamRelay)
	require.NoError(t, err)
	require.True(t, head.Empty)
}

func TestConsumersThatCostTooMuchAreRefused(t *testing.T) {
	_, c, key := tapOf(t)
	for name, tc := range map[string]struct {
		config map[string]any
		want   string
	}{
		"durable":       {map[string]any{"durable_name": "x"}, "durable_name: consumers don't last here"},
		"for ever":      {map[string]any{"inactive_threshold": 24 * time.Hour}, "inactive_threshold: at most 10m0s"},
		"large":         {map[string]any{"metadata": map[string]string{"a": strings.Repeat("x", maxCreateRequest)}}, "the request has more than 8192 bytes"},
		"of the system": {map[string]any{"direct": true}, "the request has fields that consumers can't have here"},
		"many filters":  {map[string]any{"filter_subjects": []string{"h.>"}}, "the request has fields that consumers can't have here"},
		"of other form": {map[string]any{"ack_wait": "soon"}, "the request can't be read"},
		"many pulls":    {map[string]any{"max_waiting": maxPulls + 1}, "max_waiting: at most 64"},
		"unacked":       {map[string]any{"ack_policy": "explicit", "max_ack_pending": maxUnacked + 1}, "max_ack_pending: from 1 to 1000"},
		"any unacked":   {map[string]any{"ack_policy": "explicit", "max_ack_pending": -1}, "max_ack_pending: from 1 to 1000"},
		"some pulls":    {map[string]any{"max_waiting": maxPulls}, `"max_waiting":64`},
		"pulls unsaid":  {map[string]any{}, `"max_waiting":64`},
		"as it can be":  {map[string]any{"inactive_threshold": time.Minute, "mem_storage": true, "num_replicas": 1, "deliver_policy": "last"}, `"mem_storage":true`},
		"with ack":      {map[string]any{"ack_policy": "explicit", "ack_wait": time.Second, "max_ack_pending": 10}, `"mem_storage":true`},
		"headers only":  {map[string]any{"headers_only": true, "metadata": map[string]string{"a": "b"}}, `"headers_only":true`},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, create(t, c, strings.ReplaceAll(name, " ", "-"), key.Subject(), tc.config), tc.want)
		})
	}
}

// TestConsumersThatEndedAreNotCounted against what one user may have.
func TestConsumersThatEndedAreNotCounted(t *testing.T) {
	b, c, key := tapOf(t)
	g := b.server.gate
	require.Contains(t, create(t, c, "there", key.Subject(), map[string]any{}), `"name":"there"`)
	g.mu.Lock()
	for i := range maxConsumersEach - 1 {
		g.made["alice"][fmt.Sprint("ARCHIVE.gone", i)] = true
	}
	g.mu.Unlock()
	require.Contains(t, create(t, c, "one", key.Subject(), map[string]any{}), `"name":"one"`)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Equal(t, map[string]bool{"ARCHIVE.there": true, "ARCHIVE.one": true}, g.made["alice"])
}

// TestAnswersAreNoRequests: the answer to a request is a message to the reply subject, which
// may be that of another request.
func TestAnswersAreNoRequests(t *testing.T) {
	b, c, _ := tapOf(t)
	e := b.event(schemas.Added, schemas.Key{Group: "e.com", Resource: "evils", Namespace: "prod", Name: "e"}, 1)
	e.Object = []byte(`{"kind":"Evil","metadata":{"name":"e","namespace":"prod"},"stream_name":"ARCHIVE","config":{"name":"evil","filter_subject":"h.>","ack_policy":"none","deliver_policy":"all","inactive_threshold":60000000000}}`)
	require.NoError(t, b.window.Publish(t.Context(), e.Key.Subject(), e, 0))
	b.flush(t)
	b.settle(t, StreamArchive)
	require.NotContains(t, create(t, c, "mine", e.Key.Subject(), map[string]any{"deliver_policy": "all"}), "error")
	require.NoError(t, c.nc.PublishRequest(edgeAPI+".CONSUMER.MSG.NEXT.ARCHIVE.mine", edgeAPI+".CONSUMER.CREATE.ARCHIVE.evil.h.>", nil))
	require.Eventually(t, func() bool {
		consumer, err := b.js.Consumer(t.Context(), StreamArchive, "mine")
		return err == nil && consumer.CachedInfo().Delivered.Consumer == 1
	}, time.Minute, time.Millisecond, "the answer was given")
	require.NoError(t, b.nc.Flush())
	_, err := b.js.Consumer(t.Context(), StreamArchive, "evil")
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
}

// TestForgedLiveMessagesCanBeTold: a client can have the answer to its own request sent to a
// live subject, but not with the header that says which subject was republished there.
func TestForgedLiveMessagesCanBeTold(t *testing.T) {
	b, c, key := tapOf(t)
	other := schemas.Key{Resource: "pods", Namespace: "prod", Name: "b"}
	sub, err := c.nc.SubscribeSync(schemas.LiveRoot + other.Subject())
	require.NoError(t, err)
	require.NotContains(t, create(t, c, "mine", key.Subject(), map[string]any{"deliver_policy": "all"}), "error")
	require.NoError(t, c.nc.PublishRequest(edgeAPI+".CONSUMER.MSG.NEXT.ARCHIVE.mine", schemas.LiveRoot+other.Subject(), nil))
	forged, err := sub.NextMsg(time.Minute)
	require.NoError(t, err)
	require.NotEqual(t, other.Subject(), forged.Header.Get(jetstream.SubjectHeader))
	b.send(t, schemas.Added, other, 1)
	b.flush(t)
	genuine, err := sub.NextMsg(time.Minute)
	require.NoError(t, err)
	require.Equal(t, other.Subject(), genuine.Header.Get(jetstream.SubjectHeader))
	require.Equal(t, StreamState, genuine.Header.Get(jetstream.StreamHeader))
}
