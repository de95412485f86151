package bus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// Keys in the metadata of streams: the epoch, and whether STATE lacks objects
// because it was made after HISTORY had dropped messages.
const (
	epochKey   = "rutter.epoch"
	partialKey = "rutter.partial"
)

// Streams is what MakeStreams found or made.
type Streams struct {
	// Epoch of HISTORY, "<cluster id>.<generation>", both hexadecimal.
	Epoch string
	// Partial says that STATE lacks objects. A resync must bring them, and call
	// StateComplete when it has.
	Partial bool
}

// Sequence numbers of a new HISTORY begin far above those of a lost one, so that
// mirrors that survived it go on.
const (
	sequencesPerRevision = 16
	sequenceStep         = 1000
)

// MakeStreams makes the streams that are missing and adapts the others to the
// configuration. cluster is etcd's cluster id and rev its current revision.
//
// Streams of another cluster, or of a future that etcd no longer knows, are
// deleted: they tell of changes that did not happen. Any number of callers may
// do this at once; one of them makes HISTORY and all get its epoch.
func (c *Client) MakeStreams(ctx context.Context, cluster uint64, rev int64) (Streams, error) {
	cfg := c.cfg.Streams
	if err := cfg.Validate(); err != nil {
		return Streams{}, err
	}
	epoch, err := c.makeHistory(ctx, cluster, rev)
	if err != nil {
		return Streams{}, err
	}
	made := Streams{Epoch: epoch}
	for _, mirror := range mirrors(cfg) {
		partial, err := c.makeMirror(ctx, mirror, epoch)
		if err != nil {
			return Streams{}, err
		}
		made.Partial = made.Partial || partial
	}
	info, err := c.existing(ctx, StreamRelay)
	if err != nil {
		return Streams{}, err
	}
	return made, c.makeStream(ctx, info, jetstream.StreamConfig{
		Name: StreamRelay, Subjects: []string{checkpointSubject}, MaxMsgsPerSubject: 1, Replicas: cfg.Replicas,
	})
}

// existing is a stream as it is, nil if there is none.
func (c *Client) existing(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	info, err := c.streamInfo(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	return info, err
}

// makeStream makes a stream, or changes the one there is if it has to. An update
// that changes nothing would still be written to disk, by every relay that starts.
func (c *Client) makeStream(ctx context.Context, have *jetstream.StreamInfo, want jetstream.StreamConfig) error {
	var err error
	switch {
	case have == nil:
		_, err = c.js.CreateStream(ctx, want)
	case differs(have.Config, want):
		_, err = c.js.UpdateStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", want.Name, explain(err))
	}
	return nil
}

// differs compares what we set in the configuration of a stream. Limits of 0 and
// -1 both mean none.
func differs(have, want jetstream.StreamConfig) bool {
	limit := func(n int64) int64 { return max(n, 0) }
	return have.Replicas != want.Replicas || have.Description != want.Description || have.Compression != want.Compression ||
		have.MaxAge != want.MaxAge || limit(have.MaxBytes) != limit(want.MaxBytes) ||
		limit(have.MaxMsgsPerSubject) != limit(want.MaxMsgsPerSubject) ||
		have.AllowDirect != want.AllowDirect || have.AllowMsgTTL != want.AllowMsgTTL ||
		have.Metadata[epochKey] != want.Metadata[epochKey] || have.Metadata[partialKey] != want.Metadata[partialKey] ||
		!slices.Equal(have.Subjects, want.Subjects) || !reflect.DeepEqual(have.RePublish, want.RePublish)
}

// StateComplete notes that STATE has all objects.
func (c *Client) StateComplete(ctx context.Context) error {
	info, err := c.streamInfo(ctx, StreamState)
	if err != nil || info.Config.Metadata[partialKey] == "" {
		return err
	}
	cfg := mirrors(c.cfg.Streams)[0]
	cfg.Metadata = map[string]string{epochKey: info.Config.Metadata[epochKey]}
	if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamState, explain(err))
	}
	return nil
}

func (c *Client) makeHistory(ctx context.Context, cluster uint64, rev int64) (string, error) {
	info, err := c.streamInfo(ctx, StreamHistory)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return c.createHistory(ctx, cluster, rev)
	case err != nil:
		return "", err
	}
	epoch := info.Config.Metadata[epochKey]
	if clusterOf(epoch) != formatCluster(cluster) {
		c.log.Warn().Str("epoch", epoch).Msg("the streams belong to another etcd cluster, making new ones")
		if err := c.DropStreams(ctx); err != nil {
			return "", err
		}
		return c.createHistory(ctx, cluster, rev)
	}
	return epoch, c.makeStream(ctx, info, historyConfig(c.cfg.Streams, epoch, info.Config.FirstSeq))
}

