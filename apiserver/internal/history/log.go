package history

import (
	"context"
	"io"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// Log is where changes and whole states are read from: the archive on the bus, or a
// Recording. Its methods are those of bus.Client.
type Log interface {
	Head(ctx context.Context, stream string) (bus.Position, error)
	Size(ctx context.Context, stream string) (messages, bytes uint64, err error)
	FirstEvent(ctx context.Context) (schemas.Event, error)
	Gaps(ctx context.Context, fn func(schemas.Event) error) error
	Divide(ctx context.Context, after func(schemas.Event) bool) (before, behind schemas.Event, err error)
	ReadRange(ctx context.Context, r bus.Range, fn func(schemas.Event) error) error
	WaitMirror(ctx context.Context, mirror string) error
	Openings(ctx context.Context) (uint64, error)
	Keyframes(ctx context.Context) ([]bus.Keyframe, error)
	ReadKeyframe(ctx context.Context, rev int64) ([]byte, error)
	Retention() bus.StreamsConfig
}

// Frames is where keyframes are kept that are made while the log grows, and packs of the
// log.
type Frames interface {
	LastEvent(ctx context.Context, stream string) (schemas.Event, error)
	PutKeyframe(ctx context.Context, k bus.Keyframe, body io.Reader) error
	DeleteKeyframe(ctx context.Context, rev int64) error
	SweepKeyframes(ctx context.Context) error
	PackArchive(ctx context.Context) error
}

var (
	_ Log    = (*bus.Client)(nil)
	_ Frames = (*bus.Client)(nil)
)
