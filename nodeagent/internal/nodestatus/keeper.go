package nodestatus

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/client-go/kubernetes"
)

// Config says who the node is and how often it is heard of.
type Config struct {
	Name          string
	Labels        map[string]string
	Taints        []corev1.Taint
	LeaseDuration time.Duration
	RenewInterval time.Duration
	Unschedulable bool
}

// Keeper registers a node and keeps its Lease and status. Run is called once;
// the other methods may be called from any goroutine.
type Keeper struct {
	cfg    Config
	client kubernetes.Interface
	report func(node *corev1.Node) (Report, error)
	log    zerolog.Logger
	poke   chan struct{}

	mu   sync.Mutex
	node *corev1.Node // as the API has it, as far as we know; guarded by mu
}

// New returns a keeper. report is asked for the node's state, given the node's
// API object.
func New(cfg Config, client kubernetes.Interface, report func(*corev1.Node) (Report, error), log zerolog.Logger) *Keeper {
	return &Keeper{cfg: cfg, client: client, report: report, log: log.With().Str("component", "nodestatus").Str("node", cfg.Name).Logger(), poke: make(chan struct{}, 1)}
}

// Poke tells that the report may have changed.
func (k *Keeper) Poke() {
	select {
	case k.poke <- struct{}{}:
	default: // it looks soon anyway
	}
}

// Node is the node's API object as last seen, or nil.
func (k *Keeper) Node() *corev1.Node {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.node
}

func (k *Keeper) setNode(n *corev1.Node) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.node = n
}

// Waits between tries while the API is away.
const (
	firstWait = 200 * time.Millisecond
	maxWait   = 7 * time.Second
)

// Run registers the node, then keeps its Lease and status until ctx ends. The
// API may be away at any time.
func (k *Keeper) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { k.keepStatus(ctx); return nil })
	g.Go(func() error { k.keepLease(ctx); return nil })
	return g.Wait()
}

// persist tries until it works or ctx ends.
func (k *Keeper) persist(ctx context.Context, what string, try func(context.Context) error) {
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		k.log.Warn().Err(err).Str("what", what).Msg("node not told to the API, trying again")
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (k *Keeper) keepStatus(ctx context.Context) {
	k.persist(ctx, "registration", k.register)
	tick := time.NewTicker(k.cfg.RenewInterval)
	defer tick.Stop()
	for {
		k.persist(ctx, "status", k.updateStatus)
		var soon <-chan time.Time
		if n := k.Node(); n != nil && !hasAddress(n) {
			soon = time.After(addressWait)
		}
		select {
		case <-k.poke:
		case <-soon:
		case <-tick.C: // looks at the machine, and asks the API only when something changed
		case <-ctx.Done():
			return
		}
	}
}

// addressWait is how long to wait for the range the node gets its address from.
const addressWait = 300 * time.Millisecond

func hasAddress(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
}

func (k *Keeper) labels() map[string]string {
	out := map[string]string{
		corev1.LabelHostname: k.cfg.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(out, k.cfg.Labels)
	return out
}

// register makes the node's object, or sees to its labels.
func (k *Keeper) register(ctx context.Context) error {
	nodes := k.client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, k.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: k.cfg.Name, Labels: k.labels()},
			Spec:       corev1.NodeSpec{Taints: k.cfg.Taints, Unschedulable: k.cfg.Unschedulable},
		}
		report, rerr := k.report(fresh)
		if rerr != nil {
			return rerr
		}
		Apply(&fresh.Status, report, time.Now())
		if have, err = nodes.Create(ctx, fresh, metav1.CreateOptions{}); err == nil {
			k.log.Info().Msg("node registered")
		}
	}
	if err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	missing := have.DeepCopy()
	if missing.Labels == nil {
		missing.Labels = map[string]string{}
	}
	maps.Copy(missing.Labels, k.labels())
	if !maps.Equal(missing.Labels, have.Labels) {
		if have, err = nodes.Update(ctx, missing, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("label node: %w", err)
		}
	}
	k.setNode(have)
	return nil
}

// statusTries is how often a status is written anew on what others have changed.
const statusTries = 3

// updateStatus writes the status if it differs from what the API has. The object is read
// again only after a conflict, and while the node has no address: the range it gets one
// from is assigned by another.
func (k *Keeper) updateStatus(ctx context.Context) error {
	var err error
	for range statusTries {
		if err = k.tryStatus(ctx); !apierrors.IsConflict(err) {
			return err
		}
		if _, err := k.reread(ctx); err != nil {
			return err
		}
	}
	return err
}

func (k *Keeper) tryStatus(ctx context.Context) error {
	node := k.Node()
	report, err := k.report(node)
	if err != nil {
		return err
	}
	if len(report.Addresses) == 0 {
		if node, err = k.reread(ctx); err != nil {
			return err
		}
		if report, err = k.report(node); err != nil {
			return err
		}
	}
	next := node.DeepCopy()
	if !Apply(&next.Status, report, time.Now()) {
		return nil
	}
	patch, err := statusPatch(node, next)
	if err != nil {
		return fmt.Errorf("patch of the node status: %w", err)
	}
	out, err := k.client.CoreV1().Nodes().Patch(ctx, k.cfg.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return k.register(ctx)
	}
	if err != nil {
		return fmt.Errorf("update node status: %w", err)
	}
	k.setNode(out)
	return nil
}

// statusPatch is a JSON merge patch (RFC 7396) of what differs in the status, for the
// object as we know it. It leaves out the rest: admission refuses a node that sends
// taints other than those it has by now, before it sees that they are merely old.
func statusPatch(old, next *corev1.Node) ([]byte, error) {
	was, err := json.Marshal(corev1.Node{Status: old.Status})
	if err != nil {
		return nil, err
	}
	is, err := json.Marshal(corev1.Node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: old.ResourceVersion}, Status: next.Status})
	if err != nil {
		return nil, err
	}
	return jsonmergepatch.CreateThreeWayJSONMergePatch(was, is, was)
}

func (k *Keeper) reread(ctx context.Context) (*corev1.Node, error) {
	node, err := k.client.CoreV1().Nodes().Get(ctx, k.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read node: %w", err)
	}
	k.setNode(node)
	return node, nil
}

// keepLease renews the Lease at a steady rate.
func (k *Keeper) keepLease(ctx context.Context) {
	var lease *coordv1.Lease
	tick := time.NewTicker(k.cfg.RenewInterval)
	defer tick.Stop()
	for {
		k.persist(ctx, "lease", func(ctx context.Context) (err error) {
			lease, err = k.renew(ctx, lease)
			return err
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew writes the Lease and returns it as written; after a failure it is read
// again next time.
func (k *Keeper) renew(ctx context.Context, have *coordv1.Lease) (*coordv1.Lease, error) {
	leases := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NewMicroTime(time.Now())
	if have == nil {
		got, err := leases.Get(ctx, k.cfg.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			fresh := k.lease(&coordv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: k.cfg.Name, Namespace: corev1.NamespaceNodeLease}}, now)
			got, err = leases.Create(ctx, fresh, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("create lease: %w", err)
			}
			return got, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read lease: %w", err)
		}
		have = got
	}
	out, err := leases.Update(ctx, k.lease(have.DeepCopy(), now), metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renew lease: %w", err)
	}
	return out, nil
}

func (k *Keeper) lease(l *coordv1.Lease, now metav1.MicroTime) *coordv1.Lease {
	seconds := int32(k.cfg.LeaseDuration / time.Second)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &k.cfg.Name, &seconds, &now
	if node := k.Node(); node != nil && len(l.OwnerReferences) == 0 {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return l
}
