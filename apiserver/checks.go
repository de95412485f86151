package apiserver

import (
	"context"
	"fmt"

	"github.com/rutter-project/rutter/apiserver/internal/serve"
)

// step is a part of the start, in order.
type step int

const (
	begun    step = iota // informers and everything that follows objects runs
	founded              // the cluster's basics are stored
	fair                 // flow control has its defaults
	filled               // caches are full: everything is served
	repaired             // allocations of Services were looked at
	steps
)

// String says what is waited for before a step is over.
func (s step) String() string {
	return [...]string{"not started yet", "the cluster's basics are not stored yet", "flow control has no defaults yet", "caches are not full yet", "allocations of Services were not looked at yet"}[s]
}

// start are the steps, each closed when it is over.
type start [steps]chan struct{}

func newStart() start {
	var s start
	for i := range s {
		s[i] = make(chan struct{})
	}
	return s
}

// over is a health check: an error until a step is over.
func (s start) over(which step) func(context.Context) error {
	return func(context.Context) error {
		select {
		case <-s[which]:
			return nil
		default:
			return fmt.Errorf("%s", which)
		}
	}
}

// startChecks are kube-apiserver's names for what it does at start, by the step that
// does it here: probes, and upstream's tests, ask for them.
var startChecks = map[step][]string{
	begun: {
		"storage-readiness", "generic-apiserver-start-informers", "start-apiextensions-informers", "crd-informer-synced", "start-kube-aggregator-informers",
		"start-apiextensions-controllers", "apiservice-registration-controller", "apiservice-discovery-controller",
		"apiservice-status-local-available-controller", "apiservice-status-remote-available-controller",
		"kube-apiserver-autoregistration", "aggregator-reload-proxy-client-cert",
		"apiservice-openapi-controller", "apiservice-openapiv3-controller",
	},
	founded: {
		"start-system-namespaces-controller", "bootstrap-controller", "rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes",
		"start-cluster-authentication-info-controller", "start-kubernetes-service-cidr-controller",
	},
	fair: {"priority-and-fairness-config-producer", "priority-and-fairness-config-consumer", "priority-and-fairness-filter"},
	filled: {
		"start-apiserver-admission-initializer",
		"start-kube-apiserver-identity-lease-controller", "start-kube-apiserver-identity-lease-garbage-collector",
	},
	repaired: {"start-service-ip-repair-controllers"},
}

// addChecks names what health consists of.
func (s *Server) addChecks() {
	add := func(name string, where serve.Probe, run func(context.Context) error) {
		s.health.Add(serve.Check{Name: name, Where: where, Run: run})
	}
	add("ping", serve.Always, func(context.Context) error { return nil })
	add("log", serve.Always, s.canLog)
	add("etcd", serve.Always, s.pingEtcd)
	add("etcd-readiness", serve.Readiness, s.pingEtcd)
	add("informer-sync", serve.Readiness, s.start.over(filled))
	for which := begun; which < steps; which++ {
		for _, name := range startChecks[which] {
			add("poststarthook/"+name, serve.Always, s.start.over(which))
		}
	}
	add("autoregister-completion", serve.Always, s.extension.aggregator.Registered)
	add("shutdown", serve.Readiness, s.ending.check)
}

// canLog does not return while the log takes no lines.
func (s *Server) canLog(context.Context) error {
	s.cfg.Log.Debug().Str("component", "health").Msg("asked whether the log works")
	return nil
}