func (c *Client) createHistory(ctx context.Context, cluster uint64, rev int64) (string, error) {
	first := uint64(max(rev, 1))*sequencesPerRevision + sequenceStep
	for _, name := range []string{StreamState, StreamArchive, StreamLastN} {
		info, err := c.streamInfo(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return "", err
		default:
			first = max(first, info.State.LastSeq+sequenceStep)
		}
	}
	first = first/sequenceStep*sequenceStep + 1
	epoch := formatCluster(cluster) + "." + strconv.FormatInt(time.Now().UnixMicro(), 16)
	_, err := c.js.CreateStream(ctx, historyConfig(c.cfg.Streams, epoch, first))
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return c.makeHistory(ctx, cluster, rev) // somebody else was faster: take theirs
	case err != nil:
		return "", fmt.Errorf("bus: stream %s: %w", StreamHistory, explain(err))
	}
	c.log.Info().Str("epoch", epoch).Uint64("seq", first).Msg("history begins")
	return epoch, nil
}

// makeMirror makes or adapts one mirror. It reports whether the mirror is STATE
// and lacks objects.
func (c *Client) makeMirror(ctx context.Context, cfg jetstream.StreamConfig, epoch string) (partial bool, err error) {
	have, err := c.existing(ctx, cfg.Name)
	if err != nil {
		return false, err
	}
	cfg.Metadata = map[string]string{epochKey: epoch}
	if cfg.Name == StreamState {
		if partial, err = c.statePartial(ctx, have); err != nil {
			return false, err
		}
	}
	if partial {
		cfg.Metadata[partialKey] = "true"
	}
	return partial, c.makeStream(ctx, have, cfg)
}

// statePartial reports whether STATE is known to lack objects, or would if it
// were made now: a mirror gets only what HISTORY still holds.
func (c *Client) statePartial(ctx context.Context, have *jetstream.StreamInfo) (bool, error) {
	if have != nil {
		return have.Config.Metadata[partialKey] != "", nil
	}
	history, err := c.streamInfo(ctx, StreamHistory)
	if err != nil {
		return false, err
	}
	return history.State.FirstSeq > history.Config.FirstSeq, nil
}

// DropStreams deletes all streams. What they held can be made again from etcd,
// except for the past.
func (c *Client) DropStreams(ctx context.Context) error {
	for _, name := range []string{StreamState, StreamLastN, StreamArchive, StreamRelay, StreamHistory} {
		if err := c.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("bus: delete stream %s: %w", name, err)
		}
	}
	return nil
}

// historyConfig has no compression, so that republishing needs no old block; no
// direct reads, which mirrors would answer wrongly; and nobody may delete from it.
func historyConfig(cfg StreamsConfig, epoch string, firstSeq uint64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: StreamHistory, Description: "every committed change, once and in order",
		Subjects: []string{schemas.AllObjects, schemas.AllRoutes},
		Storage:  jetstream.FileStorage, Replicas: cfg.Replicas,
		MaxAge: cfg.HistoryAge, MaxBytes: cfg.HistoryBytes, Discard: jetstream.DiscardOld,
		Duplicates: 100 * time.Millisecond, AllowMsgTTL: true, DenyDelete: true, DenyPurge: true,
		FirstSeq: firstSeq, Metadata: map[string]string{epochKey: epoch},
		RePublish: &jetstream.RePublish{Source: schemas.AllRoutes, Destination: schemas.LiveRoot + schemas.RouteRoot + "{{wildcard(1)}}"},
	}
}

func mirrors(cfg StreamsConfig) []jetstream.StreamConfig {
	objects := &jetstream.StreamSource{Name: StreamHistory, FilterSubject: schemas.AllObjects}
	return []jetstream.StreamConfig{
		{
			Name: StreamState, Description: "the last change of every object", Mirror: objects,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true,
			RePublish: &jetstream.RePublish{Source: schemas.AllObjects, Destination: schemas.LiveRoot + schemas.AllObjects},
		},
		{
			Name: StreamArchive, Description: "the past", Mirror: objects,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas, Compression: jetstream.S2Compression,
			MaxAge: cfg.ArchiveAge, MaxBytes: cfg.ArchiveBytes, Discard: jetstream.DiscardOld, AllowDirect: true,
		},
		{
			Name: StreamLastN, Description: "the last message of every node's route",
			Mirror:  &jetstream.StreamSource{Name: StreamHistory, FilterSubject: schemas.AllRoutes},
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true,
		},
	}
}

func formatCluster(cluster uint64) string { return strconv.FormatUint(cluster, 16) }

// clusterOf is the part of an epoch that names the etcd cluster.
func clusterOf(epoch string) string {
	cluster, _, _ := strings.Cut(epoch, ".")
	return cluster
}

