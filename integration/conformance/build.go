package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// programs are built from Go modules, at the versions in upstream/go.mod.
type programs struct {
	e2e           string // upstream's tests, as a test binary
	agnhost       string // the program in most of their images
	sampleServer  string // the aggregated API server of the aggregator's test
	etcd          string // its store
	nonewprivs    string
	agnhostSource string // folder with files that go into the images
}

const upstreamImages = "k8s.io/kubernetes/test/images/"

// release is what the tests take themselves to be of; some choose what they check by it.
const release = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

// build makes what is missing or out of date in the work folder; the Go tool knows what
// that is.
func build(ctx context.Context, o options) (programs, error) {
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return programs{}, err
	}
	out := func(name string) string { return filepath.Join(o.work, name) }
	p := programs{e2e: out("e2e.test"), agnhost: out("agnhost"), sampleServer: out("sample-apiserver"), etcd: out("etcd"), nonewprivs: out("nnp")}
	for _, step := range []struct {
		file string
		args []string
	}{
		{p.e2e, []string{"test", "-c", "-vet=off", "k8s.io/kubernetes/test/e2e"}},
		{p.agnhost, []string{"build", upstreamImages + "agnhost"}},
		{p.sampleServer, []string{"build", "k8s.io/sample-apiserver"}},
		{p.etcd, []string{"build", "go.etcd.io/etcd/server/v3"}},
		{p.nonewprivs, []string{"build", upstreamImages + "nonewprivs"}},
	} {
		args := append(step.args[:len(step.args)-1:len(step.args)-1], "-trimpath", "-ldflags", release, "-o", step.file, step.args[len(step.args)-1])
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = filepath.Join(o.dir, "upstream")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return programs{}, fmt.Errorf("build %s: %w\n%s", filepath.Base(step.file), err, text)
		}
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", upstreamImages+"agnhost")
	cmd.Dir = filepath.Join(o.dir, "upstream")
	text, err := cmd.Output()
	if err != nil {
		return programs{}, fmt.Errorf("find %sagnhost: %w", upstreamImages, err)
	}
	p.agnhostSource = string(text[:len(text)-1])
	return p, nil
}
