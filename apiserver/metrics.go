package apiserver

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// storageMetrics tells, under the names that dashboards of kube-apiserver ask for, what
// is stored and what the view has seen. It is worked out when it is asked for, so that
// changes and requests cost nothing more.
type storageMetrics struct {
	view *view.View
	etcd *clientv3.Client
}

// sizeTimeout bounds how long a scrape waits for etcd.
const sizeTimeout = time.Second

var (
	byResource = []string{"group", "resource"}

	objectsByName = prometheus.NewDesc("apiserver_storage_objects", "How many objects are stored.", []string{"resource"}, nil)
	objects       = prometheus.NewDesc("apiserver_resource_objects", "How many objects are stored.", byResource, nil)
	objectBytes   = prometheus.NewDesc("apiserver_resource_size_estimate_bytes", "How many bytes the stored objects have, without who wrote them and why.", byResource, nil)
	databaseBytes = prometheus.NewDesc("apiserver_storage_size_bytes", "Size of etcd's database file.", []string{"storage_cluster_id"}, nil)
	received      = prometheus.NewDesc("apiserver_storage_events_received_total", "Changes that etcd has told of.", byResource, nil)
	cacheReceived = prometheus.NewDesc("apiserver_watch_cache_events_received_total", "Changes that the view was given.", byResource, nil)
	dispatched    = prometheus.NewDesc("apiserver_watch_cache_events_dispatched_total", "Changes that the view has put where watches find them.", byResource, nil)
	cacheRevision = prometheus.NewDesc("apiserver_watch_cache_resource_version", "Revision up to which the view is complete.", byResource, nil)
	cacheCapacity = prometheus.NewDesc("apiserver_watch_cache_capacity", "How many changes stay for watches that resume or lag.", byResource, nil)
	cacheFilled   = prometheus.NewDesc("apiserver_watch_cache_initializations_total", "How often the view has read everything anew.", byResource, nil)
)

// Describe implements prometheus.Collector.
func (m storageMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{objectsByName, objects, objectBytes, databaseBytes, received, cacheReceived, dispatched, cacheRevision, cacheCapacity, cacheFilled} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m storageMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	for _, t := range m.view.Stats() {
		group, resource, ok := resourceOf(t.Prefix)
		if !ok {
			continue
		}
		name := resource
		if group != "" {
			name += "." + group
		}
		gauge(objectsByName, float64(t.Objects), name)
		gauge(objects, float64(t.Objects), group, resource)
		gauge(objectBytes, float64(t.Bytes), group, resource)
		gauge(cacheRevision, float64(t.Rev), group, resource)
		gauge(cacheCapacity, view.Log, group, resource)
		for _, d := range []*prometheus.Desc{received, cacheReceived, dispatched} {
			counter(d, t.Changes, group, resource)
		}
		counter(cacheFilled, t.Resets, group, resource)
	}
	if size, ok := m.databaseSize(); ok {
		gauge(databaseBytes, float64(size), "etcd-0")
	}
}

// databaseSize asks the first of etcd's members. One that does not answer has no size.
func (m storageMetrics) databaseSize() (int64, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), sizeTimeout)
	defer cancel()
	var endpoint string // the member in this process has none
	if all := m.etcd.Endpoints(); len(all) > 0 {
		endpoint = all[0]
	}
	status, err := m.etcd.Status(ctx, endpoint)
	if err != nil {
		return 0, false
	}
	return status.DbSize, true
}

// resourceOf is whose objects are below a prefix; it undoes prefixOf.
func resourceOf(prefix string) (group, resource string, ok bool) {
	group, resource, ok = strings.Cut(strings.TrimPrefix(prefix, schemas.RegistryPrefix), "/")
	if group == "core" {
		group = ""
	}
	return group, resource, ok
}

// metrics are those of the server's parts.
func (s *Server) metrics() prometheus.Gatherer {
	all := prometheus.NewRegistry()
	all.MustRegister(s.feed.Collectors()...)
	all.MustRegister(storageMetrics{s.view, s.cfg.Etcd}, buildInfo())
	if s.relay != nil {
		all.MustRegister(s.relay.Collectors()...)
	}
	return prometheus.Gatherers{all, s.extension.aggregator.Metrics()}
}

// buildInfo is what alerts compare the versions of a cluster's parts by.
func buildInfo() prometheus.Collector {
	v := kinds.Version()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kubernetes_build_info", Help: "Always 1; the labels are what /version answers.",
		ConstLabels: prometheus.Labels{
			"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform,
		},
	}, func() float64 { return 1 })
}
