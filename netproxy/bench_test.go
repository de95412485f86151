package netproxy_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

// BenchmarkEndpointSliceToPackets measures from a slice's change until a client is given the new endpoint. The client's
// own turn, two calls between processes, is part of it.
func BenchmarkEndpointSliceToPackets(b *testing.B) {
	n := lab.NewNode(b, "10.244.7.0/24")
	cfg := config(b, n)
	w := newWorld(b)
	w.nodes.Add(node(n.Config.Node, "10.244.7.0/24"))
	w.services.Add(service("web", "10.96.0.77"))
	p := run(b, w, cfg)
	var ips []netip.Addr
	names := []string{"one", "two"}
	for _, name := range names {
		got, server := attach(b, p, n, name)
		server.Serve("tcp", ":80", name)
		ips = append(ips, got.IPs[0])
	}
	_, client := attach(b, p, n, "client")
	w.slices.Add(slice("web", ips[0]))
	var took []time.Duration
	turn := 0
	for b.Loop() {
		turn = 1 - turn
		start := time.Now()
		w.slices.Modify(slice("web", ips[turn]))
		for client.Many("tcp", "10.96.0.77:8080", 1)[names[turn]] == 0 {
			require.Less(b, time.Since(start), 5*time.Second)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "us-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "us-p99")
}
