package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// Config is what is fixed for a history.
type Config struct {
	// CacheBytes is about how much memory states take that were asked for.
	CacheBytes int64
	// Builders is how many states are made at a time.
	Builders int
	// BuildTimeout bounds the making of one.
	BuildTimeout time.Duration
	// SettleTimeout is how long a request waits for the log to have what etcd has, and for it
	// to say what it holds.
	SettleTimeout time.Duration
	// KeyframeEvents is how many changes lie between two keyframes at least; in a large
	// cluster it is KeyframeShare times the number of objects.
	KeyframeEvents int
	KeyframeShare  int
	// KeyframeAge is after how long there is a keyframe even if little has changed.
	KeyframeAge time.Duration
	// RetryDelay is the pause after a keyframe could not be written.
	RetryDelay time.Duration
}

// DefaultConfig is what a production API server uses.
func DefaultConfig() Config {
	return Config{
		CacheBytes: 128 << 20, Builders: 2, BuildTimeout: time.Minute, SettleTimeout: 5 * time.Second,
		KeyframeEvents: 20_000, KeyframeShare: 2, KeyframeAge: time.Hour, RetryDelay: 30 * time.Second,
	}
}

// Feed is where changes come from: the feed of this process.
type Feed interface {
	Revision() int64
	WaitFor(ctx context.Context, rev int64) error
}

// Relay tells how far the log is: WaitFor returns when it has everything up to rev.
type Relay interface {
	WaitFor(ctx context.Context, rev int64) error
}

// Parts are what a history works with.
type Parts struct {
	Bus Log
	// Frames is where Run keeps keyframes.
	Frames Frames
	Feed   Feed
	Relay  Relay
	View   *view.View
	// Revision asks etcd for its revision.
	Revision func(ctx context.Context) (int64, error)
	// Object reads the stored object at a revision from etcd, which has only the last
	// minutes.
	Object func(ctx context.Context, key schemas.Key, rev int64) ([]byte, error)
	// Clock is what time it is; nil for the wall's.
	Clock func() time.Time
}

// History answers questions about the past. New makes one; Run keeps keyframes and packs.
type History struct {
	cfg    Config
	parts  Parts
	log    zerolog.Logger
	states *states
	due    chan struct{} // has room for one: a keyframe is wanted
	grown  chan struct{} // has room for one: the log has something to pack
	builds chan struct{} // one token for each state in the making

	mu       sync.Mutex
	held     *held              // what the log holds, as last looked up; guarded by mu
	archived int64              // ARCHIVE has everything up to this revision; guarded by mu
	openings uint64             // when that was so; guarded by mu
	resolved map[string]Instant // absolute points whose answer is final; guarded by mu
	flights  map[int64]*flight  // states in the making; guarded by mu
}

// New makes a history.
func New(parts Parts, cfg Config, log zerolog.Logger) *History {
	if parts.Clock == nil {
		parts.Clock = time.Now
	}
	return &History{
		cfg: cfg, parts: parts, log: log.With().Str("component", "history").Logger(),
		states: newStates(cfg.CacheBytes), due: make(chan struct{}, 1), grown: make(chan struct{}, 1), builds: make(chan struct{}, cfg.Builders),
		resolved: map[string]Instant{}, flights: map[int64]*flight{},
	}
}

// Now is what time it is where the log is: "now" and times ago are counted from then.
func (h *History) Now() time.Time { return h.parts.Clock() }

// held is what the log holds.
type held struct {
	at      time.Time // when this was looked up
	head    bus.Position
	first   schemas.Event // first change in ARCHIVE; Seq 0 if there is none
	oldest  Instant       // zero if no state can be made
	frames  []bus.Keyframe
	gaps    []Gap
	fromNil bool // the archive begins with an empty cluster
}

// heldFor is how long a look at the log is good for.
const heldFor = time.Second

// holding looks up what the log holds.
func (h *History) holding(ctx context.Context) (*held, error) {
	h.mu.Lock()
	known := h.held
	h.mu.Unlock()
	if known != nil && time.Since(known.at) < heldFor {
		return known, nil
	}
	// A log whose disk is full lets its readers wait, and does not refuse them.
	ctx, cancel := context.WithTimeout(ctx, h.cfg.SettleTimeout)
	defer cancel()
	found, err := h.look(ctx)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Reason: "the event log does not answer", Err: err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = found
	return found, nil
}

func (h *History) look(ctx context.Context) (*held, error) {
	found := &held{at: time.Now()}
	var err error
	if found.head, err = h.parts.Bus.Head(ctx, bus.StreamArchive); err != nil {
		return nil, err
	}
	if found.frames, err = h.parts.Bus.Keyframes(ctx); err != nil {
		return nil, err
	}
	if found.first, err = h.parts.Bus.FirstEvent(ctx); err != nil && !errors.Is(err, bus.ErrNotFound) {
		return nil, err
	}
	err = h.parts.Bus.Gaps(ctx, func(e schemas.Event) error {
		found.gaps = append(found.gaps, gapOf(e))
		return nil
	})
	if err != nil {
		return nil, err
	}
	found.conclude()
	found.extend(Instant{Rev: h.parts.Feed.Revision() + 1, Time: h.Now().UTC()})
	return found, nil
}

