package kubeletapi

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// The metrics that autoscalers read; names and labels are kubelet's.
var (
	nodeCPU      = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory   = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	containerCPU = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", []string{"container", "pod", "namespace"}, nil)
	containerMem = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", []string{"container", "pod", "namespace"}, nil)
	startTime    = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", []string{"container", "pod", "namespace"}, nil)
	podCPU       = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", []string{"pod", "namespace"}, nil)
	podMem       = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", []string{"pod", "namespace"}, nil)
)

// resourceMetrics serves a summary as metrics.
func (s *Server) resourceMetrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum, err := s.backend.Summary(r.Context())
		if err != nil {
			s.fail(w, err)
			return
		}
		reg := prometheus.NewRegistry()
		reg.MustRegister(summaryCollector{sum})
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
}

type summaryCollector struct{ sum *stats.Summary }

func (c summaryCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, containerCPU, containerMem, startTime, podCPU, podMem} {
		ch <- d
	}
}

func (c summaryCollector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v *uint64, scale float64, labels ...string) {
		if v != nil {
			ch <- prometheus.MustNewConstMetric(d, kind, float64(*v)*scale, labels...)
		}
	}
	usage := func(cpuDesc, memDesc *prometheus.Desc, cpu *stats.CPUStats, mem *stats.MemoryStats, labels ...string) {
		if cpu != nil {
			send(cpuDesc, prometheus.CounterValue, cpu.UsageCoreNanoSeconds, 1e-9, labels...)
		}
		if mem != nil {
			send(memDesc, prometheus.GaugeValue, mem.WorkingSetBytes, 1, labels...)
		}
	}
	usage(nodeCPU, nodeMemory, c.sum.Node.CPU, c.sum.Node.Memory)
	for _, p := range c.sum.Pods {
		usage(podCPU, podMem, p.CPU, p.Memory, p.PodRef.Name, p.PodRef.Namespace)
		for _, k := range p.Containers {
			usage(containerCPU, containerMem, k.CPU, k.Memory, k.Name, p.PodRef.Name, p.PodRef.Namespace)
			began := uint64(max(0, k.StartTime.Unix()))
			send(startTime, prometheus.GaugeValue, &began, 1, k.Name, p.PodRef.Name, p.PodRef.Namespace)
		}
	}
}
