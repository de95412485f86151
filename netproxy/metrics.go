package netproxy

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rutter-project/rutter/netproxy/datapath"
)

// metrics counts what the proxy does; table sizes and drops are read when they are asked for.
type metrics struct {
	apply    prometheus.Histogram // seconds to write a batch
	follow   prometheus.Histogram // seconds from an event's arrival until packets follow
	attach   prometheus.Histogram
	failures prometheus.Counter
	problems *prometheus.GaugeVec
	datapath atomic.Pointer[datapath.Datapath]

	entries, drops *prometheus.Desc
}

func newMetrics() *metrics {
	fast := prometheus.ExponentialBuckets(0.00002, 2, 18) // 20 us to 2.6 s
	name := func(s string) string { return "rutter_netproxy_" + s }
	return &metrics{
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("apply_seconds"), Help: "Time to write a batch of changes into the tables.", Buckets: fast,
		}),
		follow: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("follow_seconds"), Help: "Time from the arrival of a change until packets follow it.", Buckets: fast,
		}),
		attach: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("attach_seconds"), Help: "Time to connect a pod.", Buckets: fast,
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: name("apply_failures_total"), Help: "Batches that could not be written.",
		}),
		problems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: name("service_problems"), Help: "Services that cannot be served as wished.",
		}, []string{"reason"}),
		entries: prometheus.NewDesc(name("entries"), "Entries in use.", []string{"table"}, nil),
		drops:   prometheus.NewDesc(name("drops_total"), "Packets and connections refused.", []string{"reason"}, nil),
	}
}

func (m *metrics) static() []prometheus.Collector {
	return []prometheus.Collector{m.apply, m.follow, m.attach, m.failures, m.problems}
}

// Describe sends the descriptions of all metrics.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.static() {
		c.Describe(out)
	}
	out <- m.entries
	out <- m.drops
}

// Collect sends the values of all metrics.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range m.static() {
		c.Collect(out)
	}
	d := m.datapath.Load()
	if d == nil {
		return
	}
	s := d.Stats()
	for table, n := range map[string]int{
		"fronts": s.Fronts, "services": s.Services, "slots": s.Slots, "backends": s.Backends, "pods": s.Pods,
	} {
		out <- prometheus.MustNewConstMetric(m.entries, prometheus.GaugeValue, float64(n), table)
	}
	drops, err := d.Drops()
	if err != nil {
		return // closed meanwhile
	}
	for reason, n := range drops {
		out <- prometheus.MustNewConstMetric(m.drops, prometheus.CounterValue, float64(n), reason)
	}
}
