package kinds

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFirstRepairIsTriedAgain: a loop that returns when its first repair has failed, as
// that of addresses does, and one that waits for its interval, as that of ports does.
func TestFirstRepairIsTriedAgain(t *testing.T) {
	for name, afterFailure := range map[string]func(stop chan struct{}){
		"a loop that returns": func(chan struct{}) {},
		"a loop that waits":   func(stop chan struct{}) { <-stop },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const failures = 11
				begun := time.Now()
				var tries []time.Duration
				var forgotten, repaired int
				fresh := func() repair {
					return repair{
						run: func(repaired func(), stop chan struct{}) {
							tries = append(tries, time.Since(begun))
							if len(tries) <= failures {
								afterFailure(stop)
								return
							}
							repaired()
							<-stop
						},
						forget: func() { forgotten++ },
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					(&Repairs{fresh: []func() repair{fresh}}).Run(ctx, func() { repaired++ })
					close(done)
				}()
				time.Sleep(time.Hour)
				synctest.Wait()
				s := time.Second
				require.Equal(t, []time.Duration{0, 1 * s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 127 * s, 255 * s, 511 * s, 1023 * s, 1923 * s}, tries)
				require.Equal(t, 1, repaired)
				require.Equal(t, failures, forgotten, "the loop that goes on keeps its handlers")
				cancel()
				<-done
				require.Equal(t, failures+1, forgotten)
			})
		})
	}
}

func TestRepairedWhenAllLoopsAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var repaired int
		release := make(chan struct{})
		at := func(when chan struct{}) func() repair {
			return func() repair {
				return repair{run: func(repaired func(), stop chan struct{}) {
					select {
					case <-when:
						repaired()
						<-stop
					case <-stop:
					}
				}}
			}
		}
		now := make(chan struct{})
		close(now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			(&Repairs{fresh: []func() repair{at(now), at(release)}}).Run(ctx, func() { repaired++ })
			close(done)
		}()
		time.Sleep(10 * time.Minute)
		require.Zero(t, repaired)
		close(release)
		synctest.Wait()
		require.Equal(t, 1, repaired)
		cancel()
		<-done
	})
}
