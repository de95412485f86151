package bus

import (
	"context"
	"sync/atomic"
	"time"
)

// traffic tells whether changes are being published in this process.
type traffic struct {
	start time.Time
	last  atomic.Int64 // when the last change was published, after start
}

func newTraffic() *traffic {
	t := &traffic{start: time.Now()}
	t.last.Store(-int64(trafficFresh))
	return t
}

// trafficFresh is for how long one change lets others be expected.
const trafficFresh = time.Second

func (t *traffic) note() { t.last.Store(int64(time.Since(t.start))) }

func (t *traffic) flows() bool {
	return time.Since(t.start)-time.Duration(t.last.Load()) < trafficFresh
}

const (
	// paceEvery is after how many events the clock is looked at.
	paceEvery = 8
	// paceSlice is how long a reader works before it pauses, and paceShare how much of a
	// processor it may use: one part in so many. Live changes then find a processor free
	// nearly always, and never wait for one longer than for a slice.
	paceSlice = 100 * time.Microsecond
	paceShare = 8
	// pacePause bounds a pause: time in which the reader itself was held up looks like work.
	pacePause = 20 * time.Millisecond
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
	pause := paced(now.Sub(p.began))
	if pause == 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.began = time.Now()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// paced is how long to pause after working for so long.
func paced(worked time.Duration) time.Duration {
	if worked < paceSlice {
		return 0
	}
	return min(worked*(paceShare-1), pacePause)
}
