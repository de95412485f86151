package podwork

import (
	"context"
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/podstatus"
	"github.com/rutter-project/rutter/schemas"
)

// statusDesk decides when the status is written. One write is under way at a
// time; what changes meanwhile goes with the next.
type statusDesk struct {
	want     corev1.PodStatus
	last     corev1.PodStatus // as the API has it, as far as we know
	lastRev  int64            // of last
	born     time.Time
	writing  bool
	vanished bool // there is nothing to write to
	retryAt  time.Time
	backoff  time.Duration
	remove   bool // the object is to be deleted once the status is written
}

// A status that says only that the pod is being made may wait this long: most
// pods run by then, and one write tells all.
const holdBack = 200 * time.Millisecond

const (
	firstRetry = 200 * time.Millisecond
	maxRetry   = 10 * time.Second
)

// due is when the desk must be looked at again; zero for never.
func (d *statusDesk) due() time.Time {
	if d.writing || d.vanished || d.clean() {
		return time.Time{}
	}
	if !d.retryAt.IsZero() {
		return d.retryAt
	}
	return d.born.Add(holdBack)
}

func (d *statusDesk) clean() bool { return apiequality.Semantic.DeepEqual(d.want, d.last) }

// dull reports whether the status says nothing a user waits for.
func (d *statusDesk) dull() bool {
	if d.want.Phase != corev1.PodPending {
		return false
	}
	for _, list := range [][]corev1.ContainerStatus{d.want.InitContainerStatuses, d.want.ContainerStatuses} {
		for _, c := range list {
			w := c.State.Waiting
			if w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return false
			}
		}
	}
	return true
}

// seen takes in the status of a newer object, unless a write of ours is under
// way, whose answer will be newer still.
func (d *statusDesk) seen(pod *corev1.Pod, rev int64) {
	if !d.writing && rev >= d.lastRev {
		d.last, d.lastRev = pod.Status, rev
	}
}

func (d *statusDesk) written(in statusWritten) {
	d.writing = false
	switch {
	case in.gone:
		d.vanished = true
	case in.err != nil:
		d.backoff = min(max(2*d.backoff, firstRetry), maxRetry)
		d.retryAt = time.Now().Add(d.backoff)
	default:
		d.last, d.backoff, d.retryAt = in.status, 0, time.Time{}
		d.lastRev = max(d.lastRev, in.rev)
	}
}

// flushStatus writes the status if it is time to.
func (w *Worker) flushStatus(ctx context.Context) {
	d, now := &w.status, time.Now()
	if w.stopped || d.writing || d.vanished || d.clean() || now.Before(d.retryAt) {
		return
	}
	if d.dull() && now.Before(d.born.Add(holdBack)) {
		return
	}
	patch, err := podstatus.Patch(w.pod.UID, d.last, d.want)
	if err != nil {
		w.log.Error().Err(err).Msg("status can not be encoded")
		d.last = d.want
		return
	}
	if patch == nil {
		d.last = d.want
		return
	}
	d.writing = true
	want, pod, rev := d.want, w.pod, w.rev
	w.spawn(func() { w.post(w.writeStatus(ctx, pod, rev, want, patch)) })
}

func (w *Worker) writeStatus(ctx context.Context, pod *corev1.Pod, rev int64, want corev1.PodStatus, patch []byte) statusWritten {
	began := time.Now()
	out, err := w.deps.Client.CoreV1().Pods(pod.Namespace).Patch(causedBy(ctx, rev), pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		w.log.Debug().Str("phase", string(want.Phase)).Dur("took", time.Since(began)).Msg("status written")
		got, _ := strconv.ParseInt(out.ResourceVersion, 10, 64) // opaque to others, ours is a number
		return statusWritten{status: want, rev: got}
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // conflict: another pod has this name now
		return statusWritten{gone: true}
	case ctx.Err() != nil:
		return statusWritten{err: ctx.Err()}
	default:
		w.log.Warn().Err(err).Msg("status not written, trying again")
		return statusWritten{err: err}
	}
}

// causedBy names the pod's revision as the cause of what is written.
func causedBy(ctx context.Context, rev int64) context.Context {
	if rev <= 0 {
		return ctx
	}
	return schemas.WithCause(ctx, rev)
}

// removeIfClean deletes the API object when its last status is written.
func (w *Worker) removeIfClean(ctx context.Context) {
	d := &w.status
	if !d.remove || d.writing {
		return
	}
	if !d.vanished && !w.stopped && !d.clean() {
		return // flushStatus comes first
	}
	d.remove = false
	pod, rev := w.pod, w.rev
	w.spawn(func() {
		zero := int64(0)
		err := w.deps.Client.CoreV1().Pods(pod.Namespace).Delete(causedBy(ctx, rev), pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			w.post(podstate.RemoveFailed{Message: err.Error()})
			return
		}
		w.post(podstate.RemovedObject{})
	})
}

func sameMeta(a, b *corev1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}