// conclude finds the oldest instant whose state can be made.
func (h *held) conclude() {
	h.frames = h.usable()
	h.fromNil = h.first.Seq != 0 && !h.head.Trimmed
	switch {
	case h.fromNil && h.first.Resync != 0: // the log began in the middle of a cluster's life
		h.oldest = Instant{Rev: h.first.Resync, Time: h.first.Recorded}
	case h.fromNil:
		h.oldest = Instant{Rev: h.first.Rev, Time: eventTime(h.first)}
	case len(h.frames) > 0:
		h.oldest = Instant{Rev: h.frames[0].Rev, Time: h.frames[0].Time}
	}
}

// usable are the keyframes behind which the archive has every change.
func (h *held) usable() []bus.Keyframe {
	if !h.head.Trimmed {
		return h.frames
	}
	for i, k := range h.frames {
		if k.Seq+1 >= h.head.First || (h.first.Seq != 0 && k.Rev >= h.first.Rev) {
			return h.frames[i:]
		}
	}
	return nil
}

// whole is a revision behind which the log has every change. A keyframe before the first
// change is usable only if nothing is lost between the two.
func (h *held) whole() int64 {
	switch {
	case h.head.After != 0:
		return h.head.After
	case len(h.frames) > 0:
		return min(h.first.Rev-1, h.frames[0].Rev)
	default:
		return h.first.Rev - 1
	}
}

// extend makes gaps that no resync closed end with the next keyframe: until then nobody
// knows what changed in them. Without one they last until next, the instant to come.
func (h *held) extend(next Instant) {
	for i := range h.gaps {
		g := &h.gaps[i]
		if g.behind == 0 {
			continue
		}
		g.To = next
		for _, k := range h.frames {
			if k.Rev >= g.behind {
				g.To = Instant{Rev: k.Rev, Time: k.Time}
				break
			}
		}
	}
}

// across is the gap that lies between two changes that follow each other in the log.
func (h *held) across(before, behind schemas.Event) *Gap {
	for i := range h.gaps {
		if g := &h.gaps[i]; g.behind != 0 && before.Rev <= g.From.Rev+1 && behind.Rev >= g.behind {
			return g
		}
	}
	return nil
}

func gapOf(e schemas.Event) Gap {
	g := Gap{From: Instant{Rev: e.PrevRev}, To: Instant{Rev: e.Rev, Time: e.Recorded}, Reason: gapReason(e)}
	if e.Lost() {
		g.behind = e.Rev
	}
	return g
}

// eventTime is when a change was made: by its writer's clock if that is known.
func eventTime(e schemas.Event) time.Time {
	if e.Header.Time.IsZero() {
		return e.Recorded.UTC()
	}
	return e.Header.Time.UTC()
}

// effective is the revision as of which a change is known: those that a resync told are
// known together.
func effective(e schemas.Event) int64 { return max(e.Rev, e.Resync) }

// settle waits until ARCHIVE has everything up to rev.
func (h *History) settle(ctx context.Context, rev int64) error {
	_, err := h.settled(ctx, rev)
	return err
}

// settled is settle, and says in which opening of the streams that was.
func (h *History) settled(ctx context.Context, rev int64) (openings uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.SettleTimeout)
	defer cancel()
	if openings, err = h.openingsOf(ctx); err != nil {
		return 0, err
	}
	h.mu.Lock()
	if h.openings != openings { // it may have lost its end since, and is getting it back
		h.openings, h.archived = openings, 0
	}
	known := h.archived
	h.mu.Unlock()
	if rev <= known {
		return openings, nil
	}
	err = h.parts.Feed.WaitFor(ctx, rev)
	if err == nil {
		err = h.parts.Relay.WaitFor(ctx, rev)
	}
	if err == nil {
		err = h.parts.Bus.WaitMirror(ctx, bus.StreamArchive)
	}
	if err != nil {
		return 0, &Error{Kind: Unavailable, Reason: fmt.Sprintf("the event log has not got as far as revision %d", rev), Err: err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.openings == openings {
		h.archived = max(h.archived, rev)
	}
	return openings, nil
}

// openingsOf is which opening of the streams this is.
func (h *History) openingsOf(ctx context.Context) (uint64, error) {
	n, err := h.parts.Bus.Openings(ctx)
	if err != nil {
		return 0, &Error{Kind: Unavailable, Reason: "the event log does not answer", Err: err}
	}
	return n, nil
}
