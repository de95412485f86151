package bus

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// StreamKeyframes holds keyframes: whole states of the cluster from which ARCHIVE goes
// on. It is an object store, which JetStream keeps in a stream of this name.
const StreamKeyframes = "OBJ_" + keyframeBucket

const (
	keyframeBucket = "KEYFRAMES"
	keyframePrefix = "k-"
	keyframeChunk  = 1 << 20
	// chunkSubject and metaSubject are where an object store keeps the parts of an
	// object and what it knows of it.
	chunkSubject = "$O." + keyframeBucket + ".C."
	metaSubject  = "$O." + keyframeBucket + ".M."
)

// Keys in the metadata of a keyframe.
const (
	keyframeSeq     = "seq"
	keyframeTime    = "time"
	keyframeObjects = "objects"
	keyframeEpoch   = "epoch"
)

// Keyframe describes the whole state of the cluster at a revision.
type Keyframe struct {
	Rev int64
	// Time is when the newest change in it was made.
	Time time.Time
	// Seq is a sequence of ARCHIVE behind which every change after Rev lies. Some
	// changes behind it may be in the keyframe already.
	Seq     uint64
	Epoch   string
	Objects int
	// Bytes is what it takes in the store.
	Bytes int64
}

func keyframeName(rev int64) string { return fmt.Sprintf("%s%019d", keyframePrefix, rev) }

// PutKeyframe stores a keyframe. ErrNoSpace if the store is full: the caller may delete
// some and try again.
func (c *Client) PutKeyframe(ctx context.Context, k Keyframe, body io.Reader) error {
	store, err := c.keyframeStore(ctx)
	if err != nil {
		return err
	}
	_, err = store.Put(ctx, jetstream.ObjectMeta{
		Name: keyframeName(k.Rev),
		Metadata: map[string]string{
			keyframeSeq: strconv.FormatUint(k.Seq, 10), keyframeTime: k.Time.UTC().Format(time.RFC3339Nano),
			keyframeObjects: strconv.Itoa(k.Objects), keyframeEpoch: k.Epoch,
		},
		Opts: &jetstream.ObjectMetaOptions{ChunkSize: keyframeChunk},
	}, body)
	if err != nil {
		return fmt.Errorf("bus: keyframe of revision %d: %w", k.Rev, explain(err))
	}
	return nil
}

// Keyframes lists the keyframes there are, oldest first.
func (c *Client) Keyframes(ctx context.Context) ([]Keyframe, error) {
	store, err := c.keyframeStore(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found, err := store.List(ctx)
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("bus: keyframes: %w", explain(err))
	}
	var frames []Keyframe
	for _, info := range found {
		if k, ok := parseKeyframe(info); ok {
			frames = append(frames, k)
		}
	}
	slices.SortFunc(frames, func(a, b Keyframe) int { return int(a.Rev - b.Rev) })
	return frames, nil
}

// parseKeyframe reads what PutKeyframe wrote; false if it is something else.
func parseKeyframe(info *jetstream.ObjectInfo) (Keyframe, bool) {
	text, ok := strings.CutPrefix(info.Name, keyframePrefix)
	if !ok {
		return Keyframe{}, false
	}
	k := Keyframe{Epoch: info.Metadata[keyframeEpoch], Bytes: int64(info.Size)}
	var errs [4]error
	k.Rev, errs[0] = strconv.ParseInt(text, 10, 64)
	k.Seq, errs[1] = strconv.ParseUint(info.Metadata[keyframeSeq], 10, 64)
	k.Objects, errs[2] = strconv.Atoi(info.Metadata[keyframeObjects])
	k.Time, errs[3] = time.Parse(time.RFC3339Nano, info.Metadata[keyframeTime])
	return k, errors.Join(errs[:]...) == nil
}

// ReadKeyframe returns the body of the keyframe of a revision. ErrNotFound if there is
// none, or if a part of it is missing or altered.
func (c *Client) ReadKeyframe(ctx context.Context, rev int64) ([]byte, error) {
	store, err := c.keyframeStore(ctx)
	if err != nil {
		return nil, err
	}
	result, err := store.Get(ctx, keyframeName(rev))
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("bus: keyframe of revision %d: %w", rev, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: keyframe of revision %d: %w", rev, explain(err))
	}
	defer func() { _ = result.Close() }() // it has been read, or is of no use
	var body bytes.Buffer
	if info, err := result.Info(); err == nil {
		body.Grow(int(info.Size) + bytes.MinRead)
	}
	_, err = body.ReadFrom(result)
	if errors.Is(err, jetstream.ErrDigestMismatch) {
		return nil, fmt.Errorf("bus: keyframe of revision %d: %w: %w", rev, ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: keyframe of revision %d: %w", rev, explain(err))
	}
	return body.Bytes(), nil
}

// DeleteKeyframe deletes the keyframe of a revision, if there is one.
func (c *Client) DeleteKeyframe(ctx context.Context, rev int64) error {
	store, err := c.keyframeStore(ctx)
	if err != nil {
		return err
	}
	if err := store.Delete(ctx, keyframeName(rev)); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("bus: delete keyframe of revision %d: %w", rev, explain(err))
	}
	return nil
}

// SweepKeyframes removes what writers that were killed have left: parts that belong to
// no keyframe, and marks of deleted ones. Nobody may be writing meanwhile; the parts of
// a keyframe that somebody does write are lost, which its reader finds out.
func (c *Client) SweepKeyframes(ctx context.Context) error {
	store, err := c.keyframeStore(ctx)
	if err != nil {
		return err
	}
	listCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	listed, err := store.List(listCtx, jetstream.ListObjectsShowDeleted())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return fmt.Errorf("bus: keyframes: %w", explain(err))
	}
	stream, err := c.js.Stream(ctx, StreamKeyframes)
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamKeyframes, explain(err))
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(chunkSubject+">"))
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamKeyframes, explain(err))
	}
	waste := map[string]bool{}
	for subject := range info.State.Subjects {
		waste[subject] = true
	}
	for _, o := range listed {
		if o.Deleted {
			waste[metaSubject+objectToken(o.Name)] = true
			continue
		}
		delete(waste, chunkSubject+o.NUID)
	}
	for subject := range waste {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return fmt.Errorf("bus: purge %s: %w", subject, explain(err))
		}
	}
	return nil
}

// keyframeStore opens the object store, which MakeStreams has made.
func (c *Client) keyframeStore(ctx context.Context) (jetstream.ObjectStore, error) {
	store, err := c.js.ObjectStore(ctx, keyframeBucket)
	if err != nil {
		return nil, fmt.Errorf("bus: keyframes: %w", explain(err))
	}
	return store, nil
}

// makeKeyframes makes the object store. Bodies come compressed.
func (c *Client) makeKeyframes(ctx context.Context) error {
	have, err := c.existing(ctx, StreamKeyframes)
	if err != nil || have != nil && have.Config.MaxBytes == c.cfg.Streams.KeyframeBytes && have.Config.Replicas == c.cfg.Streams.Replicas {
		return err
	}
	_, err = c.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: keyframeBucket, Description: "whole states, from which the archive goes on",
		MaxBytes: c.cfg.Streams.KeyframeBytes, Storage: jetstream.FileStorage, Replicas: c.cfg.Streams.Replicas,
	})
	if err != nil {
		return fmt.Errorf("bus: keyframes: %w", explain(err))
	}
	return nil
}

// objectToken is how an object store writes a name into a subject.
func objectToken(name string) string { return base64.URLEncoding.EncodeToString([]byte(name)) }
