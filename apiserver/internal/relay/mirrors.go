package relay

import (
	"context"
	"time"

	"github.com/rutter-project/rutter/bus"
)

// mirrorLimit is how far a mirror may be behind before somebody should know. NATS itself
// takes ten to twenty seconds to notice that the stream it copies was made anew.
const mirrorLimit = 5 * time.Second

// mirrorLag follows one mirror. It only computes.
type mirrorLag struct {
	want  uint64    // what the mirror should have, 0 if it has everything
	since time.Time // when it should have had it
	told  bool      // that it is behind
}

// step takes what the mirror should have and what it has. It says for how long the mirror
// has been behind, and whether that begins or ends to be too long.
func (m *mirrorLag) step(now time.Time, want, have uint64) (behind time.Duration, begins, ends bool) {
	if m.want == 0 || have >= m.want {
		ends = m.told
		*m = mirrorLag{}
		if have < want {
			m.want, m.since = want, now
		}
		return 0, false, ends
	}
	behind = now.Sub(m.since)
	begins = behind >= mirrorLimit && !m.told
	m.told = m.told || begins
	return behind, begins, false
}

// watchMirrors tells when a mirror does not follow. It asks nobody while nothing happens.
func (r *Relay) watchMirrors(ctx context.Context) {
	lags := map[string]*mirrorLag{}
	ticker := time.NewTicker(r.cfg.MirrorCheck)
	defer ticker.Stop()
	settled := int64(-1) // position at which all mirrors had everything
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		position := r.Position()
		if position == settled {
			continue
		}
		mirrors, err := r.bus.Mirrors(ctx)
		if err != nil {
			continue // without the bus the relay itself complains
		}
		if r.noteMirrors(lags, mirrors, time.Now()) {
			settled = position
		}
	}
}

// noteMirrors reports whether all mirrors have everything.
func (r *Relay) noteMirrors(lags map[string]*mirrorLag, mirrors []bus.Mirror, now time.Time) bool {
	all := true
	for _, m := range mirrors {
		lag := lags[m.Stream]
		if lag == nil {
			lag = &mirrorLag{}
			lags[m.Stream] = lag
		}
		behind, begins, ends := lag.step(now, m.Want, m.Have)
		r.metrics.mirror.WithLabelValues(m.Stream).Set(behind.Seconds())
		switch {
		case begins:
			r.log.Warn().Str("stream", m.Stream).Uint64("seq", m.Have).Uint64("history", m.Want).Dur("took", behind).Msg("mirror does not follow the stream")
		case ends:
			r.log.Info().Str("stream", m.Stream).Uint64("seq", m.Have).Msg("mirror follows again")
		}
		all = all && m.Have >= m.Want
	}
	return all
}
