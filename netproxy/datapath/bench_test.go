package datapath_test

// Compare two states of the tree with
//
//	go test -run '^$' -bench . -count 10 ./netproxy/datapath > old.txt   (and new.txt)
//	benchstat old.txt new.txt

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

const endpointsEach = 10

// big is a node with room for 10,000 services.
func big(b *testing.B) *machine {
	b.Helper()
	n := lab.NewNode(b, cidr4)
	n.Config.Sizes = datapath.DefaultConfig().Sizes
	n.Config.Sizes.Services, n.Config.Sizes.Slots, n.Config.Sizes.Backends = 1<<18, 1<<23, 1<<20 // lists rest a second, whatever the speed of change
	return start(b, n)
}

// many are n services of ten endpoints each, on one port of TCP.
func many(n, shift int) []datapath.Change {
	out := make([]datapath.Change, n)
	for i := range out {
		var eps []netip.AddrPort
		for e := range endpointsEach {
			eps = append(eps, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200 + byte(i>>8), byte(i), byte(e + shift)}), 80))
		}
		vip := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})
		c := svc(fmt.Sprint(i), vip.String(), 80, eps...)
		c.Service.Ports = c.Service.Ports[:1]
		out[i] = c
	}
	return out
}

func BenchmarkProgramServices(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("%dx%d", n, endpointsEach), func(b *testing.B) {
			all := many(n, 0)
			for b.Loop() {
				b.StopTimer()
				m := big(b)
				b.StartTimer()
				m.apply(all...)
				b.StopTimer()
				require.NoError(b, m.Close())
				require.NoError(b, datapath.Destroy(m.Config))
				b.StartTimer()
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "services/s")
		})
	}
}

func BenchmarkOneEndpointChanges(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("of-%d-services", n), func(b *testing.B) {
			m := big(b)
			m.apply(many(n, 0)...)
			one := many(1, 0)[0]
			p := &one.Service.Ports[0]
			i := 0
			for b.Loop() {
				i++
				p.Cluster[9] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 199, byte(i >> 8), byte(i)}), 80)
				p.Serving = map[netip.AddrPort]bool{}
				for _, a := range p.Cluster {
					p.Serving[a] = false
				}
				m.apply(one)
			}
		})
	}
}

func BenchmarkAdopt(b *testing.B) {
	n := lab.NewNode(b, cidr4)
	n.Config.Sizes = datapath.DefaultConfig().Sizes
	m := start(b, n)
	m.apply(many(10_000, 0)...)
	for b.Loop() {
		d, err := datapath.Open(m.Config, zerolog.Nop())
		require.NoError(b, err)
		require.NoError(b, d.Close())
	}
}

func BenchmarkAttachPod(b *testing.B) {
	m := start(b, lab.NewNode(b, cidr4, cidr6))
	i := 0
	for b.Loop() {
		i++
		p := podNumber(m, i%200)
		_, err := m.AddPod(p)
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, m.RemovePod(p))
		b.StartTimer()
	}
}

func BenchmarkConnect(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		m := big(b)
		m.apply(many(n, 0)...)
		client, outside, server := m.pod(1), m.podOutside(2), m.pod(3)
		server.serve("server")
		m.apply(svc("web", vip4, 8080, server.at(false, 80)))
		for _, c := range []struct {
			name, network, addr string
			from                *pod
		}{
			{"tcp/direct", "tcp", server.at(false, 80).String(), client},
			{"tcp/service", "tcp", vipPort(false, 8080), client},
			{"udp/direct", "udp", server.at(false, 80).String(), client},
			{"udp/service", "udp", vipPort(false, 8080), client},
			{"tcp/service-by-packets", "tcp", vipPort(false, 8080), outside},
		} {
			b.Run(fmt.Sprintf("%s/%d-services", c.name, n), func(b *testing.B) {
				var medians []time.Duration
				for b.Loop() {
					medians = append(medians, c.from.Connects(c.network, c.addr, 100))
				}
				slices.Sort(medians)
				b.ReportMetric(float64(medians[len(medians)/2].Nanoseconds()), "ns/connect")
			})
		}
	}
}
