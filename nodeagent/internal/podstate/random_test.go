package podstate

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestAnyStory brings random events in any order and checks what must hold of
// every pod whatever happens to it.
func TestAnyStory(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		spec := specOf(initc("i"), with(sidecar("s"), func(c *ContainerSpec) { c.Startup = true }),
			with(app("a"), func(c *ContainerSpec) { c.PreStop, c.PostStart, c.Liveness = true, true, true }), never(app("b")))
		p := New("uid", spec, t0)
		now := t0
		live := map[string]bool{} // attempts with a process, as the world has it
		step := func(ev Event) {
			before := p
			next, todo := Step(p, spec, ev, now)
			for _, a := range todo {
				if s, ok := a.(Start); ok {
					require.False(r, live[s.ID], "an attempt is started once")
					require.Equal(r, Active, next.State)
				}
			}
			if before.State == Released || before.State == Removing || before.State == Removed {
				require.False(r, next.AnyAlive(), "nothing runs after the end")
			}
			data, err := json.Marshal(next)
			require.NoError(r, err)
			var back Pod
			require.NoError(r, json.Unmarshal(data, &back), "a pod can be saved and loaded")
			p = next
		}
		step(Begin{})
		for range rapid.IntRange(1, 80).Draw(r, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20000).Draw(r, "ms")) * time.Millisecond)
			c := rapid.IntRange(0, 3).Draw(r, "container")
			id := p.Containers[c].ID
			switch rapid.IntRange(0, 15).Draw(r, "event") {
			case 0:
				step(Prepared{IPs: []string{"10.0.0.1"}})
			case 1:
				step(Pulled{C: c, ImageID: "x"})
			case 2, 3:
				if p.Containers[c].State == Starting {
					live[id] = true
					step(Started{C: c, ID: id, At: now})
				}
			case 4:
				delete(live, id)
				step(Exited{C: c, Exit: Exit{ID: id, Code: int32(rapid.IntRange(0, 1).Draw(r, "code")), FinishedAt: now}})
			case 5:
				step(PostStartDone{C: c, ID: id})
			case 6:
				step(PreStopDone{C: c, ID: id})
			case 7:
				step(PullFailed{C: c, Reason: "ErrImagePull"})
			case 8:
				step(Probed{C: c, ID: id, Kind: Startup, Healthy: true})
			case 9:
				step(Probed{C: c, ID: id, Kind: Liveness})
			case 10:
				if rapid.IntRange(0, 5).Draw(r, "delete") == 0 {
					step(DeleteAsked{Grace: time.Second})
				}
			case 11:
				step(ReleasedAll{})
			case 12:
				step(RemovedObject{})
			case 13:
				step(PrepareFailed{"FailedMount", "x"})
			default:
				step(Tick{})
			}
		}
		// Whatever happened, a deleted pod ends when the world answers.
		step(DeleteAsked{Grace: time.Second})
		for range 60 {
			now = now.Add(3 * time.Second)
			step(Tick{})
			for c := range p.Containers {
				k := p.Containers[c]
				switch k.State {
				case Starting:
					step(Started{C: c, ID: k.ID, At: now})
				case Killed, Terminating:
					step(Exited{C: c, Exit: Exit{ID: k.ID, FinishedAt: now}})
				case PreStop:
					step(PreStopDone{C: c, ID: k.ID})
				default:
				}
			}
			step(ReleasedAll{})
			step(RemovedObject{})
		}
		require.Equal(r, Removed, p.State)
	})
}
