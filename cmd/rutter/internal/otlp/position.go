package otlp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/rutter-project/rutter/apiserver/wholefile"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/schemas"
)

// position is the last event that the collector has taken, or that need not be sent. Last
// tells that it was the last one of its revision.
type position struct {
	Epoch string `json:"epoch,omitempty"`
	Seq   uint64 `json:"seq,omitempty"`
	Rev   int64  `json:"rev,omitempty"`
	Ord   int    `json:"ord,omitempty"`
	Last  bool   `json:"last,omitempty"`
}

// behind is the position after a batch. A gap that was found while reading has no sequence:
// it is no place in the log, and is told again to who begins before it.
func (p position) behind(batch []schemas.Event) position {
	for _, e := range slices.Backward(batch) {
		if e.Seq != 0 {
			return position{Epoch: e.Epoch, Seq: e.Seq, Rev: e.Rev, Ord: e.Ord, Last: e.Last()}
		}
	}
	return p
}

func (p position) place() *remote.Place { return &remote.Place{Rev: p.Rev, Ord: p.Ord, Whole: p.Last} }

// covers reports that an event lies at or before the position. Sequence numbers say it
// exactly; those of a stream that was made anew can't be compared, revisions can.
func (p position) covers(e schemas.Event) bool {
	switch {
	case e.Seq == 0:
		return false
	case p.Epoch == e.Epoch:
		return e.Seq <= p.Seq
	default:
		return e.Rev < p.Rev || e.Rev == p.Rev && e.Ord <= p.Ord
	}
}

func loadPosition(path string) (position, error) {
	var p position
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("position: %w", err)
	}
	if err := json.Unmarshal(text, &p); err != nil || p.Rev < 1 {
		return p, fmt.Errorf("%s holds no position; give another file, or remove it to begin anew", path)
	}
	return p, nil
}

// save replaces the file so that a crash leaves the old position or the new one.
func (p position) save(path string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	if err := wholefile.Write(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("position: %w", err)
	}
	return nil
}