// Position is a place in HISTORY, or in a mirror of it.
type Position struct {
	Seq   uint64 // sequence of the last message
	First uint64 // sequence of the first message held
	Epoch string
	Empty bool // holds no message, though Seq may not be 0
	// Trimmed says that the stream no longer holds all that was put into it.
	Trimmed bool
}

// Head reads where a stream ends.
func (c *Client) Head(ctx context.Context, stream string) (Position, error) {
	info, err := c.streamInfo(ctx, stream)
	if err != nil {
		return Position{}, err
	}
	return Position{
		Seq: info.State.LastSeq, First: info.State.FirstSeq, Epoch: info.Config.Metadata[epochKey],
		Empty: info.State.Msgs == 0, Trimmed: info.State.FirstSeq > max(info.Config.FirstSeq, 1),
	}, nil
}

func (c *Client) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("bus: stream %s: %w", name, explain(err))
	}
	return stream.CachedInfo(), nil
}

// Message reads one message of a stream by its sequence. ErrNotFound if it is
// not held.
func (c *Client) Message(ctx context.Context, stream string, seq uint64) (schemas.Event, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return schemas.Event{}, fmt.Errorf("bus: stream %s: %w", stream, explain(err))
	}
	msg, err := s.GetMsg(ctx, seq)
	if err != nil {
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return schemas.Event{}, fmt.Errorf("bus: message %d of %s: %w", seq, stream, ErrNotFound)
		}
		return schemas.Event{}, fmt.Errorf("bus: message %d of %s: %w", seq, stream, explain(err))
	}
	return parseStored(msg)
}

func parseStored(msg *jetstream.RawStreamMsg) (schemas.Event, error) {
	e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
	if err != nil {
		return schemas.Event{}, fmt.Errorf("bus: message %d on %s: %w", msg.Sequence, msg.Subject, err)
	}
	e.Seq, e.Recorded = msg.Sequence, msg.Time
	return e, nil
}

// Errors that callers act upon.
var (
	// ErrNotFound says that a message or object is not in the stream.
	ErrNotFound = errors.New("not found in the stream")
	// ErrNoSpace says that the disk or the configured storage is used up. Nothing
	// is lost: the relay goes on where it stopped once there is space.
	ErrNoSpace = errors.New("no space for the streams")
	// ErrFenced says that somebody else has appended to HISTORY.
	ErrFenced = errors.New("another relay has appended to the stream")
	// ErrExpired says that a reader was away for too long and must list again.
	ErrExpired = errors.New("position in the stream is no longer held")
)

// Codes of JetStream's API errors that mean something to us.
const (
	codeInsufficientResources = 10023
	codeStorageExceeded       = 10047
	codeStoreFailed           = 10077
	codeWrongLastSequence     = 10071
	codeWrongLastSequenceR3   = 10164
	codeResourcesExceeded     = 10002
)

// explain adds to an error of JetStream what the caller can do about it.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch int(api.ErrorCode) {
	case codeInsufficientResources, codeStorageExceeded, codeStoreFailed, codeResourcesExceeded:
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case codeWrongLastSequence, codeWrongLastSequenceR3:
		return fmt.Errorf("%w: %w", ErrFenced, err)
	default:
		return err
	}
}

// mirrorPoll is how often WaitMirror looks; a server tells nobody when a mirror
// has caught up.
const mirrorPoll = 10 * time.Millisecond

// WaitMirror waits until a mirror has all that HISTORY had when it was called.
func (c *Client) WaitMirror(ctx context.Context, mirror string) error {
	history, err := c.streamInfo(ctx, StreamHistory)
	if err != nil {
		return err
	}
	filter := schemas.AllObjects
	if mirror == StreamLastN {
		filter = schemas.AllRoutes
	}
	stream, err := c.js.Stream(ctx, StreamHistory)
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamHistory, explain(err))
	}
	var want uint64
	if history.State.Msgs > 0 {
		last, err := stream.GetLastMsgForSubject(ctx, filter)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return fmt.Errorf("bus: last message of %s: %w", filter, explain(err))
		default:
			want = last.Sequence
		}
	}
	for {
		head, err := c.Head(ctx, mirror)
		if err != nil {
			return err
		}
		if head.Seq >= want {
			return nil
		}
		select {
		case <-time.After(mirrorPoll):
		case <-ctx.Done():
			return fmt.Errorf("bus: %s is at %d, not yet at %d: %w", mirror, head.Seq, want, ctx.Err())
		}
	}
}

// DeleteStream deletes one stream, for operators and tests: what it held is made
// again from etcd or named as a gap.
func (c *Client) DeleteStream(ctx context.Context, name string) error {
	if err := c.js.DeleteStream(ctx, name); err != nil {
		return fmt.Errorf("bus: delete stream %s: %w", name, explain(err))
	}
	return nil
}
