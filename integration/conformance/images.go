package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rutter-project/rutter/integration/images"
)

// Tags and repositories are those that upstream's tests of this release ask for; see
// its test/utils/image/manifest.go. repositories.yaml, which the runner writes, sends
// all of its registries to ours.
const (
	agnhostTag     = "2.66.1"
	agnhostPrevTag = "2.55"
	agnhostOldTag  = "2.6"
)

// repositories are upstream's registries as folders of ours. The invalid one stays: a
// test wants it unreachable.
const repositories = `promoterE2eRegistry: %[1]s/e2e
buildImageRegistry: %[1]s/build
invalidRegistry: invalid.registry.k8s.io/invalid
gcEtcdRegistry: %[1]s/gc
gcRegistry: %[1]s/gc
sigStorageRegistry: %[1]s/storage
privateRegistry: %[1]s/private
dockerLibraryRegistry: %[1]s/library
cloudProviderGcpRegistry: %[1]s/cloud
`

const (
	//nolint:gosec // an /etc/passwd without passwords
	passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\n"
	group  = "root:x:0:\nnogroup:x:65534:\ngroup-defined-in-image:x:50000:user-defined-in-image\nuser-defined-in-image:x:1000:\n"
	index  = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n"
)

// tools are what tests call inside of agnhost.
var tools = []string{"curl", "dig", "nc", "ip", "ss", "iperf", "socat"}

// serveImages assembles all images and serves them.
func serveImages(ctx context.Context, p programs) (*images.Registry, error) {
	registry, err := images.Serve("", "")
	if err != nil {
		return nil, err
	}
	all, err := p.images()
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	for _, tag := range all {
		img, err := images.Assemble(tag.options) // once: its layer is compressed on the way
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", tag.names[0], err)
		}
		for _, name := range tag.names {
			if _, err := registry.Push(ctx, name, img); err != nil {
				return nil, err
			}
		}
	}
	return registry, nil
}

type image struct {
	names   []string
	options images.Options
}

func (p programs) images() ([]image, error) {
	base, err := busyboxBase()
	if err != nil {
		return nil, err
	}
	host, err := p.agnhostImage(base)
	if err != nil {
		return nil, err
	}
	dns := host
	dns.Entrypoint, dns.Cmd = nil, []string{"sh"}
	nonroot := base
	nonroot.User = "1234"
	return []image{
		{[]string{"e2e/agnhost:" + agnhostTag, "e2e/agnhost:" + agnhostPrevTag, "private/agnhost:" + agnhostOldTag}, host},
		{[]string{"e2e/glibc-dns-testing:2.1.1"}, dns},
		{[]string{"e2e/busybox:1.37.0-2"}, base},
		{[]string{"e2e/nonroot:1.5"}, nonroot},
		{[]string{"e2e/nginx:1.27.0-2", "e2e/nginx:1.28.0-2"}, webImage(base)},
		{[]string{"e2e/nautilus:1.8"}, pictureImage(host, "nautilus")},
		{[]string{"e2e/kitten:1.8"}, pictureImage(host, "kitten")},
		{[]string{"gc/pause:3.10.2"}, images.Options{Files: map[string]string{"/agnhost": p.agnhost}, Entrypoint: []string{"/agnhost", "pause"}}},
		{[]string{"gc/etcd:3.7.0-0"}, withFile(base, "/usr/local/bin/etcd", p.etcd)},
		{[]string{"e2e/sample-apiserver:1.29.2"}, withEntrypoint(withFile(base, "/sample-apiserver", p.sampleServer), "/sample-apiserver")},
		{[]string{"e2e/nonewprivs:1.4"}, withEntrypoint(withFile(base, "/nnp", p.nonewprivs), "/nnp")},
	}, nil
}

// pathShell comes before /bin in the PATH of our images.
const pathShell = "/usr/local/bin/sh"

// busyboxBase is a system of busybox and bash. The first shell in PATH is bash, because
// Debian's busybox prefers its own applets to the programs in PATH, and hides variables
// from them whose names are no identifiers. /bin/sh is busybox's, whose messages
// upstream's tests expect.
func busyboxBase() (images.Options, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return images.Options{}, fmt.Errorf("%w; `./task install-conformance` installs it", err)
	}
	links, err := applets(busybox)
	if err != nil {
		return images.Options{}, err
	}
	shell, files, err := withLibraries("bash")
	if err != nil {
		return images.Options{}, err
	}
	files["/bin/busybox"] = busybox
	links[pathShell], links["/bin/bash"] = shell, shell
	if shell == "/bin/bash" {
		delete(links, shell)
	}
	return images.Options{
		Files: files, Links: links, Cmd: []string{"sh"},
		Texts: map[string]string{"/etc/passwd": passwd, "/etc/group": group},
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}, nil
}

func (p programs) agnhostImage(base images.Options) (images.Options, error) {
	o := withEntrypoint(withFile(base, "/agnhost", p.agnhost), "/agnhost")
	o.Cmd = []string{"pause"}
	o.Links, o.Texts = maps.Clone(o.Links), maps.Clone(o.Texts)
	o.Links["/agnhost-2"] = "agnhost"
	o.Links["/bin/sh"] = o.Links[pathShell] // tests call curl, nc and others by it, which must not be applets
	for _, tool := range tools {
		path, files, err := withLibraries(tool)
		if err != nil {
			return images.Options{}, err
		}
		maps.Copy(o.Files, files)
		if o.Links["/bin/"+tool] = path; path == "/bin/"+tool {
			delete(o.Links, path)
		}
	}
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		text, err := os.ReadFile(filepath.Join(p.agnhostSource, "porter", name))
		if err != nil {
			return images.Options{}, err
		}
		o.Texts["/"+name] = string(text)
	}
	o.Texts["/uploads/.keep"] = ""
	return o, nil
}

// webImage answers on port 80 with the files that tests of nginx move about.
func webImage(base images.Options) images.Options {
	o := base
	o.Texts = maps.Clone(base.Texts)
	o.Texts["/usr/share/nginx/html/index.html"] = index
	o.Cmd = []string{"httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"}
	return o
}

// pictureImage serves which picture it has; the picture itself is never looked at.
func pictureImage(host images.Options, name string) images.Options {
	o := host
	o.Texts = maps.Clone(host.Texts)
	o.Texts["/data.json"] = fmt.Sprintf("{\n  \"image\": \"%s.jpg\"\n}\n", name)
	o.Cmd = []string{"test-webserver"}
	return o
}

func withFile(o images.Options, path, file string) images.Options {
	o.Files = maps.Clone(o.Files)
	o.Files[path] = file
	return o
}

func withEntrypoint(o images.Options, entrypoint string) images.Options {
	o.Entrypoint, o.Cmd = []string{entrypoint}, nil
	return o
}
