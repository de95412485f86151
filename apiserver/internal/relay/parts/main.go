// Command parts runs etcd, the bus or a relay as a process of its own, for tests that
// must be able to kill, pause and double each of them. It is no product.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/relay"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/bus"
)

// The certificates that the bus trusts, by file name: the relays', and that of whoever
// looks on.
var clients = map[string]string{"relay": "system:rutter:relay", "reader": "system:rutter:reader"}

const streamBytes = 4 << 30

func main() {
	part := flag.String("part", "", "etcd, bus or relay")
	dir := flag.String("dir", "", "directory that all parts share")
	store := flag.String("store", "", "directory of the streams (bus)")
	address := flag.String("bus", "", "address of the bus")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	log := zerolog.New(os.Stderr).Level(zerolog.WarnLevel).With().Timestamp().Int("pid", os.Getpid()).Logger()
	if err := run(ctx, *part, *dir, *store, *address, log); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "parts:", *part+":", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, part, dir, store, address string, log zerolog.Logger) error {
	switch part {
	case "etcd":
		return runEtcd(ctx, dir)
	case "bus":
		return runBus(ctx, dir, store, address, log)
	case "relay":
		return runRelay(ctx, dir, address, log)
	default:
		return fmt.Errorf("no part %q", part)
	}
}

// ready tells whoever started the process that the part serves.
func ready() { fmt.Println("ready") }

// runEtcd leaves out fsync: processes die here, machines do not.
func runEtcd(ctx context.Context, dir string) error {
	e, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), NoSync: true})
	if err != nil {
		return err
	}
	ready()
	select {
	case err = <-e.Failed():
	case <-ctx.Done():
	}
	return errors.Join(err, e.Close())
}

const recoverInterval = 200 * time.Millisecond

func runBus(ctx context.Context, dir, store, address string, log zerolog.Logger) error {
	ca, err := pki.Load(filepath.Join(dir, "pki"), "soak")
	if err != nil {
		return err
	}
	cfg := bus.DefaultServerConfig(store)
	cfg.Listen, cfg.MaxStore = address, 4*streamBytes
	for name, user := range clients {
		if _, err := ca.Issue(pki.Leaf{Name: name, CommonName: user, Client: true}); err != nil {
			return err
		}
		cfg.CoreUsers = append(cfg.CoreUsers, user)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	serving, err := ca.Issue(pki.Leaf{Name: "bus", CommonName: "bus", Hosts: []string{host}, Server: true})
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(serving.CertFile, serving.KeyFile)
	if err != nil {
		return err
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: ca.Pool(), ClientAuth: tls.VerifyClientCertIfGiven}
	server, err := bus.NewServer(cfg, log)
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	defer server.Close()
	ready()
	ticker := time.NewTicker(recoverInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := server.Recover(); err != nil {
				log.Debug().Err(err).Msg("streams stay off")
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func runRelay(ctx context.Context, dir, address string, log zerolog.Logger) error {
	store, err := etcd.Dial(filepath.Join(dir, "etcd"))
	if err != nil {
		return err
	}
	defer store.Close()
	client, err := connect(ctx, dir, address, log)
	if err != nil {
		return err
	}
	defer client.Close()
	ready()
	return relayUntilDone(ctx, store, client, log)
}

func relayUntilDone(ctx context.Context, store *clientv3.Client, client *bus.Client, log zerolog.Logger) error {
	f := feed.New(store, log)
	r := relay.New(store, f, client, relay.DefaultConfig(), log)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.Run(ctx) })
	g.Go(func() error { return r.Run(ctx) })
	return g.Wait()
}

// connect waits for the bus, which may be away when a relay starts.
func connect(ctx context.Context, dir, address string, log zerolog.Logger) (*bus.Client, error) {
	ca, err := pki.Load(filepath.Join(dir, "pki"), "soak")
	if err != nil {
		return nil, err
	}
	file := func(ending string) string { return filepath.Join(dir, "pki", "relay"+ending) }
	pair, err := tls.LoadX509KeyPair(file(".crt"), file(".key"))
	if err != nil {
		return nil, err
	}
	cfg := bus.ClientConfig{
		Name: "relay", URL: "tls://" + address, Streams: bus.DefaultStreamsConfig(),
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}},
	}
	cfg.Streams.HistoryBytes, cfg.Streams.ArchiveBytes = streamBytes, streamBytes
	for {
		client, err := bus.Connect(ctx, cfg, log)
		if err == nil {
			return client, nil
		}
		select {
		case <-time.After(recoverInterval):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}
