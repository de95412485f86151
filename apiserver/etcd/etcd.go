// Package etcd runs a one-member etcd inside the process, for a cluster on one machine.
//
// It listens on Unix sockets only, in its data directory: the operator's commands of
// the same user reach it there, nobody else does. Compaction is left to the API server,
// which knows how far the event stream has come.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Config is where etcd keeps its data.
type Config struct {
	Dir     string
	LogFile string
	// NoSync leaves out fsync, for tests that never lose power.
	NoSync bool
}

// Limits. etcd's default quota of 2 GiB is too small for a busy history of five minutes.
const (
	quotaBytes   = 8 << 30
	maxRequest   = 3<<20 + 512<<10 // the API's 3 MiB and the header
	maxTxnOps    = 512
	startTimeout = time.Minute
	// snapshotCount is after how many entries the log in memory is cut off. Entries are as
	// long as objects, and what a snapshot costs a member is a commit.
	snapshotCount = 2000
	// catchUp is how many entries of its log a member keeps in memory for followers that
	// lag. A lone member has none; etcd's default of 5,000 would be 5,000 objects.
	catchUp = 100
	// A lone member waits an election timeout before it leads; it has nobody to be
	// patient with.
	tickMs, electionMs = 20, 200
	socketName         = "client.sock"
)

// Etcd is a running member.
type Etcd struct {
	server *embed.Etcd
	client *clientv3.Client
}

// Start runs etcd and returns when it answers.
func Start(ctx context.Context, cfg Config) (*Etcd, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	c := embed.NewConfig()
	c.Name = "rutter"
	c.Dir = cfg.Dir
	c.LogLevel = "warn"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if cfg.LogFile != "" {
		c.ZapLoggerBuilder = nil
		c.LogOutputs = []string{cfg.LogFile}
	}
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.QuotaBackendBytes = quotaBytes
	c.MaxRequestBytes = maxRequest
	c.MaxTxnOps = maxTxnOps
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotCount, catchUp
	c.UnsafeNoFsync = cfg.NoSync
	c.ListenClientUrls = []url.URL{socket(cfg.Dir, socketName)}
	c.ListenPeerUrls = []url.URL{socket(cfg.Dir, "peer.sock")}
	c.AdvertiseClientUrls, c.AdvertisePeerUrls = c.ListenClientUrls, c.ListenPeerUrls
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	server, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		server.Close()
		return nil, fmt.Errorf("etcd in %s: %w", cfg.Dir, err)
	case <-time.After(startTimeout):
		server.Close()
		return nil, fmt.Errorf("etcd in %s is not ready after %s", cfg.Dir, startTimeout)
	case <-ctx.Done():
		server.Close()
		return nil, context.Cause(ctx)
	}
	return &Etcd{server: server, client: v3client.New(server.Server)}, nil
}

// socket is an address in etcd's form; the port is required and means nothing.
func socket(dir, name string) url.URL {
	return url.URL{Scheme: "unix", Path: filepath.Join(dir, name) + ":0"}
}

// Client talks to the member without leaving the process. It is closed with it.
func (e *Etcd) Client() *clientv3.Client { return e.client }

// Failed tells the first error of the running member.
func (e *Etcd) Failed() <-chan error { return e.server.Err() }

// Close stops the member after its clients are done.
func (e *Etcd) Close() error {
	err := e.client.Close()
	e.server.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Dial connects to the member that another process of this user runs in dir.
func Dial(dir string) (*clientv3.Client, error) {
	path := filepath.Join(dir, socketName) + ":0"
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no cluster runs on %s: %w", dir, err)
	}
	return clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + path}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
}
