package kubeletapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// How long answers of the API server are believed.
const (
	tokenTTL = 2 * time.Minute
	allowTTL = 5 * time.Minute
	denyTTL  = 30 * time.Second
	maxKept  = 4096 // answers; more are forgotten all at once
)

// guard decides who may ask what, by the API server's word.
type guard struct {
	client kubernetes.Interface
	node   string

	mu     sync.Mutex
	tokens map[[32]byte]kept[*authnv1.UserInfo] // by hash of the token; guarded by mu
	rights map[string]kept[bool]                // guarded by mu
}

type kept[T any] struct {
	value T
	until time.Time
}

func newGuard(client kubernetes.Interface, node string) *guard {
	return &guard{client: client, node: node, tokens: map[[32]byte]kept[*authnv1.UserInfo]{}, rights: map[string]kept[bool]{}}
}

var (
	errUnauthenticated = errors.New("unauthorized")
	errForbidden       = errors.New("forbidden")
)

// who returns the user of a request: by its verified client certificate, or by
// its token.
func (g *guard) who(r *http.Request) (*authnv1.UserInfo, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		return &authnv1.UserInfo{Username: subject.CommonName, Groups: subject.Organization}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return nil, errUnauthenticated
	}
	key := sha256.Sum256([]byte(token))
	now := time.Now()
	g.mu.Lock()
	have, ok := g.tokens[key]
	g.mu.Unlock()
	if !ok || now.After(have.until) {
		review, err := g.client.AuthenticationV1().TokenReviews().Create(r.Context(), &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("review token: %w", err)
		}
		have = kept[*authnv1.UserInfo]{until: now.Add(tokenTTL)}
		if review.Status.Authenticated {
			have.value = &review.Status.User
		}
		g.mu.Lock()
		if len(g.tokens) > maxKept {
			clear(g.tokens)
		}
		g.tokens[key] = have
		g.mu.Unlock()
	}
	if have.value == nil {
		return nil, errUnauthenticated
	}
	return have.value, nil
}

// right is what a request needs on the node's object.
type right struct{ verb, subresource string }

// rightsOf returns the rights any of which allows a request.
func rightsOf(method, path string) []right {
	verb := map[string]string{
		http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[method]
	if verb == "" {
		verb = "get"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "stats", "metrics":
		return []right{{verb, first}}
	case "logs":
		return []right{{verb, "log"}}
	case "pods", "runningpods":
		return []right{{verb, "pods"}, {verb, "proxy"}}
	case "healthz", "configz":
		return []right{{verb, first}, {verb, "proxy"}}
	default:
		return []right{{verb, "proxy"}}
	}
}

// allow returns nil if the user may make the request.
func (g *guard) allow(ctx context.Context, user *authnv1.UserInfo, method, path string) error {
	if slices.Contains(user.Groups, "system:masters") {
		return nil
	}
	for _, r := range rightsOf(method, path) {
		ok, err := g.ask(ctx, user, r)
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("user %q: %s %s on node %s: %w", user.Username, method, path, g.node, errForbidden)
}

func (g *guard) ask(ctx context.Context, user *authnv1.UserInfo, r right) (bool, error) {
	key := strings.Join(append([]string{user.Username, user.UID, r.verb, r.subresource}, user.Groups...), "\x00")
	now := time.Now()
	g.mu.Lock()
	have, ok := g.rights[key]
	g.mu.Unlock()
	if ok && now.Before(have.until) {
		return have.value, nil
	}
	extra := map[string]authzv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authzv1.ExtraValue(v)
	}
	review, err := g.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
		User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
		ResourceAttributes: &authzv1.ResourceAttributes{Verb: r.verb, Version: "v1", Resource: "nodes", Subresource: r.subresource, Name: g.node},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	ttl := denyTTL
	if review.Status.Allowed {
		ttl = allowTTL
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rights) > maxKept {
		clear(g.rights)
	}
	g.rights[key] = kept[bool]{review.Status.Allowed, now.Add(ttl)}
	return review.Status.Allowed, nil
}

// wrap lets only those through that may pass.
func (g *guard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := g.who(r)
		if err == nil {
			err = g.allow(r.Context(), user, r.Method, r.URL.Path)
		}
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.Is(err, errUnauthenticated):
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
		case errors.Is(err, errForbidden):
			http.Error(w, "Forbidden ("+err.Error()+")", http.StatusForbidden)
		default: // the API server is away: nobody can be let in on its word
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}
