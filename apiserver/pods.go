package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core"
	coreinformersv1 "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/json"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// pods is how upstream's code inside the server sees pods, of which there are many: who
// lists or gets them reads the view, and only the Node authorizer's graph is told of
// changes, out of the view as well, by an informer that keeps what the graph reads.
type pods struct {
	store func() *store.Store // nil until the kinds are installed
}

// pods are those that this server stores.
func (s *Server) pods() *pods {
	return &pods{store: func() *store.Store { return s.stores.of(corev1.SchemeGroupVersion.WithResource("pods")) }}
}

// withPods are informers whose pods are these.
func withPods(factory informers.SharedInformerFactory, p *pods) informers.SharedInformerFactory {
	factory.InformerFor(&corev1.Pod{}, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(p.source(), &corev1.Pod{}, 0, cache.Indexers{})
	})
	return podFactory{factory, p}
}

// podFactory, podGroup and podVersion put the lister of pods where upstream looks for it.
type podFactory struct {
	informers.SharedInformerFactory
	pods *pods
}

type podGroup struct {
	coreinformers.Interface
	pods *pods
}

type podVersion struct {
	coreinformersv1.Interface
	pods *pods
}

type podInformer struct {
	coreinformersv1.TypedPodInformer
	pods *pods
}

func (f podFactory) Core() coreinformers.Interface {
	return podGroup{f.SharedInformerFactory.Core(), f.pods}
}

func (g podGroup) V1() coreinformersv1.Interface { return podVersion{g.Interface.V1(), g.pods} }

func (v podVersion) Pods() coreinformersv1.TypedPodInformer {
	return podInformer{v.Interface.Pods(), v.pods}
}

func (i podInformer) Lister() corelisters.PodLister { return podLister{i.pods, ""} }

var errNoPods = errors.New("pods are not served yet")

// podLister lists the pods of a namespace, or all.
type podLister struct {
	*pods
	namespace string
}

var (
	_ corelisters.PodLister          = podLister{}
	_ corelisters.PodNamespaceLister = podLister{}
)

func (l podLister) Pods(namespace string) corelisters.PodNamespaceLister {
	return podLister{l.pods, namespace}
}

func (l podLister) List(selector labels.Selector) ([]*corev1.Pod, error) {
	st := l.store()
	if st == nil {
		return nil, errNoPods
	}
	prefix := st.Prefix()
	if l.namespace != "" {
		prefix += l.namespace + "/"
	}
	var all []*corev1.Pod
	var err error
	st.Table().Snapshot().Select(prefix, "", view.Selector{Labels: selector, Shape: st.Shape()}, func(i *view.Item) bool {
		var pod *corev1.Pod
		if pod, err = podOf(i); err == nil {
			all = append(all, pod)
		}
		return err == nil
	})
	return all, err
}

func (l podLister) Get(name string) (*corev1.Pod, error) {
	st := l.store()
	if st == nil {
		return nil, errNoPods
	}
	item, ok := st.Table().Get(st.Prefix() + l.namespace + "/" + name)
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("pod"), name) // the kind, as upstream's listers say it
	}
	return podOf(item)
}

// podOf decodes a stored pod, as a client would get it.
func podOf(i *view.Item) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := json.UnmarshalCaseSensitivePreserveInts(i.Object, pod); err != nil {
		return nil, fmt.Errorf("stored object %s: %w", i.Key, err)
	}
	pod.TypeMeta, pod.ResourceVersion = metav1.TypeMeta{}, strconv.FormatInt(i.Rev, 10)
	return pod, nil
}

// referencesOf is what the graph reads of a stored pod.
func referencesOf(i *view.Item) (*corev1.Pod, error) {
	pod, err := kinds.StoredPodReferences(i.Object)
	if err != nil {
		return nil, fmt.Errorf("stored object %s: %w", i.Key, err)
	}
	pod.ResourceVersion = strconv.FormatInt(i.Rev, 10)
	return pod, nil
}

// source is where the graph's informer learns of pods.
func (p *pods) source() cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{ListWithContextFunc: p.list, WatchFuncWithContext: p.watch}, p)
}

// IsWatchListSemanticsUnSupported makes informers list before they watch.
func (p *pods) IsWatchListSemanticsUnSupported() bool { return true }

func (p *pods) list(_ context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	st := p.store()
	if st == nil {
		return nil, errNoPods
	}
	snap := st.Table().Snapshot()
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(snap.Rev, 10)}}
	var err error
	snap.Ascend(st.Prefix(), "", func(i *view.Item) bool {
		var pod *corev1.Pod
		if pod, err = referencesOf(i); err == nil {
			list.Items = append(list.Items, *pod)
		}
		return err == nil
	})
	return list, err
}

func (p *pods) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	st := p.store()
	if st == nil {
		return nil, errNoPods
	}
	rev, err := strconv.ParseInt(options.ResourceVersion, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("watch of pods from resource version %q: %w", options.ResourceVersion, err)
	}
	cursor, err := st.Table().Cursor(rev)
	if err != nil {
		return nil, apierrors.NewResourceExpired(err.Error())
	}
	w := &podWatch{out: make(chan watch.Event), prefix: st.Prefix()}
	ctx, w.stop = context.WithCancel(ctx)
	go w.run(ctx, cursor) // the informer stops it, and reads until out is closed
	return w, nil
}

// podWatch tells an informer what changes.
type podWatch struct {
	out    chan watch.Event
	stop   context.CancelFunc
	prefix string
}

// changesAtOnce is how many changes are looked at between two looks at the log.
const changesAtOnce = 100

func (w *podWatch) Stop()                          { w.stop() }
func (w *podWatch) ResultChan() <-chan watch.Event { return w.out }

func (w *podWatch) run(ctx context.Context, cursor *view.Cursor) {
	defer close(w.out)
	defer w.stop()
	for {
		events, _, more, err := cursor.Poll(changesAtOnce)
		if err != nil {
			w.send(ctx, watch.Event{Type: watch.Error, Object: &apierrors.NewResourceExpired(err.Error()).ErrStatus})
			return
		}
		for n := range events {
			if !w.tell(ctx, &events[n]) {
				return
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

var podEvents = map[view.EventType]watch.EventType{view.Created: watch.Added, view.Modified: watch.Modified, view.Deleted: watch.Deleted}

// tell is false if the watch is over.
func (w *podWatch) tell(ctx context.Context, e *view.Event) bool {
	if !strings.HasPrefix(e.Item.Key, w.prefix) {
		return true
	}
	item := e.Item
	if e.Type == view.Deleted && e.Prev != nil {
		item = e.Prev // etcd may no longer know what was deleted
	}
	pod, err := referencesOf(item)
	if err != nil {
		w.send(ctx, watch.Event{Type: watch.Error, Object: &apierrors.NewInternalError(err).ErrStatus})
		return false
	}
	pod.ResourceVersion = strconv.FormatInt(e.Rev, 10)
	return w.send(ctx, watch.Event{Type: podEvents[e.Type], Object: pod})
}

func (w *podWatch) send(ctx context.Context, e watch.Event) bool {
	select {
	case w.out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
