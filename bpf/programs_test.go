package bpf_test

import (
	"errors"
	"net/netip"
	"os"
	"reflect"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bpf"
)

// Verdicts of tc programs.
const (
	ok       = 0
	dropped  = 2
	redirect = 7
)

// loopback stands for the device that packets of test runs come from.
const loopback = 1

// load loads the programs with small tables and no pins: they go with the test.
func load(t testing.TB) *bpf.NetproxyObjects {
	t.Helper()
	if uid := os.Getuid(); uid != 0 {
		t.Skipf("not root: uid=%d", uid)
	}
	spec, err := bpf.LoadNetproxy()
	require.NoError(t, err)
	for _, m := range spec.Maps {
		m.MaxEntries = min(m.MaxEntries, 1024)
	}
	objs := new(bpf.NetproxyObjects)
	err = spec.LoadAndAssign(objs, nil)
	if ve := (*ebpf.VerifierError)(nil); errors.As(err, &ve) {
		t.Fatalf("%+v", ve)
	}
	require.NoError(t, err)
	t.Cleanup(func() { objs.Close() })
	return objs
}

// Loading must stay a matter of milliseconds: the node's start waits for it.
func TestVerifierHasLittleToDo(t *testing.T) {
	objs := load(t)
	all := reflect.ValueOf(objs.NetproxyPrograms)
	for i := range all.NumField() {
		info, err := all.Field(i).Interface().(*ebpf.Program).Info()
		require.NoError(t, err)
		n, known := info.VerifiedInstructions()
		require.True(t, known)
		require.Less(t, n, uint32(100_000), all.Type().Field(i).Name)
	}
}

// fixture is a pod with a service of one endpoint on this node.
type fixture struct {
	*bpf.NetproxyObjects
	t                    testing.TB
	pod, peer, vip, node netip.Addr
}

func newFixture(t testing.TB, v6 bool) *fixture {
	t.Helper()
	f := &fixture{NetproxyObjects: load(t), t: t}
	texts := []string{"10.244.1.5", "10.244.1.6", "10.96.0.1", "192.0.2.1"}
	if v6 {
		texts = []string{"fd44::5", "fd44::6", "fd96::1", "2001:db8::1"}
	}
	for i, a := range []*netip.Addr{&f.pod, &f.peer, &f.vip, &f.node} {
		*a = netip.MustParseAddr(texts[i])
	}
	entry := bpf.NetproxyPodIf{Ip4: addr(f.pod)}
	if v6 {
		entry = bpf.NetproxyPodIf{Ip6: addr(f.pod)}
	}
	require.NoError(t, f.NpIfs.Put(uint32(loopback), entry))
	require.NoError(t, f.NpEps.Put(addr(f.peer), bpf.NetproxyEp{Ifindex: loopback, Mac: [6]uint8{1}}))
	require.NoError(t, f.NpEps.Put(addr(f.pod), bpf.NetproxyEp{Ifindex: loopback, Mac: [6]uint8{2}}))
	for i, proto := range []uint8{tcp, udp} {
		index := uint32(i)
		require.NoError(t, f.NpBackends.Put(index, bpf.NetproxyBackend{Addr: addr(f.peer), Port: port(8080), Proto: proto, Gen: 1}))
		require.NoError(t, f.NpSlots.Put(index, index+1))
		key := bpf.NetproxySvcKey{Addr: addr(f.vip), Port: port(80), Proto: proto}
		f.service(bpf.NetproxySvc{Key: key, Id: index + 1, Base: index, N: 1})
	}
	f.service(bpf.NetproxySvc{Key: bpf.NetproxySvcKey{Addr: addr(f.vip)}, Flags: bpf.NetproxySvcFlagsNP_SVC_REFUSE})
	return f
}

// service writes an entry, and its record at the number of its id.
func (f *fixture) service(svc bpf.NetproxySvc) {
	f.t.Helper()
	require.NoError(f.t, f.NpRecords.Put(svc.Id, svc))
	require.NoError(f.t, f.NpSvc.Update(svc.Key, bpf.NetproxySvcEntry{Record: svc.Id}, ebpf.UpdateLock))
}

func run(t testing.TB, p *ebpf.Program, in []byte) (verdict uint32, out []byte) {
	t.Helper()
	out = make([]byte, len(in)+256)
	opts := &ebpf.RunOptions{Data: in, DataOut: out, Context: struct {
		_       [40]byte
		Ifindex uint32
		_       [148]byte
	}{Ifindex: loopback}}
	verdict, err := p.Run(opts)
	require.NoError(t, err)
	return verdict, opts.DataOut
}

func families(t *testing.T, fn func(t *testing.T, v6 bool)) {
	t.Run("IPv4", func(t *testing.T) { fn(t, false) })
	t.Run("IPv6", func(t *testing.T) { fn(t, true) })
}

