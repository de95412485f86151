package bus

import (
	"context"
	"errors"
	"time"
)

// Held is what a stream holds.
type Held struct {
	Stream          string
	Messages, Bytes uint64
	// MaxBytes and MaxAge bound it; 0 is no bound.
	MaxBytes    int64
	MaxAge      time.Duration
	First, Last End
}

// End is the first or last message of a stream. Rev is 0 if that is not held any more.
type End struct {
	Seq uint64
	Rev int64
	At  time.Time // when the stream took it; of PACKS and MENDED, when ARCHIVE took the first and the last event in it
}

// HeldBy looks at a stream.
func (c *Client) HeldBy(ctx context.Context, stream string) (Held, error) {
	info, err := c.streamInfo(ctx, stream)
	if err != nil {
		return Held{}, err
	}
	h := Held{
		Stream: stream, Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: max(info.Config.MaxBytes, 0), MaxAge: info.Config.MaxAge,
		First: End{Seq: info.State.FirstSeq, At: info.State.FirstTime}, Last: End{Seq: info.State.LastSeq, At: info.State.LastTime},
	}
	if h.Messages == 0 {
		return h, nil
	}
	if stream == StreamPacks || stream == StreamMended {
		err := c.packEnds(ctx, stream, &h.First, &h.Last)
		return h, err
	}
	for _, end := range []*End{&h.First, &h.Last} {
		e, err := c.Message(ctx, stream, end.Seq)
		if err != nil && !errors.Is(err, ErrNotFound) { // dropped meanwhile
			return Held{}, err
		}
		end.Rev = e.Rev
	}
	return h, nil
}
