package health

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// answerPatience is how long a controller or the scheduler may take to look at a change.
const answerPatience = 10 * time.Second

// meta is what tells how far controllers have come with an object.
type meta struct {
	Metadata struct {
		Generation        int64
		CreationTimestamp time.Time
		DeletionTimestamp *time.Time
		ManagedFields     []struct {
			Subresource string
			Time        time.Time
		}
	}
	Spec struct {
		NodeName        string
		SchedulerName   string
		SchedulingGates []any
	}
	Status struct {
		ObservedGeneration int64
		Conditions         []struct{ Type, Status string }
	}
}

// asked is when somebody wanted the object otherwise last.
func (m meta) asked() time.Time {
	last := m.Metadata.CreationTimestamp
	for _, f := range m.Metadata.ManagedFields {
		if f.Subresource == "" && f.Time.After(last) {
			last = f.Time
		}
	}
	return last
}

// Waiting are the objects that nobody has looked at since they were changed, of kinds whose
// controllers note the generation they have seen.
func Waiting(all map[schemas.Key]json.RawMessage, now time.Time) ([]string, error) {
	return late(all, now, func(m meta) bool { return m.Status.ObservedGeneration < m.Metadata.Generation })
}

// Unscheduled are the pods, of those without a node, that the scheduler has not judged yet.
func Unscheduled(pods map[schemas.Key]json.RawMessage, now time.Time) ([]string, error) {
	return late(pods, now, func(m meta) bool {
		ours := m.Spec.SchedulerName == "" || m.Spec.SchedulerName == "default-scheduler"
		if m.Spec.NodeName != "" || len(m.Spec.SchedulingGates) > 0 || !ours {
			return false
		}
		for _, c := range m.Status.Conditions {
			if c.Type == "PodScheduled" {
				return false
			}
		}
		return true
	})
}

func late(all map[schemas.Key]json.RawMessage, now time.Time, waits func(meta) bool) ([]string, error) {
	var out []string
	for key, text := range all {
		var m meta
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if m.Metadata.DeletionTimestamp == nil && waits(m) && now.Sub(m.asked()) > answerPatience {
			out = append(out, key.String())
		}
	}
	slices.Sort(out)
	return out, nil
}

// CheckControllers judges whether controllers act.
func CheckControllers(waiting []string) Finding {
	return found("controllers", Failed, waiting, "no object waits for them", fmt.Sprintf("%s changed more than %s ago and not looked at", plural(len(waiting), "object"), answerPatience),
		"see that reconcilers run (not with --api-only), and look for their component in rutter.log")
}

// CheckScheduler judges whether the scheduler acts.
func CheckScheduler(waiting []string, unschedulable int) Finding {
	good := "no pod waits for it"
	if unschedulable > 0 {
		good += fmt.Sprintf("; %d without a node that fits", unschedulable)
	}
	return found("scheduler", Failed, waiting, good, fmt.Sprintf("%s made more than %s ago and not looked at", plural(len(waiting), "pod"), answerPatience),
		"see that the scheduler runs (not with --api-only), and look for its component in rutter.log")
}
