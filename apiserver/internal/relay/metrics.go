package relay

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	published prometheus.Counter
	restarts  *prometheus.CounterVec
	resyncs   prometheus.Counter
	position  prometheus.Gauge
	lag       prometheus.Histogram
	mirror    *prometheus.GaugeVec
}

func newMetrics() *metrics {
	return &metrics{
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rutter_relay_published_messages_total", Help: "Messages sent to the stream, accepted or not.",
		}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rutter_relay_restarts_total", Help: "Times the relay started over, by reason.",
		}, []string{"reason"}),
		resyncs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rutter_relay_resyncs_total", Help: "Gaps that the relay had to close and name.",
		}),
		position: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rutter_relay_position_revision", Help: "Last etcd revision up to which the stream has everything.",
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rutter_relay_lag_seconds",
			Help:    "From the writer's clock before the commit to the stream's acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		mirror: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rutter_bus_mirror_lag_seconds", Help: "For how long a mirror has lacked something that the stream has.",
		}, []string{"stream"}),
	}
}

// Collectors are the relay's metrics, for a registry of the caller's choice.
func (r *Relay) Collectors() []prometheus.Collector {
	m := r.metrics
	return []prometheus.Collector{m.published, m.restarts, m.resyncs, m.position, m.lag, m.mirror}
}
