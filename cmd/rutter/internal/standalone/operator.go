package standalone

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/bus"
)

// Operator connects to the bus of the cluster that runs on the data directory, as its
// administrator.
func Operator(ctx context.Context, cfg Config, log zerolog.Logger) (*bus.Client, error) {
	pid, err := cfg.readPID()
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		return nil, fmt.Errorf("no cluster runs on %s; start it with `rutter up`", cfg.DataDir)
	}
	ca, err := pki.Load(cfg.pkiDir(), cfg.Name)
	if err != nil {
		return nil, err
	}
	files, err := ca.Issue(operatorLeaf)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, err
	}
	return bus.Connect(ctx, bus.ClientConfig{
		Name: "operator", URL: fmt.Sprintf("tls://127.0.0.1:%d", cfg.BusPort),
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}},
	}, log)
}

// Etcd connects to the etcd of the cluster that runs on the data directory.
func Etcd(cfg Config) (*clientv3.Client, error) { return etcd.Dial(cfg.etcdDir()) }
