package history

import (
	"context"

	"github.com/rutter-project/rutter/bus"
)

// Status is what the log holds.
type Status struct {
	// Epoch names the cluster and the generation of its stream, divided by a dot.
	Epoch string `json:"epoch"`
	// Oldest and Newest are the bounds of the instants whose state can be made.
	Oldest *Instant `json:"oldest"`
	Newest Instant  `json:"newest"`
	// Events and Bytes are of the log, with what it has lost and is read from elsewhere.
	Events    uint64     `json:"events"`
	Bytes     uint64     `json:"bytes"`
	Keyframes []Keyframe `json:"keyframes"`
	// Packs is the copy of the events that long reads take; nil where there is none.
	Packs *Packs `json:"packs,omitempty"`
	// Mended is what the log has lost and others still had; nil if that is nothing.
	Mended    *Mended   `json:"mended,omitempty"`
	Gaps      []Gap     `json:"gaps"`
	Retention Retention `json:"retention"`
	Cache     Cache     `json:"cache"`
}

// Keyframe is a whole state that is kept.
type Keyframe struct {
	Instant
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Packs is how much of the log is packed.
type Packs struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

// Mended is what is read in place of what the log has lost.
type Mended struct {
	Events   uint64 `json:"events"`
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

// Retention is what bounds the log. Ages are in seconds.
type Retention struct {
	MaxAgeSeconds     int64 `json:"maxAgeSeconds"`
	MaxBytes          int64 `json:"maxBytes"`
	MaxKeyframeBytes  int64 `json:"maxKeyframeBytes"`
	MaxPackBytes      int64 `json:"maxPackBytes"`
	KeyframeEvents    int   `json:"keyframeEvents"`
	KeyframeAgeSecond int64 `json:"keyframeAgeSeconds"`
}

// Cache is which states are in memory.
type Cache struct {
	States   int   `json:"states"`
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"maxBytes"`
}

// Status looks at the log.
func (h *History) Status(ctx context.Context) (Status, error) {
	held, err := h.holding(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Epoch: held.head.Epoch, Newest: Instant{Rev: h.parts.Feed.Revision(), Time: h.Now().UTC()},
		Keyframes: []Keyframe{}, Gaps: []Gap{},
	}
	if held.oldest.Rev != 0 {
		s.Oldest = &held.oldest
	}
	if s.Events, s.Bytes, err = h.parts.Bus.Size(ctx, bus.StreamArchive); err != nil {
		return Status{}, &Error{Kind: Unavailable, Reason: "the event log does not answer", Err: err}
	}
	for _, k := range held.frames {
		s.Keyframes = append(s.Keyframes, Keyframe{Instant: Instant{Rev: k.Rev, Time: k.Time}, Objects: k.Objects, Bytes: k.Bytes})
	}
	for _, g := range held.gaps {
		s.Gaps = append(s.Gaps, *h.dated(ctx, g))
	}
	limits := h.parts.Bus.Retention()
	if limits.PackBytes > 0 { // a recording is not packed
		s.Packs = &Packs{}
		if s.Packs.Messages, s.Packs.Bytes, err = h.parts.Bus.Size(ctx, bus.StreamPacks); err != nil {
			return Status{}, &Error{Kind: Unavailable, Reason: "the event log does not answer", Err: err}
		}
	}
	if n := held.head.Mended; n > 0 {
		s.Mended = &Mended{Events: n}
		if s.Mended.Messages, s.Mended.Bytes, err = h.parts.Bus.Size(ctx, bus.StreamMended); err != nil {
			return Status{}, &Error{Kind: Unavailable, Reason: "the event log does not answer", Err: err}
		}
		s.Events += n
		s.Bytes += s.Mended.Bytes
	}
	s.Retention = Retention{
		MaxAgeSeconds: int64(limits.ArchiveAge.Seconds()), MaxBytes: limits.ArchiveBytes, MaxKeyframeBytes: limits.KeyframeBytes, MaxPackBytes: limits.PackBytes,
		KeyframeEvents: h.cfg.KeyframeEvents, KeyframeAgeSecond: int64(h.cfg.KeyframeAge.Seconds()),
	}
	s.Cache.MaxBytes = h.cfg.CacheBytes
	s.Cache.States, s.Cache.Bytes = h.states.size()
	return s, nil
}
