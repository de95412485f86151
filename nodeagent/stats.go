package nodeagent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
)

// Summary implements kubeletapi.Backend: what node, pods and containers use now.
func (b *backend) Summary(ctx context.Context) (*stats.Summary, error) {
	usage, err := b.engine.Usage(ctx)
	if err != nil {
		return nil, err
	}
	node, err := b.nodeStats()
	if err != nil {
		return nil, err
	}
	sum := &stats.Summary{Node: node}
	for _, w := range b.registry.all() {
		v := w.View()
		p := stats.PodStats{
			PodRef:    stats.PodReference{Name: v.Pod.Name, Namespace: v.Pod.Namespace, UID: string(v.Pod.UID)},
			StartTime: metav1.NewTime(v.Pod.CreationTimestamp.Time),
		}
		var total engine.Usage
		for _, c := range v.Containers {
			u, ok := usage[c.ID]
			if !ok {
				continue
			}
			p.Containers = append(p.Containers, stats.ContainerStats{
				Name: c.Name, StartTime: metav1.NewTime(c.StartedAt), CPU: cpuStats(u), Memory: memoryStats(u),
			})
			total.At, total.CPU = u.At, total.CPU+u.CPU
			total.Memory, total.WorkingSet, total.RSS = total.Memory+u.Memory, total.WorkingSet+u.WorkingSet, total.RSS+u.RSS
		}
		if len(p.Containers) > 0 {
			p.CPU, p.Memory = cpuStats(total), memoryStats(total)
			sum.Pods = append(sum.Pods, p)
		}
	}
	return sum, nil
}

func cpuStats(u engine.Usage) *stats.CPUStats {
	n := uint64(u.CPU)
	return &stats.CPUStats{Time: metav1.NewTime(u.At), UsageCoreNanoSeconds: &n}
}

func memoryStats(u engine.Usage) *stats.MemoryStats {
	return &stats.MemoryStats{Time: metav1.NewTime(u.At), UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS}
}

// clockTick is the unit of /proc/stat.
const clockTick = 10 * time.Millisecond

func (b *backend) nodeStats() (stats.NodeStats, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return stats.NodeStats{}, err
	}
	busy, err := parseStat(data)
	if err != nil {
		return stats.NodeStats{}, err
	}
	memory, err := nodeMemory()
	if err != nil {
		return stats.NodeStats{}, err
	}
	now := metav1.Now()
	nanos := uint64(busy)
	return stats.NodeStats{
		NodeName: b.cfg.NodeName,
		CPU:      &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &nanos},
		Memory:   &stats.MemoryStats{Time: now, UsageBytes: &memory.used, WorkingSetBytes: &memory.used, AvailableBytes: &memory.available},
	}, nil
}

// parseStat returns how long the machine's processors were busy.
func parseStat(data []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 || string(fields[0]) != "cpu" {
		return 0, fmt.Errorf("unknown layout of /proc/stat: %q", line)
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user, nice, system, irq, softirq, steal
		n, err := strconv.ParseUint(string(fields[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("unknown layout of /proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

type memoryUse struct{ used, available uint64 }

func nodeMemory() (memoryUse, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return memoryUse{}, err
	}
	values := map[string]uint64{}
	for line := range bytes.Lines(data) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		fields := bytes.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(string(fields[0]), 10, 64); err == nil {
			values[string(name)] = n << 10
		}
	}
	return memoryUse{values["MemTotal"] - values["MemAvailable"], values["MemAvailable"]}, nil
}

// collector tells the agent's own metrics.
type collector struct {
	agent      *Agent
	pods       *prometheus.Desc
	containers *prometheus.Desc
	restarts   *prometheus.Desc
}

func newCollector(a *Agent) *collector {
	return &collector{
		agent:      a,
		pods:       prometheus.NewDesc("rutter_nodeagent_pods", "Pods of this node by state of their state machine", []string{"state"}, nil),
		containers: prometheus.NewDesc("rutter_nodeagent_containers", "Containers of this node by state of their state machine", []string{"state"}, nil),
		restarts:   prometheus.NewDesc("rutter_nodeagent_container_restarts", "Restarts of the containers that exist now", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.pods
	ch <- c.containers
	ch <- c.restarts
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	pods, containers, restarts := map[podstate.State]int{}, map[podstate.ContainerState]int{}, 0
	for _, w := range c.agent.registry.all() {
		v := w.View()
		pods[v.State]++
		for _, k := range v.Containers {
			containers[k.State]++
			restarts += k.Restarts
		}
	}
	for s, n := range pods {
		ch <- prometheus.MustNewConstMetric(c.pods, prometheus.GaugeValue, float64(n), string(s))
	}
	for s, n := range containers {
		ch <- prometheus.MustNewConstMetric(c.containers, prometheus.GaugeValue, float64(n), string(s))
	}
	ch <- prometheus.MustNewConstMetric(c.restarts, prometheus.GaugeValue, float64(restarts))
}
