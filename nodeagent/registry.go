package nodeagent

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/podwork"
)

// registry holds the workers of all pods and brings news to them. It is the
// agent's PodSink and its sink of container events.
type registry struct {
	deps *podwork.Deps
	log  zerolog.Logger

	mu      sync.Mutex
	ctx     context.Context // of the agent's run; set once by start; guarded by mu
	workers map[types.UID]*podwork.Worker
	synced  bool                   // the source told all pods once; guarded by mu
	done    map[types.UID]struct{} // removed here while news of them may still come; guarded by mu
	running sync.WaitGroup
}

func newRegistry(deps *podwork.Deps, log zerolog.Logger) *registry {
	return &registry{deps: deps, log: log, workers: map[types.UID]*podwork.Worker{}, done: map[types.UID]struct{}{}}
}

// start continues what an earlier agent left. Workers live until ctx ends.
func (r *registry) start(ctx context.Context) error {
	all, err := r.deps.Engine.List(ctx)
	if err != nil {
		return err
	}
	byPod := byPod(all)
	uids, err := podwork.Saved(r.deps.Dirs)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ctx = ctx
	for _, uid := range uids {
		w, err := podwork.Load(r.deps, uid)
		if err != nil {
			r.log.Error().Err(err).Msg("saved pod can not be continued, it starts anew when the API tells of it")
			continue
		}
		r.run(ctx, w, byPod[uid])
	}
	if len(uids) > 0 {
		r.log.Info().Int("pods", len(r.workers)).Int("containers", len(all)).Msg("adopted pods")
	}
	return nil
}

func byPod(all []engine.Found) map[string]map[string]engine.Found {
	out := map[string]map[string]engine.Found{}
	for _, f := range all {
		uid := f.Labels[engine.LabelPodUID]
		if out[uid] == nil {
			out[uid] = map[string]engine.Found{}
		}
		out[uid][f.ID] = f
	}
	return out
}

// run starts a worker; r.mu is held.
func (r *registry) run(ctx context.Context, w *podwork.Worker, found map[string]engine.Found) {
	uid := w.View().Pod.UID
	r.workers[uid] = w
	r.running.Go(func() {
		w.Run(ctx, found)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.workers[uid] == w && ctx.Err() == nil {
			delete(r.workers, uid)
			r.done[uid] = struct{}{}
		}
	})
}

// wait returns when all workers have.
func (r *registry) wait() { r.running.Wait() }

// Replace implements PodSink.
func (r *registry) Replace(pods []*corev1.Pod, rev int64) {
	present := make(map[types.UID]bool, len(pods))
	for _, p := range pods {
		present[p.UID] = true
		r.Upsert(p, revisionOf(p, rev))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid := range r.done {
		if !present[uid] {
			delete(r.done, uid)
		}
	}
	for uid, w := range r.workers {
		if !present[uid] {
			w.Vanish(rev)
		}
	}
	if !r.synced {
		r.synced = true
		ctx := r.ctx
		r.running.Go(func() { r.removeOrphans(ctx) })
	}
}

// revisionOf is the revision of an object in a list as of rev.
func revisionOf(pod *corev1.Pod, rev int64) int64 {
	if n, err := strconv.ParseInt(pod.ResourceVersion, 10, 64); err == nil {
		return n
	}
	return rev
}

// removeOrphans removes containers that belong to no pod: their pod was
// deleted while neither its state on disk nor an agent was there.
func (r *registry) removeOrphans(ctx context.Context) {
	all, err := r.deps.Engine.List(ctx)
	if err != nil {
		r.log.Warn().Err(err).Msg("containers without a pod were not looked for")
		return
	}
	for _, f := range all {
		if r.worker(types.UID(f.Labels[engine.LabelPodUID])) != nil {
			continue
		}
		if err := r.deps.Engine.Remove(ctx, f.ID); err != nil && ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("container without a pod stays")
			continue
		}
		r.log.Info().Str("container", f.Labels[engine.LabelContainer]).Msg("removed a container without a pod")
	}
}

// Upsert implements PodSink.
func (r *registry) Upsert(pod *corev1.Pod, rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return
	}
	if w := r.workers[pod.UID]; w != nil {
		w.Update(pod, rev)
		return
	}
	if _, removed := r.done[pod.UID]; removed {
		return // an echo of its last days, or it waits for a finalizer that is not ours
	}
	r.run(r.ctx, podwork.New(r.deps, pod, rev), nil)
}

// Remove implements PodSink.
func (r *registry) Remove(pod *corev1.Pod, rev int64) {
	r.mu.Lock()
	delete(r.done, pod.UID)
	r.mu.Unlock()
	if w := r.worker(pod.UID); w != nil {
		w.Vanish(rev)
	}
}

func (r *registry) worker(uid types.UID) *podwork.Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers[uid]
}

func (r *registry) all() []*podwork.Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*podwork.Worker, 0, len(r.workers))
	for _, w := range r.workers {
		out = append(out, w)
	}
	return out
}

// byName returns the newest worker of a pod's name: a pod may be ending while
// its successor of the same name begins.
func (r *registry) byName(namespace, name string) *podwork.Worker {
	var found *podwork.Worker
	for _, w := range r.all() {
		p := w.View().Pod
		if p.Namespace != namespace || p.Name != name {
			continue
		}
		if found == nil || found.View().Pod.CreationTimestamp.Before(&p.CreationTimestamp) {
			found = w
		}
	}
	return found
}

// owner returns the worker whose newest attempt of some container has this id.
func (r *registry) owner(id string) *podwork.Worker {
	for _, w := range r.all() {
		for _, c := range w.View().Containers {
			if c.ID == id {
				return w
			}
		}
	}
	return nil
}

func (r *registry) context() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ctx
}

// Exited implements engine.Sink.
func (r *registry) Exited(id string, code int32, at time.Time) {
	if w := r.owner(id); w != nil {
		w.Exited(r.context(), id, code, at)
	}
}

// OutOfMemory implements engine.Sink.
func (r *registry) OutOfMemory(id string) {
	if w := r.owner(id); w != nil {
		w.OutOfMemory(id)
	}
}

// Resynced implements engine.Sink.
func (r *registry) Resynced(all []engine.Found) {
	found := byPod(all)
	for _, w := range r.all() {
		w.Resynced(r.context(), found[string(w.View().Pod.UID)])
	}
}

// refresh tells pods that objects they use changed.
func (r *registry) refresh(uids []types.UID) {
	for _, uid := range uids {
		if w := r.worker(uid); w != nil {
			w.Refresh()
		}
	}
}
