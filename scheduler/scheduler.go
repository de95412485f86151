package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
	"github.com/rutter-project/rutter/scheduler/internal/placement"
	"github.com/rutter-project/rutter/scheduler/internal/queue"
	"github.com/rutter-project/rutter/schemas"
)

// DecisionAnnotation is put on a pod when it is bound: the decision as JSON, with the
// scores of the chosen node and why others were rejected.
const DecisionAnnotation = "scheduler.rutter.dev/decision"

// Source hands out the one shared informer of a resource; bus.Informers is one.
type Source interface {
	For(gvr schema.GroupVersionResource, obj runtime.Object) cache.SharedIndexInformer
}

// Config is what the scheduler works with. DefaultConfig fills what has a default.
type Config struct {
	// Name is the spec.schedulerName of the pods it places.
	Name string
	// Binders is how many bindings are under way at most.
	Binders int

	// API is how to reach the API server; its transport must pass causes on.
	API    *rest.Config
	Source Source
	Log    zerolog.Logger
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{Name: corev1.DefaultSchedulerName, Binders: 32} }

// Validate names the first field that is missing or wrong.
func (c Config) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("scheduler: Name is empty")
	case c.Binders < 1:
		return fmt.Errorf("scheduler: Binders is %d, want at least 1", c.Binders)
	case c.API == nil || c.Source == nil:
		return errors.New("scheduler: API and Source are required")
	}
	return nil
}

// Scheduler places pods. Make it with New, run it once with Run.
type Scheduler struct {
	cfg      Config
	client   *kubernetes.Clientset
	cluster  *cluster.Cluster
	queue    *queue.Queue
	synced   []cache.InformerSynced
	recorder events.EventRecorderLogger
	stream   events.EventBroadcaster
	binding  chan struct{} // one token for each binding under way
}

// New registers with the informers. It starts nothing.
func New(cfg Config) (*Scheduler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	api := rest.CopyConfig(cfg.API)
	api.UserAgent, api.QPS = "scheduler/rutter", -1
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	s := &Scheduler{cfg: cfg, client: client, cluster: cluster.New(), queue: queue.New(time.Now), binding: make(chan struct{}, cfg.Binders)}
	s.stream = events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	s.recorder = s.stream.NewRecorder(scheme.Scheme, cfg.Name)
	nodes := cfg.Source.For(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{})
	pods := cfg.Source.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{})
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{nodes: s.nodeHandler(), pods: s.podHandler()} {
		registered, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, fmt.Errorf("scheduler: %w", err)
		}
		s.synced = append(s.synced, registered.HasSynced)
	}
	return s, nil
}

// Run schedules until the context ends.
func (s *Scheduler) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil
	}
	if err := s.stream.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("scheduler: record events: %w", err)
	}
	defer s.stream.Shutdown()
	var binders sync.WaitGroup
	defer binders.Wait()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			entry, err := s.queue.Pop(ctx)
			if err != nil {
				return nil //nolint:nilerr // the context ended
			}
			s.schedule(ctx, entry, &binders)
		}
	})
	return g.Wait()
}

// schedule decides on one pod and starts its binding.
func (s *Scheduler) schedule(ctx context.Context, e *queue.Entry, binders *sync.WaitGroup) {
	if s.cluster.Has(e.Pod.UID) {
		s.queue.Remove(e.Pod.UID)
		return
	}
	ctx = schemas.WithCause(ctx, e.Causes...)
	if reason := unsupported(e.Pod); reason != "" {
		s.reject(ctx, e, placement.Decision{By: map[string]int{}}, reason)
		return
	}
	began := time.Now()
	decision := placement.Place(s.cluster.Snapshot(), e.Pod)
	if decision.Node == "" {
		s.reject(ctx, e, decision, decision.Message())
		return
	}
	s.cluster.Assume(e.Pod, decision.Node)
	s.cfg.Log.Debug().Str("namespace", e.Pod.Namespace).Str("name", e.Pod.Name).Str("node", decision.Node).
		Int64("rev", decision.Rev).Dur("took", time.Since(began)).Msg("pod placed")
	s.binding <- struct{}{}
	binders.Add(1)
	go func() {
		defer binders.Done()
		defer func() { <-s.binding }()
		s.bind(ctx, e, decision)
	}()
}

// bind writes the decision. The pod's own event confirms it.
func (s *Scheduler) bind(ctx context.Context, e *queue.Entry, d placement.Decision) {
	p := e.Pod
	why, err := json.Marshal(d)
	if err != nil {
		why = []byte("{}") // a decision always encodes
	}
	err = s.client.CoreV1().Pods(p.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID, Annotations: map[string]string{DecisionAnnotation: string(why)}},
		Target:     corev1.ObjectReference{Kind: "Node", Name: d.Node},
	}, metav1.CreateOptions{})
	switch {
	case err == nil:
		s.queue.Remove(p.UID)
		s.recorder.Eventf(p, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", p.Namespace, p.Name, d.Node)
	case apierrors.IsNotFound(err), ctx.Err() != nil:
		s.cluster.Forget(p.UID)
		s.queue.Remove(p.UID)
	default:
		s.cluster.Forget(p.UID)
		s.cfg.Log.Warn().Str("namespace", p.Namespace).Str("name", p.Name).Str("node", d.Node).Err(err).Msg("binding failed, will try again")
		s.recorder.Eventf(p, nil, corev1.EventTypeWarning, "FailedScheduling", "Binding", "binding to %s: %v", d.Node, err)
		s.queue.Retry(e)
	}
}

// reject parks the pod and says why, once for each new reason.
func (s *Scheduler) reject(ctx context.Context, e *queue.Entry, d placement.Decision, message string) {
	p := e.Pod
	s.queue.Park(e, d.By)
	if told(p, message) {
		return
	}
	s.recorder.Eventf(p, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		LastTransitionTime: metav1.Now(),
	}}}})
	if err != nil {
		return
	}
	_, err = s.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.cfg.Log.Warn().Str("namespace", p.Namespace).Str("name", p.Name).Err(err).Msg("condition not written")
	}
}

func told(p *corev1.Pod, message string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Status == corev1.ConditionFalse && c.Message == message
		}
	}
	return false
}

// unsupported names what a pod asks for that this scheduler can't honour: better not
// placed than placed wrongly.
func unsupported(p *corev1.Pod) string {
	if a := p.Spec.Affinity; a != nil {
		if (a.PodAffinity != nil && len(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0) ||
			(a.PodAntiAffinity != nil && len(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0) {
			return "required pod affinity and anti-affinity are not supported yet; remove them or use topologySpreadConstraints"
		}
	}
	for i := range p.Spec.Volumes {
		if v := &p.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return fmt.Sprintf("volume %q: persistent volume claims are not supported yet", v.Name)
		}
	}
	if len(p.Spec.ResourceClaims) > 0 {
		return "resource claims (dynamic resource allocation) are not supported yet"
	}
	return ""
}
