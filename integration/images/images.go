// Package images makes container images for tests from static Go programs and
// serves them from a registry on loopback. Nothing is fetched from anywhere.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Program is the import path of a test program that serves, prints, sleeps and
// fails on demand; its own documentation lists what it can do.
const Program = "github.com/rutter-project/rutter/integration/images/cmd/busy"

// Build compiles the Go program at an import path, statically, into dir. It
// must be called from inside the module.
func Build(ctx context.Context, importPath, dir string) (file string, err error) {
	file = filepath.Join(dir, path.Base(importPath))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, importPath)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", importPath, err, out)
	}
	return file, nil
}

// Options describe an image.
type Options struct {
	Files      map[string]string // path in the image to a file on disk; executable
	Texts      map[string]string // path in the image to its content
	Links      map[string]string // path in the image to what a symbolic link there points to
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
	StopSignal string
}

// Assemble makes an image of one layer.
func Assemble(o Options) (v1.Image, error) {
	layer, err := layer(o)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config = v1.Config{Entrypoint: o.Entrypoint, Cmd: o.Cmd, Env: o.Env, User: o.User, WorkingDir: o.WorkingDir, StopSignal: o.StopSignal}
	return mutate.ConfigFile(img, cfg)
}

func layer(o Options) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		mode := int64(0o755)
		if dir == "tmp/" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: mode}); err != nil {
			return nil, err
		}
	}
	add := func(name string, data []byte, mode int64) error {
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(name, "/"), Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	for name, file := range o.Files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := add(name, data, 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range o.Texts {
		if err := add(name, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	for name, target := range o.Links {
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(name, "/"), Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// Registry is an image registry on loopback, over plain HTTP.
type Registry struct {
	Host string // host:port

	server   *http.Server
	served   chan error
	user     string
	password string

	mu    sync.Mutex
	pulls map[string]int // manifests asked for by repository; guarded by mu
}

// Serve starts a registry. With a user, it answers only to this user and password.
func Serve(user, password string) (*Registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for registry: %w", err)
	}
	r := &Registry{Host: l.Addr().String(), served: make(chan error, 1), user: user, password: password, pulls: map[string]int{}}
	r.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: r.guard(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}
	go func() { r.served <- r.server.Serve(l) }()
	return r, nil
}

func (r *Registry) guard(next http.Handler) http.Handler {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(r.user+":"+r.password))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.user != "" && req.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		if repo, _, ok := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/manifests/"); ok && req.Method == http.MethodGet {
			r.mu.Lock()
			r.pulls[repo]++
			r.mu.Unlock()
		}
		next.ServeHTTP(w, req)
	})
}

// Pulls is how often a manifest of the repository was fetched.
func (r *Registry) Pulls(repo string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[repo]
}

// Close ends the registry.
func (r *Registry) Close() error {
	err := r.server.Close()
	if serr := <-r.served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// Push puts an image under a name such as "busy:1" and returns its reference.
func (r *Registry) Push(ctx context.Context, tag string, img v1.Image) (ref string, err error) {
	ref = r.Host + "/" + tag
	n, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("parse image name: %w", err)
	}
	auth := authn.Anonymous
	if r.user != "" {
		auth = &authn.Basic{Username: r.user, Password: r.password}
	}
	if err := remote.Write(n, img, remote.WithAuth(auth), remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref, nil
}
