package bus

import (
	"context"
	"sync/atomic"
	"time"
)

// traffic tells whether changes are being published in this process.
type traffic struct {
	start time.Time
	last  atomic.Int64 // when a change was published last, or stored, after start
}

func newTraffic() *traffic {
	t := &traffic{start: time.Now()}
	t.last.Store(-int64(trafficFresh))
	return t
}

// trafficFresh is for how long one change lets others be expected.
const trafficFresh = time.Second

func (t *traffic) note() { t.last.Store(int64(time.Since(t.start))) }

// quiet is for how long nothing was published or stored.
func (t *traffic) quiet() time.Duration { return time.Since(t.start) - time.Duration(t.last.Load()) }

func (t *traffic) flows() bool { return t.quiet() < trafficFresh }

// While changes are published, a long reader works for paceSlice at a time, or until the
// next change comes, and uses one part in paceShare of a processor. It goes on when for
// paceQuiet no change was on its way, but pauses for no longer than pacePause, lest it
// stands still where changes never pause.
const (
	paceEvery = 8 // events between two looks at the clock
	paceSlice = 100 * time.Microsecond
	paceShare = 64
	paceQuiet = 500 * time.Microsecond
	pacePause = 10 * time.Millisecond
)

// pacer slows a long reader down while changes are published.
type pacer struct {
	traffic *traffic
	events  int
	began   time.Time // when the reader began to work, or went on
}

// step is called with every event.
func (p *pacer) step(ctx context.Context) error {
	if p.events++; p.events%paceEvery != 0 {
		return nil
	}
	now := time.Now()
	if p.began.IsZero() || !p.traffic.flows() {
		p.began = now
		return ctx.Err()
	}
	worked := now.Sub(p.began)
	if worked < paceSlice && p.traffic.quiet() > worked {
		return nil
	}
	pause := min(worked*(paceShare-1), pacePause)
	for left := pacePause; left > 0; left -= pause {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		quiet := p.traffic.quiet()
		if quiet >= paceQuiet {
			break
		}
		pause = paceQuiet - quiet
	}
	p.began = time.Now()
	return nil
}
