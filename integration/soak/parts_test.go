package soak

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/rutter-project/rutter/integration/cluster"
)

// startTimeout is generous: what is tested is that a part comes back, not how fast.
const startTimeout = 2 * time.Minute

// rig is one cluster's log, each part of it a process.
type rig struct {
	t       *testing.T
	program string
	dir     string
	store   string // of the streams, on a disk of its own if we are root
	address string
	log     *os.File

	etcd, bus *process
	relays    []*process
	client    *clientv3.Client
}

// process is one part, running.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, dir: dir, store: filepath.Join(dir, "streams"), program: filepath.Join(dir, "parts")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", r.program, "github.com/rutter-project/rutter/apiserver/internal/relay/parts")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Mkdir(r.store, 0o700))
	ports, err := cluster.FreePorts(1)
	require.NoError(t, err)
	r.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	r.log, err = os.Create(filepath.Join(dir, "parts.log"))
	require.NoError(t, err)
	t.Cleanup(r.end)
	return r
}

func (r *rig) end() {
	for _, p := range append([]*process{r.bus, r.etcd}, r.relays...) {
		if p != nil {
			p.kill()
		}
	}
	if r.client != nil {
		_ = r.client.Close()
	}
	_ = r.log.Close()
	if r.t.Failed() {
		text, _ := os.ReadFile(r.log.Name())
		r.t.Logf("log of the parts, its end:\n%s", text[max(0, len(text)-8000):])
	}
}

// start runs one part and waits until it serves.
func (r *rig) start(part string) *process {
	r.t.Helper()
	cmd := exec.Command(r.program, "-part", part, "-dir", r.dir, "-store", r.store, "-bus", r.address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = r.log
	stdout, err := cmd.StdoutPipe()
	require.NoError(r.t, err)
	require.NoError(r.t, cmd.Start())
	p := &process{cmd: cmd, exited: make(chan struct{})}
	ready := make(chan bool, 1)
	go func() {
		ready <- bufio.NewScanner(stdout).Scan()
		_ = cmd.Wait()
		close(p.exited)
	}()
	if part == "relay" {
		return p // it waits for the bus, which may be away
	}
	select {
	case ok := <-ready:
		require.True(r.t, ok, "%s ended while it started", part)
	case <-time.After(startTimeout):
		r.t.Fatalf("%s does not start", part)
	}
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// dialEtcd connects as the API server's commands do.
func (r *rig) dialEtcd() {
	r.t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + filepath.Join(r.dir, "etcd", "client.sock") + ":0"}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	require.NoError(r.t, err)
	r.client = client
}

// dialBus connects with the stock client library.
func (r *rig) dialBus(ctx context.Context) (jetstream.JetStream, func()) {
	r.t.Helper()
	file := func(name string) string { return filepath.Join(r.dir, "pki", name) }
	pair, err := tls.LoadX509KeyPair(file("reader.crt"), file("reader.key"))
	require.NoError(r.t, err)
	ca, err := os.ReadFile(file("ca.crt"))
	require.NoError(r.t, err)
	pool := x509.NewCertPool()
	require.True(r.t, pool.AppendCertsFromPEM(ca))
	nc, err := nats.Connect("tls://"+r.address, nats.Secure(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}))
	require.NoError(r.t, err)
	js, err := jetstream.New(nc)
	require.NoError(r.t, err)
	return js, nc.Close
}

// diskSize of the streams, when they have a disk of their own.
const diskSize = 6 << 30

// ownDisk gives the streams a disk that can be filled. It reports whether it did.
func (r *rig) ownDisk() bool {
	r.t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	require.NoError(r.t, syscall.Mount("tmpfs", r.store, "tmpfs", 0, fmt.Sprint("size=", diskSize)))
	r.t.Cleanup(func() { require.NoError(r.t, syscall.Unmount(r.store, syscall.MNT_DETACH)) })
	return true
}

// fillDisk leaves next to nothing free, by making the disk smaller: that is quicker than
// filling it, and looks the same from inside.
func (r *rig) fillDisk() {
	var stat syscall.Statfs_t
	require.NoError(r.t, syscall.Statfs(r.store, &stat))
	used := int64(stat.Blocks-stat.Bfree) * stat.Bsize
	r.resizeDisk(used + 1<<20) // streams grow meanwhile, and a disk smaller than what it holds is refused
}

func (r *rig) emptyDisk() { r.resizeDisk(diskSize) }

func (r *rig) resizeDisk(size int64) {
	require.NoError(r.t, syscall.Mount("tmpfs", r.store, "tmpfs", syscall.MS_REMOUNT, fmt.Sprint("size=", size)))
}
