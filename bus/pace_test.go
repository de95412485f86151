package bus

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// reading is a long read: how long n slices of work take it.
func reading(t *testing.T, p *pacer, n int) time.Duration {
	t.Helper()
	started := time.Now()
	for range n * paceEvery {
		time.Sleep(paceSlice / paceEvery) // what an event takes
		require.NoError(t, p.step(t.Context()))
	}
	return time.Since(started)
}

func TestReadersGiveWayToChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacer{traffic: newTraffic()}
		require.Equal(t, 100*paceSlice, reading(t, &p, 100), "nothing is published")
		p.traffic.note()
		slowed := reading(t, &p, 100)
		require.Greater(t, slowed, (paceShare-1)*100*paceSlice)
		require.LessOrEqual(t, slowed, (paceShare+1)*100*paceSlice)
		time.Sleep(trafficFresh)
		reading(t, &p, 1)
		require.Equal(t, 100*paceSlice, reading(t, &p, 100), "it has become quiet")
	})
}

func TestReadersWaitForAChangeOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacer{traffic: newTraffic()}
		reading(t, &p, 1)
		p.traffic.note()
		require.GreaterOrEqual(t, reading(t, &p, 1), paceQuiet, "within a slice")
		// Changes without a pause.
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				p.traffic.note()
				time.Sleep(paceQuiet / 3)
			}
		}()
		took := reading(t, &p, 10)
		require.Greater(t, took, 10*paceQuiet)
		require.Less(t, took, 10*paceEvery*3*pacePause, "it goes on all the same")
		cancel()
		<-done
	})
}

func TestReaderThatGivesWayEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacer{traffic: newTraffic()}
		reading(t, &p, 1)
		p.traffic.note()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var err error
		for range 2 * paceEvery {
			time.Sleep(paceSlice)
			if err = p.step(ctx); err != nil {
				break
			}
		}
		require.ErrorIs(t, err, context.Canceled)
	})
}
