package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Verdict is what a probe thinks of a container.
type Verdict int

// The verdicts.
const (
	Unknown Verdict = iota
	Healthy
	Unhealthy
)

// Judge turns results into verdicts: it changes its mind after as many equal
// results in a row as the thresholds say.
type Judge struct {
	Verdict                  Verdict
	success, failure         int // in a row
	needSuccess, needFailure int
}

// NewJudge returns a judge by a probe's thresholds.
func NewJudge(p *corev1.Probe, first Verdict) *Judge {
	return &Judge{Verdict: first, needSuccess: max(1, int(p.SuccessThreshold)), needFailure: defaulted(p.FailureThreshold, 3)}
}

func defaulted(v int32, otherwise int) int {
	if v <= 0 {
		return otherwise
	}
	return int(v)
}

// Result takes one result and reports whether the verdict changed.
func (j *Judge) Result(ok bool) (changed bool) {
	before := j.Verdict
	if ok {
		j.success, j.failure = j.success+1, 0
		if j.success >= j.needSuccess {
			j.Verdict = Healthy
		}
	} else {
		j.success, j.failure = 0, j.failure+1
		if j.failure >= j.needFailure {
			j.Verdict = Unhealthy
		}
	}
	return j.Verdict != before
}

// Run asks until ctx ends and reports every change of the verdict. first is
// the verdict that need not be reported.
func Run(ctx context.Context, p *corev1.Probe, first Verdict, check func(context.Context) error, report func(Verdict, string)) {
	judge := NewJudge(p, first)
	period := time.Duration(defaulted(p.PeriodSeconds, 10)) * time.Second
	timeout := time.Duration(defaulted(p.TimeoutSeconds, 1)) * time.Second
	timer := time.NewTimer(time.Duration(p.InitialDelaySeconds) * time.Second)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(period)
		cctx, cancel := context.WithTimeout(ctx, timeout)
		err := check(cctx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if judge.Result(err == nil) {
			message := ""
			if err != nil {
				message = err.Error()
			}
			report(judge.Verdict, message)
		}
	}
}
