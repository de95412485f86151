package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Keys in the metadata of streams: the epoch, where HISTORY began when a mirror
// was made, whether STATE lacks objects because it was made after HISTORY had
// dropped messages, and whether HISTORY was made because an older one was gone or had lost
// messages.
const (
	epochKey   = "rutter.epoch"
	firstKey   = "rutter.first"
	partialKey = "rutter.partial"
	cutKey     = "rutter.cut"
)

// Streams is what MakeStreams found or made.
type Streams struct {
	// Epoch of HISTORY, "<cluster id>.<generation>", both hexadecimal.
	Epoch string
	// Partial says that STATE lacks objects. A resync must bring them, and call
	// StateComplete when it has.
	Partial bool
	// Cut says that HISTORY was made because an older one was gone or had lost messages. What
	// the mirrors have of that may be all there was.
	Cut bool
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
	mends, err := c.mends(ctx)
	if err != nil {
		return Streams{}, err
	}
	made, err := c.makeHistory(ctx, cluster, rev)
	if err != nil {
		return Streams{}, err
	}
	if err := c.makePacks(ctx); err != nil {
		return Streams{}, err
	}
	for _, mirror := range mirrors(cfg) {
		partial, err := c.makeMirror(ctx, mirror, made.Epoch)
		if err != nil {
			return Streams{}, err
		}
		made.Partial = made.Partial || partial
	}
	if err := c.makeKeyframes(ctx); err != nil {
		return Streams{}, err
	}
	info, err := c.existing(ctx, StreamRelay)
	if err != nil {
		return Streams{}, err
	}
	err = c.makeStream(ctx, info, jetstream.StreamConfig{
		Name: StreamRelay, Subjects: []string{checkpointSubject}, MaxMsgsPerSubject: 1, Replicas: cfg.Replicas,
	})
	if err == nil {
		err = c.holesNamed(ctx, mends)
	}
	return made, err
}

// makePacks makes the streams of packs.
func (c *Client) makePacks(ctx context.Context) error {
	for _, packs := range []jetstream.StreamConfig{packsConfig(c.cfg.Streams), mendedConfig(c.cfg.Streams)} {
		have, err := c.existing(ctx, packs.Name)
		if err == nil {
			err = c.makeStream(ctx, have, packs)
		}
		if err != nil {
			return err
		}
	}
	return nil
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

// StateComplete notes that STATE has all objects.
func (c *Client) StateComplete(ctx context.Context) error {
	info, err := c.streamInfo(ctx, StreamState)
	if err != nil || info.Config.Metadata[partialKey] == "" {
		return err
	}
	cfg := mirrors(c.cfg.Streams)[0]
	cfg.Metadata = map[string]string{epochKey: info.Config.Metadata[epochKey], firstKey: info.Config.Metadata[firstKey]}
	if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamState, explain(err))
	}
	return nil
}

func (c *Client) makeHistory(ctx context.Context, cluster uint64, rev int64) (Streams, error) {
	info, err := c.existing(ctx, StreamHistory)
	switch {
	case err != nil:
		return Streams{}, err
	case info == nil:
		// Whether somebody deleted it or a disk lost it: the mirrors may have all it had.
		return c.createHistory(ctx, 0, cluster, rev, true)
	}
	have := Streams{Epoch: info.Config.Metadata[epochKey], Cut: info.Config.Metadata[cutKey] != ""}
	if clusterOf(have.Epoch) != formatCluster(cluster) {
		c.log.Warn().Str("epoch", have.Epoch).Msg("the streams belong to another etcd cluster, making new ones")
		return c.remakeHistory(ctx, info.State.LastSeq, cluster, rev)
	}
	endLost, err := c.endLost(ctx, info)
	if err != nil {
		return Streams{}, err
	}
	middleLost, err := c.middleLost(ctx, info)
	if err != nil {
		return Streams{}, err
	}
	if endLost || middleLost {
		c.log.Warn().Str("stream", StreamHistory).Bool("end", endLost).Msg("a stream has lost messages, making it anew")
		if err := c.mendFirst(ctx); err != nil {
			return Streams{}, err
		}
		drop := []string{StreamHistory}
		if endLost { // packs may have more than an archive that was cut too
			drop = append(drop, StreamPacks)
		}
		for _, name := range drop {
			if err := c.dropStream(ctx, name); err != nil {
				return Streams{}, err
			}
		}
		return c.createHistory(ctx, info.State.LastSeq, cluster, rev, true)
	}
	return have, c.makeStream(ctx, info, historyConfig(c.cfg.Streams, have, info.Config.FirstSeq))
}

// RemakeStreams deletes all streams and begins a new history, with an epoch of its
// own and sequence numbers above those of the old one.
func (c *Client) RemakeStreams(ctx context.Context, cluster uint64, rev int64) (Streams, error) {
	var floor uint64
	info, err := c.existing(ctx, StreamHistory)
	if err != nil {
		return Streams{}, err
	}
	if info != nil {
		floor = info.State.LastSeq
	}
	if _, err := c.remakeHistory(ctx, floor, cluster, rev); err != nil {
		return Streams{}, err
	}
	return c.MakeStreams(ctx, cluster, rev)
}