func at(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

func transports(t *testing.T, fn func(t *testing.T, f *fixture, proto byte, build func(sport, dport uint16) []byte)) {
	families(t, func(t *testing.T, v6 bool) {
		t.Run("TCP", func(t *testing.T) {
			fn(t, newFixture(t, v6), tcp, func(s, d uint16) []byte { return segment(s, d, 0x02) })
		})
		t.Run("UDP", func(t *testing.T) { fn(t, newFixture(t, v6), udp, datagram) })
	})
}

func TestFromPodTranslatesThereAndBack(t *testing.T) {
	transports(t, func(t *testing.T, f *fixture, proto byte, build func(sport, dport uint16) []byte) {
		verdict, out := run(t, f.NpFromPod, frame(f.pod, f.vip, proto, build(40000, 80)))
		require.EqualValues(t, redirect, verdict)
		there := read(out)
		require.True(t, there.good, "checksums")
		require.Equal(t, at(f.peer, 8080), there.dst)
		require.Equal(t, f.pod, there.src.Addr())
		require.GreaterOrEqual(t, there.src.Port(), uint16(61000))
		require.Equal(t, byte(1), out[0], "link address of the endpoint")

		verdict, out = run(t, f.NpToPod, frame(f.peer, f.pod, proto, build(8080, there.src.Port())))
		require.EqualValues(t, ok, verdict)
		require.Equal(t, flow{at(f.vip, 80), at(f.pod, 40000), true}, read(out))

		_, out = run(t, f.NpFromPod, frame(f.pod, f.vip, proto, build(40000, 80)))
		require.Equal(t, there, read(out), "the flow keeps its endpoint and port")
	})
}

func TestFromPodLeavesOthersAlone(t *testing.T) {
	transports(t, func(t *testing.T, f *fixture, proto byte, build func(sport, dport uint16) []byte) {
		in := frame(f.pod, f.node, proto, build(40000, 80))
		verdict, out := run(t, f.NpFromPod, in)
		require.EqualValues(t, ok, verdict)
		require.Equal(t, in, out)
		in = frame(f.pod, f.peer, proto, build(40000, 80))
		verdict, out = run(t, f.NpFromPod, in)
		require.EqualValues(t, redirect, verdict)
		require.Equal(t, in[14:], out[14:])
	})
}

func TestFromPodDrops(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		f := newFixture(t, v6)
		fragmented := frame(f.pod, f.vip, udp, datagram(40000, 80))
		if v6 {
			fragmented[14+6] = 44
		} else {
			fragmented[14+6] = 0x20
		}
		odd := frame(f.pod, f.vip, udp, datagram(40000, 80))
		odd[14] = 0x55
		ping, payload := unreachable(v6, nil)
		payload[0] = map[bool]byte{false: 8, true: 128}[v6]
		for name, tc := range map[string]struct {
			in  []byte
			why bpf.NetproxyDrop
		}{
			"a foreign source":         {frame(f.peer, f.vip, udp, datagram(1, 80)), bpf.NetproxyDropNP_DROP_SPOOFED},
			"a port nobody serves":     {frame(f.pod, f.vip, udp, datagram(1, 81)), bpf.NetproxyDropNP_DROP_NO_PORT},
			"a ping to a service":      {frame(f.pod, f.vip, ping, payload), bpf.NetproxyDropNP_DROP_NO_PORT},
			"a fragment to a service":  {fragmented, bpf.NetproxyDropNP_DROP_FRAGMENT},
			"an odd IP version":        {odd, bpf.NetproxyDropNP_DROP_MALFORMED},
			"something that is not IP": {append(make([]byte, 12), 0x88, 0xcc, 0, 0), bpf.NetproxyDropNP_DROP_MALFORMED},
		} {
			t.Run(name, func(t *testing.T) {
				before := drops(t, f, tc.why)
				verdict, _ := run(t, f.NpFromPod, tc.in)
				require.EqualValues(t, dropped, verdict)
				require.Equal(t, before+1, drops(t, f, tc.why))
			})
		}
	})
}

func drops(t testing.TB, f *fixture, why bpf.NetproxyDrop) uint64 {
	t.Helper()
	var perCPU []uint64
	require.NoError(t, f.NpDrops.Lookup(why, &perCPU))
	var n uint64
	for _, c := range perCPU {
		n += c
	}
	return n
}

