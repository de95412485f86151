// Package objects reads ConfigMaps, Secrets, tokens and certificates of this node's pods
// over the API. It keeps what it read as long as a pod uses it and is told
// when something changed, so a pod's restart asks nothing. Secret values are
// held in memory only. All methods may be called from any goroutine.
package objects

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Key names an object that pods use. ClusterTrustBundles, of which a pod may use any
// that a selector finds, are one object of that kind without a name.
type Key struct {
	Kind      string // ConfigMap, Secret, ClusterTrustBundle or PodCertificateRequest
	Namespace string
	Name      string
}

// Store is the node's view of these objects.
type Store struct {
	client kubernetes.Interface
	keep   bool // someone tells of changes

	mu          sync.Mutex
	entries     map[Key]*entry                 // guarded by mu
	tokens      map[tokenKey]cachedToken       // guarded by mu
	credentials map[certificateKey]*credential // guarded by mu
}

type entry struct {
	users   map[types.UID]struct{}
	object  any // *corev1.ConfigMap, *corev1.Secret, []ClusterTrustBundle, *PodCertificateRequest, or nil when it does not exist
	fetched bool
	epoch   int // counts changes, so that an answer that crossed one is not kept
}

type tokenKey struct {
	pod      types.UID
	audience string
	ttl      time.Duration
}

type cachedToken struct {
	value   string
	refresh time.Time
}

// New returns a store. keep tells that Changed will be called for every change.
func New(client kubernetes.Interface, keep bool) *Store {
	return &Store{client: client, keep: keep, entries: map[Key]*entry{}, tokens: map[tokenKey]cachedToken{}, credentials: map[certificateKey]*credential{}}
}

// For returns the store as one pod sees it.
func (s *Store) For(pod types.UID) *Source { return &Source{store: s, pod: pod} }

// Changed tells that an object changed and returns the pods that use it.
func (s *Store) Changed(k Key) []types.UID {
	if k.Kind == trustBundles.Kind {
		k = trustBundles
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e == nil {
		return nil
	}
	e.fetched, e.object = false, nil
	e.epoch++
	users := make([]types.UID, 0, len(e.users))
	for uid := range e.users {
		users = append(users, uid)
	}
	return users
}

// ChangedAll tells that changes may have been missed; it returns all pods.
func (s *Store) ChangedAll() []types.UID {
	s.mu.Lock()
	keys := make([]Key, 0, len(s.entries))
	for k := range s.entries {
		keys = append(keys, k)
	}
	s.mu.Unlock()
	seen := map[types.UID]bool{}
	var out []types.UID
	for _, k := range keys {
		for _, uid := range s.Changed(k) {
			if !seen[uid] {
				seen[uid] = true
				out = append(out, uid)
			}
		}
	}
	return out
}

// Forget drops what only this pod used.
func (s *Store) Forget(pod types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.entries {
		delete(e.users, pod)
		if len(e.users) == 0 {
			delete(s.entries, k)
		}
	}
	for k := range s.tokens {
		if k.pod == pod {
			delete(s.tokens, k)
		}
	}
	for k := range s.credentials {
		if k.pod == pod {
			delete(s.credentials, k)
		}
	}
}

// get returns a kept object or reads it.
func (s *Store) get(ctx context.Context, k Key, pod types.UID, read func(context.Context) (any, error)) (any, error) {
	s.mu.Lock()
	e := s.entries[k]
	if e == nil {
		e = &entry{users: map[types.UID]struct{}{}}
		s.entries[k] = e
	}
	e.users[pod] = struct{}{}
	object, fetched, epoch := e.object, e.fetched, e.epoch
	s.mu.Unlock()
	if fetched && s.keep {
		return object, nil
	}
	object, err := patiently(ctx, read)
	if apierrors.IsNotFound(err) {
		object, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", k.Kind, k.Namespace, k.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.epoch == epoch {
		e.object, e.fetched = object, true
	}
	return object, nil
}

// The API server lets a node read an object when it has seen a pod of the node
// that uses it; the node may have seen the pod first.
const (
	forbiddenTries = 6
	forbiddenWait  = 15 * time.Millisecond // doubles
)

func patiently[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	wait := forbiddenWait
	for try := 1; ; try++ {
		v, err := read(ctx)
		if !apierrors.IsForbidden(err) || try == forbiddenTries {
			return v, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return v, ctx.Err()
		}
		wait *= 2
	}
}

// Source is the store as one pod sees it.
type Source struct {
	store *Store
	pod   types.UID
}

// ConfigMap returns a config map; found is false when it does not exist.
func (s *Source) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, bool, error) {
	v, err := s.store.get(ctx, Key{"ConfigMap", namespace, name}, s.pod, func(ctx context.Context) (any, error) {
		return s.store.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	cm, ok := v.(*corev1.ConfigMap)
	return cm, ok && err == nil, err
}

// Secret returns a secret; found is false when it does not exist.
func (s *Source) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, bool, error) {
	v, err := s.store.get(ctx, Key{"Secret", namespace, name}, s.pod, func(ctx context.Context) (any, error) {
		return s.store.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	secret, ok := v.(*corev1.Secret)
	return secret, ok && err == nil, err
}

// trustBundles is the one key of all bundles.
var trustBundles = Key{Kind: "ClusterTrustBundle"}

// TrustBundles returns all cluster trust bundles.
func (s *Source) TrustBundles(ctx context.Context) ([]certificatesv1.ClusterTrustBundle, error) {
	v, err := s.store.get(ctx, trustBundles, s.pod, func(ctx context.Context) (any, error) {
		list, err := s.store.client.CertificatesV1().ClusterTrustBundles().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	})
	bundles, _ := v.([]certificatesv1.ClusterTrustBundle)
	return bundles, err
}

// maxTokenUse bounds how long a token of any lifetime is used.
const maxTokenUse = 24 * time.Hour

// Token returns a token of the pod's service account, bound to the pod.
func (s *Source) Token(ctx context.Context, pod *corev1.Pod, audience string, ttl time.Duration) (string, time.Time, error) {
	key := tokenKey{pod.UID, audience, ttl}
	now := time.Now()
	s.store.mu.Lock()
	have, ok := s.store.tokens[key]
	s.store.mu.Unlock()
	if ok && now.Before(have.refresh) {
		return have.value, have.refresh, nil
	}
	seconds := int64(ttl / time.Second)
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	resp, err := patiently(ctx, func(ctx context.Context) (*authv1.TokenRequest, error) {
		return s.store.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, req, metav1.CreateOptions{})
	})
	if err != nil {
		return "", time.Time{}, err
	}
	fresh := cachedToken{resp.Status.Token, refreshAt(now, resp.Status.ExpirationTimestamp.Time, ttl)}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.tokens[key] = fresh
	return fresh.value, fresh.refresh, nil
}

// refreshAt is at four fifths of a token's life, a little earlier for some so
// that a node's tokens do not all fall due together.
func refreshAt(now, expires time.Time, ttl time.Duration) time.Time {
	life := expires.Sub(now)
	if life <= 0 {
		life = ttl
	}
	use := min(life*4/5, maxTokenUse)
	return now.Add(use - time.Duration(rand.Int64N(int64(use/20)+1)))
}
