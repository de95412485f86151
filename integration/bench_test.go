package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rutter-project/rutter/integration/cluster"
)

// Run with
//
//	./task bench-go -- -bench 'Up|ApplyToRunning|Idle'
//
// and, to compare two versions, with -count=10 and benchstat.

// BenchmarkUp is `rutter up` on one machine: until the node is Ready and until the
// command says so, the first time (everything is made) and again (everything is there).
func BenchmarkUp(b *testing.B) {
	for _, warm := range []bool{false, true} {
		name := "first"
		if warm {
			name = "again"
		}
		b.Run(name, func(b *testing.B) {
			var took time.Duration
			runs := 0
			for b.Loop() {
				c := cluster.New(b)
				if warm {
					c.Start()
					stop(b, c)
				}
				begin := time.Now()
				c.Start()
				took += time.Since(begin)
				runs++
				stop(b, c)
				purgeNow(b, c)
			}
			report(b, took, runs, "s/up")
		})
	}
}

// stop ends a cluster as Ctrl-C does.
func stop(b *testing.B, c *cluster.Cluster) {
	b.Helper()
	if err := c.Stop(); err != nil {
		b.Fatalf("stop: %v\n%s", err, c.Output())
	}
}

// purgeNow makes room for the next cluster: a machine has one node at a time.
func purgeNow(b *testing.B, c *cluster.Cluster) {
	b.Helper()
	if out, err := c.Rutter("down", "--purge", "--node-name", c.Node); err != nil {
		b.Fatalf("down --purge: %v\n%s", err, out)
	}
}

// report replaces ns/op, which would count what surrounds the measured part.
func report(b *testing.B, took time.Duration, runs int, unit string) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds()/float64(runs), unit)
}

// podsPerRound is enough for a median that does not jump.
const podsPerRound = 10

// BenchmarkApplyToRunning is what a user waits for a pod whose image is on the node:
// from the API server's creating it to its storing that the container runs, both by the
// API server's clock, read from the object's own log. Pods are made one after the other.
// The time that kubectl takes to start and to ask is left out.
func BenchmarkApplyToRunning(b *testing.B) {
	c := cluster.New(b)
	c.Start()
	c.Kubectl("run", "first", "--image="+image+":v1", "--restart=Never", "--", "wait") // brings the image
	c.Kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=60s")
	var took []time.Duration
	for b.Loop() {
		for range podsPerRound {
			name := fmt.Sprintf("p%d", len(took))
			c.Kubectl("run", name, "--image="+image+":v1", "--restart=Never", "--", "wait")
			c.Kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
			took = append(took, createdToRunning(b, c, name))
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(took, 0.5).Seconds()*1000, "p50-ms")
	b.ReportMetric(quantile(took, 1).Seconds()*1000, "max-ms")
}

// createdToRunning reads the log of a pod.
func createdToRunning(b *testing.B, c *cluster.Cluster, name string) time.Duration {
	b.Helper()
	out, err := c.Rutter("log", "pod/"+name, "-o", "json")
	if err != nil {
		b.Fatalf("log: %v\n%s", err, out)
	}
	var created time.Time
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var event struct {
			Type   string
			Header struct{ Time time.Time }
			Object struct {
				Status struct {
					ContainerStatuses []struct{ State struct{ Running *struct{} } }
				}
			}
		}
		if err := decoder.Decode(&event); err != nil {
			b.Fatalf("pod %s never ran: %v\n%s", name, err, out)
		}
		if event.Type == "ADDED" {
			created = event.Header.Time
		}
		if s := event.Object.Status.ContainerStatuses; len(s) == 1 && s[0].State.Running != nil {
			return event.Header.Time.Sub(created)
		}
	}
}

// quantile is the value that a part q of all do not exceed.
func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[int(q*float64(len(all)-1)+0.5)]
}

// BenchmarkIdle is what an idle cluster costs: one node, no pods.
func BenchmarkIdle(b *testing.B) {
	const settle, measured = 10 * time.Second, 20 * time.Second
	c := cluster.New(b)
	c.Start()
	for b.Loop() {
		// Real time passes on purpose: what a process uses in it is the result.
		<-time.After(settle)
		before := cpu(b, c.PID())
		begin := time.Now()
		<-time.After(measured)
		used := cpu(b, c.PID()) - before
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(100*used.Seconds()/time.Since(begin).Seconds(), "CPU-%")
		b.ReportMetric(rss(b, c.PID()), "RSS-MB")
	}
}

// clockTick is USER_HZ, which Linux shows to every program as 100.
const clockTick = 10 * time.Millisecond

// cpu is the processor time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// The name, in parentheses, may hold anything; utime and stime are the 14th and
	// 15th field, the 12th and 13th after it.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick
}

// rss is the memory of a process in MB.
func rss(b *testing.B, pid int) float64 {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kb float64
		if _, err := fmt.Sscanf(lines.Text(), "VmRSS: %f kB", &kb); err == nil {
			return kb / 1024
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