// Pitfall: errors about a translated flow are about the flow as its owner knows it, with right checksums.
func TestErrorsAreTranslatedInsideAndOutside(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		f := newFixture(t, v6)
		_, out := run(t, f.NpFromPod, frame(f.pod, f.vip, udp, datagram(40000, 80)))
		sent := out[14:]
		for name, router := range map[string]netip.Addr{"by the endpoint": f.peer, "by a router": f.node} {
			t.Run(name, func(t *testing.T) {
				proto, l4 := unreachable(v6, sent)
				verdict, out := run(t, f.NpToPod, frame(router, f.pod, proto, l4))
				require.EqualValues(t, ok, verdict)
				want := router
				if router == f.peer {
					want = f.vip // an error by the endpoint is one by the service
				}
				require.Equal(t, flow{at(want, 0), at(f.pod, 0), true}, read(out))
				header := 20
				if v6 {
					header = 40
				}
				require.Equal(t, flow{at(f.pod, 40000), at(f.vip, 80), true}, readPacket(out[14+header+8:], false))
			})
		}
	})
}

// Pitfall: both ends of a flow that ended, or a reset, free its port; one end alone does not.
func TestFlowIsOverWhenBothEndsSaySo(t *testing.T) {
	closing := func(f *fixture) (n int) {
		var k bpf.NetproxyTuple
		var v bpf.NetproxyNat
		for it := f.NpNat.Iterate(); it.Next(&k, &v); {
			if v.Flags&bpf.NetproxyNatFlagsNP_NAT_CLOSING != 0 {
				n++
			}
		}
		return n
	}
	families(t, func(t *testing.T, v6 bool) {
		f := newFixture(t, v6)
		_, out := run(t, f.NpFromPod, frame(f.pod, f.vip, tcp, segment(40000, 80, 0x02)))
		natPort := read(out).src.Port()
		run(t, f.NpFromPod, frame(f.pod, f.vip, tcp, segment(40000, 80, 0x11)))
		require.Zero(t, closing(f))
		run(t, f.NpToPod, frame(f.peer, f.pod, tcp, segment(8080, natPort, 0x11)))
		require.Equal(t, 2, closing(f))
		run(t, f.NpFromPod, frame(f.pod, f.vip, tcp, segment(40000, 80, 0x02))) // the port is used again
		require.Zero(t, closing(f))
		run(t, f.NpFromPod, frame(f.pod, f.vip, tcp, segment(40000, 80, 0x04)))
		require.Equal(t, 2, closing(f))
	})
}

func TestFromUplinkServesWhatIsMeantForOutside(t *testing.T) {
	transports(t, func(t *testing.T, f *fixture, proto byte, build func(sport, dport uint16) []byte) {
		client := netip.MustParseAddr("198.51.100.7")
		if f.vip.Is6() {
			client = netip.MustParseAddr("2001:db8:1::7")
		}
		in := frame(client, f.vip, proto, build(50000, 80))
		verdict, out := run(t, f.NpFromUplink, in)
		require.EqualValues(t, ok, verdict, "a cluster address is the stack's matter")
		require.Equal(t, in, out)

		key := bpf.NetproxySvcKey{Addr: addr(f.node), Port: port(80), Proto: proto}
		f.service(bpf.NetproxySvc{
			Key: key, Id: 9, Lbase: map[byte]uint32{tcp: 0, udp: 1}[proto], Ln: 1,
			Flags: bpf.NetproxySvcFlagsNP_SVC_EXTERNAL | bpf.NetproxySvcFlagsNP_SVC_EXT_LOCAL,
		})
		verdict, out = run(t, f.NpFromUplink, frame(client, f.node, proto, build(50000, 80)))
		require.EqualValues(t, redirect, verdict)
		got := read(out)
		require.True(t, got.good)
		require.Equal(t, at(f.peer, 8080), got.dst)
		require.Equal(t, client, got.src.Addr(), "the client's address is kept")
	})
}

// Whatever bytes come: a verdict, never a pass of what is not the pod's.
func FuzzFromPod(f *testing.F) {
	v4, v6 := newFixture(f, false), newFixture(f, true)
	f.Add(frame(v4.pod, v4.vip, tcp, segment(40000, 80, 2)))
	f.Add(frame(v6.pod, v6.vip, udp, datagram(40000, 80)))
	proto, l4 := unreachable(false, packet(v4.pod, v4.vip, udp, datagram(1, 80)))
	f.Add(frame(v4.pod, v4.peer, proto, l4))
	proto, l4 = unreachable(true, packet(v6.pod, v6.vip, udp, datagram(1, 80)))
	f.Add(frame(v6.pod, v6.peer, proto, l4))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 15 || len(in) > 3000 {
			return
		}
		for _, x := range []*fixture{v4, v6} {
			opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: struct {
				_       [40]byte
				Ifindex uint32
				_       [148]byte
			}{Ifindex: loopback}}
			verdict, err := x.NpFromPod.Run(opts)
			if err != nil {
				return // the kernel itself refuses the frame
			}
			if verdict != ok && verdict != dropped && verdict != redirect {
				t.Fatalf("verdict %d", verdict)
			}
		}
	})
}
