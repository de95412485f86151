package feed

import "github.com/prometheus/client_golang/prometheus"

// Collectors are the feed's metrics, for a registry of the caller's choice.
func (f *Feed) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rutter_feed_revision", Help: "Last etcd revision that all readers in memory have taken.",
		}, func() float64 { return float64(f.Revision()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "rutter_feed_snapshots_total", Help: "Times all objects were read, at the start and after a loss.",
		}, func() float64 { return float64(f.Resets()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rutter_feed_log_bytes", Help: "About how much memory the log for cursors takes.",
		}, func() float64 { return float64(f.ring.size()) }),
	}
}
