package serve

import (
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	handlermetrics "k8s.io/apiserver/pkg/endpoints/handlers/metrics"
	apimetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	viewmetrics "k8s.io/apiserver/pkg/storage/cacher/metrics"
	etcdmetrics "k8s.io/apiserver/pkg/storage/etcd3/metrics"
	storagemetrics "k8s.io/apiserver/pkg/storage/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	flowmetrics "k8s.io/apiserver/pkg/util/flowcontrol/metrics"
	proxymetrics "k8s.io/apiserver/pkg/util/proxy/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// allMetrics serves what upstream's code counts, what the server's parts count, and what
// everything else in the process does: etcd, bus, network.
func (c Config) allMetrics() http.Handler {
	registerMetrics()
	all := prometheus.Gatherers{legacyregistry.DefaultGatherer, prometheus.DefaultGatherer}
	if c.Metrics != nil {
		all = append(all, c.Metrics)
	}
	told := promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ProcessStartTime: time.Now()})
	return resettable(told)
}

// resettable has the metrics of upstream's code begin anew when they are deleted, as kube-apiserver's can be.
func resettable(told http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodDelete {
			told.ServeHTTP(w, r)
			return
		}
		legacyregistry.Reset()
		_, _ = io.WriteString(w, "metrics reset\n") // the client may be gone
	})
}

// registerMetrics makes upstream's code count, once in a process, as its server does.
// What is not registered is not counted.
func registerMetrics() {
	apimetrics.Register()
	storagemetrics.Register()
	viewmetrics.Register()
	etcdmetrics.Register()
	flowmetrics.Register()
	handlermetrics.Register()
	proxymetrics.Register()
	kinds.RegisterMetrics()
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
}
