package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
)

// Image is an image that is present and unpacked.
type Image struct {
	Handle containerd.Image
	ID     string // repository@digest, as pod status shows it
	Config ocispec.ImageConfig
}

// Error is a failed pull with the reason that kubectl shows.
type Error struct {
	Reason string
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// The reasons of an Error.
const (
	ReasonPull        = "ErrImagePull"
	ReasonNever       = "ErrImageNeverPull"
	ReasonInvalidName = "InvalidImageName"
	ReasonInspect     = "ImageInspectError"
)

// Request asks for an image.
type Request struct {
	Ref    string
	Policy corev1.PullPolicy
	Keys   Keyring
}

// Result tells what was done for a request.
type Result struct {
	Image  Image
	Pulled bool // false: it was present
	Took   time.Duration
}

// engine is what the store needs of containerd.
type engine interface {
	Client() *containerd.Client
	Snapshotter() string
	Context(ctx context.Context) context.Context
}

// Store makes images present. All methods may be called from any goroutine;
// one image is pulled once at a time.
type Store struct {
	engine  engine
	pullers chan struct{}

	mu    sync.Mutex
	locks map[string]*refLock // by reference; guarded by mu
	cache map[string]Image    // by name and digest, of images seen present; guarded by mu
	pulls int                 // how many ended; guarded by mu
}

type refLock struct {
	held  chan struct{}
	users int // guarded by Store.mu
}

// maxPulls is how many images are pulled at a time.
const maxPulls = 5

// NewStore returns a store on a containerd.
func NewStore(e engine) *Store {
	return &Store{engine: e, pullers: make(chan struct{}, maxPulls), locks: map[string]*refLock{}, cache: map[string]Image{}}
}

// Ensure makes an image present by its policy. Errors are of type *Error.
func (s *Store) Ensure(ctx context.Context, r Request) (Result, error) {
	began := time.Now()
	named, err := reference.ParseDockerRef(r.Ref)
	if err != nil {
		return Result{}, &Error{ReasonInvalidName, fmt.Errorf("parse image name %q: %w", r.Ref, err)}
	}
	ctx = s.engine.Context(ctx)
	if r.Policy != corev1.PullAlways {
		img, err := s.present(ctx, named)
		if err == nil {
			return Result{Image: img, Took: time.Since(began)}, nil
		}
		if !errdefs.IsNotFound(err) {
			return Result{}, &Error{ReasonInspect, err}
		}
		if r.Policy == corev1.PullNever {
			return Result{}, &Error{ReasonNever, fmt.Errorf("image %q is not present with pull policy of Never", r.Ref)}
		}
	}
	img, err := s.pull(ctx, named, r)
	if err != nil {
		return Result{}, &Error{ReasonPull, err}
	}
	return Result{Image: img, Pulled: true, Took: time.Since(began)}, nil
}

// present returns an image that need not be pulled.
func (s *Store) present(ctx context.Context, named reference.Named) (Image, error) {
	handle, err := s.engine.Client().GetImage(ctx, named.String())
	if err != nil {
		return Image{}, err
	}
	return s.inspect(ctx, handle, named)
}

func (s *Store) inspect(ctx context.Context, handle containerd.Image, named reference.Named) (Image, error) {
	key := named.String() + "@" + handle.Target().Digest.String()
	s.mu.Lock()
	img, ok := s.cache[key]
	s.mu.Unlock()
	if ok {
		img.Handle = handle
		return img, nil
	}
	unpacked, err := handle.IsUnpacked(ctx, s.engine.Snapshotter())
	if err != nil {
		return Image{}, fmt.Errorf("inspect image %s: %w", named, err)
	}
	if !unpacked {
		if err := handle.Unpack(ctx, s.engine.Snapshotter()); err != nil {
			return Image{}, fmt.Errorf("unpack image %s: %w", named, err)
		}
	}
	spec, err := handle.Spec(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("read configuration of image %s: %w", named, err)
	}
	img = Image{Handle: handle, ID: reference.TrimNamed(named).Name() + "@" + handle.Target().Digest.String(), Config: spec.Config}
	s.mu.Lock()
	s.cache[key] = img
	s.mu.Unlock()
	return img, nil
}

func (s *Store) pull(ctx context.Context, named reference.Named, r Request) (Image, error) {
	unlock, err := s.lock(ctx, named.String())
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if r.Policy != corev1.PullAlways { // another pod may have pulled it meanwhile
		if img, err := s.present(ctx, named); err == nil {
			return img, nil
		}
	}
	select {
	case s.pullers <- struct{}{}:
		defer func() { <-s.pullers }()
	case <-ctx.Done():
		return Image{}, ctx.Err()
	}
	keys := r.Keys.For(named)
	if len(keys) == 0 {
		keys = Keyring{{}}
	}
	var errs []error
	for _, key := range keys {
		handle, err := s.engine.Client().Pull(ctx, named.String(),
			containerd.WithResolver(resolver(key)), containerd.WithPullUnpack, containerd.WithPullSnapshotter(s.engine.Snapshotter()))
		if err == nil {
			s.mu.Lock()
			s.pulls++
			s.mu.Unlock()
			return s.inspect(ctx, handle, named)
		}
		errs = append(errs, err)
	}
	return Image{}, fmt.Errorf("pull image %q: %w", r.Ref, errors.Join(errs...))
}

// resolver speaks plain HTTP to registries on loopback only.
func resolver(c Credential) remotes.Resolver {
	auth := docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) {
		return c.Username, c.Password, nil
	}))
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithAuthorizer(auth), docker.WithPlainHTTP(docker.MatchLocalhost))})
}

// lock serialises pulls of one reference.
func (s *Store) lock(ctx context.Context, ref string) (unlock func(), err error) {
	s.mu.Lock()
	l := s.locks[ref]
	if l == nil {
		l = &refLock{held: make(chan struct{}, 1)}
		s.locks[ref] = l
	}
	l.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, ref)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// DefaultPolicy is the pull policy of an image that names none.
func DefaultPolicy(ref string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	tagged, ok := reference.TagNameOnly(named).(reference.Tagged)
	if ok && tagged.Tag() == "latest" && !strings.Contains(ref, "@") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// Pulls counts the pulls so far: as long as it stays, so does what is present.
func (s *Store) Pulls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pulls
}

// Present lists the images of the node for its status.
func (s *Store) Present(ctx context.Context) ([]corev1.ContainerImage, error) {
	list, err := s.engine.Client().ListImages(s.engine.Context(ctx))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byDigest := map[string]*corev1.ContainerImage{}
	var order []string
	for _, img := range list {
		d := img.Target().Digest.String()
		entry := byDigest[d]
		if entry == nil {
			size, err := img.Size(s.engine.Context(ctx))
			if err != nil {
				continue // being pulled or removed right now
			}
			entry = &corev1.ContainerImage{SizeBytes: size}
			byDigest[d] = entry
			order = append(order, d)
		}
		entry.Names = append(entry.Names, img.Name())
	}
	out := make([]corev1.ContainerImage, 0, len(order))
	for _, d := range order {
		out = append(out, *byDigest[d])
	}
	return out, nil
}
