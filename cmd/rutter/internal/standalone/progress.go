package standalone

import (
	"fmt"
	"io"
	"time"
)

// Progress prints a line for each step when it is done, with the time it took.
type Progress struct {
	w     io.Writer
	began time.Time
	last  time.Time
}

// NewProgress counts from now.
func NewProgress(w io.Writer) *Progress {
	now := time.Now()
	return &Progress{w: w, began: now, last: now}
}

// Done says that a step is done.
func (p *Progress) Done(step string) {
	now := time.Now()
	fmt.Fprintf(p.w, "  %-46s %8s\n", step, now.Sub(p.last).Round(time.Millisecond))
	p.last = now
}

// Total is the time since the beginning.
func (p *Progress) Total() time.Duration { return time.Since(p.began).Round(10 * time.Millisecond) }