func (c *Client) remakeHistory(ctx context.Context, floor, cluster uint64, rev int64) (Streams, error) {
	if err := c.DropStreams(ctx); err != nil {
		return Streams{}, err
	}
	return c.createHistory(ctx, floor, cluster, rev, false)
}

// createHistory makes HISTORY with sequence numbers above floor and above those of
// the mirrors there are.
func (c *Client) createHistory(ctx context.Context, floor, cluster uint64, rev int64, cut bool) (Streams, error) {
	first := max(uint64(max(rev, 1))*sequencesPerRevision, floor) + sequenceStep
	mirrored := false
	for _, name := range []string{StreamState, StreamArchive, StreamLastN} {
		info, err := c.existing(ctx, name)
		if err != nil {
			return Streams{}, err
		}
		if info != nil {
			first, mirrored = max(first, info.State.LastSeq+sequenceStep), true
		}
	}
	first = first/sequenceStep*sequenceStep + 1
	made := Streams{Epoch: formatCluster(cluster) + "." + strconv.FormatInt(time.Now().UnixMicro(), 16), Cut: cut && mirrored}
	_, err := c.js.CreateStream(ctx, historyConfig(c.cfg.Streams, made, first))
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return c.makeHistory(ctx, cluster, rev) // somebody else was faster: take theirs
	case err != nil:
		return Streams{}, fmt.Errorf("bus: stream %s: %w", StreamHistory, explain(err))
	}
	c.log.Info().Str("epoch", made.Epoch).Uint64("seq", first).Msg("history begins")
	return made, nil
}

// makeMirror makes or adapts one mirror. It reports whether the mirror is STATE
// and lacks objects.
func (c *Client) makeMirror(ctx context.Context, cfg jetstream.StreamConfig, epoch string) (partial bool, err error) {
	have, err := c.soundMirror(ctx, cfg.Name)
	if err != nil {
		return false, err
	}
	cfg.Metadata = map[string]string{epochKey: epoch}
	if cfg.Metadata[firstKey], err = c.mirrorFirst(ctx, have); err != nil {
		return false, err
	}
	if cfg.Name == StreamState {
		if partial, err = c.statePartial(ctx, have); err != nil {
			return false, err
		}
	}
	if partial {
		cfg.Metadata[partialKey] = "true"
	}
	if have != nil && cfg.Name == StreamArchive {
		if cfg.Metadata[holesKey], err = c.mendArchive(ctx, have); err != nil {
			return false, err
		}
	}
	err = c.makeStream(ctx, have, cfg)
	if err == nil && have == nil && cfg.Name == StreamState {
		err = c.WaitMirror(ctx, cfg.Name) // who lists from it now would miss objects
	}
	return partial, err
}

// soundMirror is a mirror as it is, nil if there is none. A STATE that has lost messages is
// deleted first, so that it is made again of what HISTORY has.
func (c *Client) soundMirror(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	have, err := c.existing(ctx, name)
	if err != nil || have == nil {
		return nil, err
	}
	holed, err := c.mirrorHoled(ctx, name)
	if err != nil || !holed {
		return have, err
	}
	c.log.Warn().Str("stream", name).Msg("a stream has lost messages, making it anew")
	return nil, c.dropStream(ctx, name)
}

// mirrorFirst is the sequence with which a mirror's history begins.
func (c *Client) mirrorFirst(ctx context.Context, have *jetstream.StreamInfo) (string, error) {
	if have != nil && have.Config.Metadata[firstKey] != "" {
		return have.Config.Metadata[firstKey], nil
	}
	history, err := c.streamInfo(ctx, StreamHistory)
	if err != nil {
		return "", err
	}
	return strconv.FormatUint(history.Config.FirstSeq, 10), nil
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
	for _, name := range []string{StreamState, StreamLastN, StreamKeyframes, StreamPacks, StreamMended, StreamArchive, StreamRelay, StreamHistory} {
		if err := c.dropStream(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// dropStream deletes a stream if it is there.
func (c *Client) dropStream(ctx context.Context, name string) error {
	if err := c.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("bus: delete stream %s: %w", name, explain(err))
	}
	return nil
}

func formatCluster(cluster uint64) string { return strconv.FormatUint(cluster, 16) }

// clusterOf is the part of an epoch that names the etcd cluster.
func clusterOf(epoch string) string {
	cluster, _, _ := strings.Cut(epoch, ".")
	return cluster
}

// DeleteStream deletes one stream, for operators and tests: what it held is made
// again from etcd or named as a gap.
func (c *Client) DeleteStream(ctx context.Context, name string) error {
	if err := c.js.DeleteStream(ctx, name); err != nil {
		return fmt.Errorf("bus: delete stream %s: %w", name, explain(err))
	}
	return nil
}
