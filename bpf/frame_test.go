package bpf_test

import (
	"encoding/binary"
	"net/netip"

	"github.com/rutter-project/rutter/bpf"
)

const (
	tcp, udp     = 6, 17
	icmp4, icmp6 = 1, 58
)

// frame builds an Ethernet frame with right checksums around a transport payload.
func frame(src, dst netip.Addr, proto byte, l4 []byte) []byte {
	out := make([]byte, 14)
	if src.Is6() {
		out[12], out[13] = 0x86, 0xdd
	} else {
		out[12], out[13] = 0x08, 0x00
	}
	return append(out, packet(src, dst, proto, l4)...)
}

func packet(src, dst netip.Addr, proto byte, l4 []byte) []byte {
	l4 = append([]byte(nil), l4...)
	if at, ok := checkAt(proto); ok {
		binary.BigEndian.PutUint16(l4[at:], 0)
		binary.BigEndian.PutUint16(l4[at:], ^sum(pseudo(src, dst, proto, len(l4)), l4))
	}
	if src.Is6() {
		h := make([]byte, 40)
		h[0] = 0x60
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		h[6], h[7] = proto, 64
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
		return append(h, l4...)
	}
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(l4)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum(h))
	return append(h, l4...)
}

func checkAt(proto byte) (int, bool) {
	at, ok := map[byte]int{tcp: 16, udp: 6, icmp4: 2, icmp6: 2}[proto]
	return at, ok
}

// pseudo is the header that transport checksums count; ICMP for IPv4 has none.
func pseudo(src, dst netip.Addr, proto byte, n int) []byte {
	if proto == icmp4 {
		return nil
	}
	out := append(src.AsSlice(), dst.AsSlice()...)
	return append(out, 0, 0, byte(n>>8), byte(n), 0, proto)
}

func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i := 0; i+1 < len(p); i += 2 {
			s += uint32(p[i])<<8 | uint32(p[i+1])
		}
		if len(p)%2 == 1 {
			s += uint32(p[len(p)-1]) << 8
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func segment(sport, dport uint16, flags byte) []byte {
	out := make([]byte, 20, 25)
	binary.BigEndian.PutUint16(out, sport)
	binary.BigEndian.PutUint16(out[2:], dport)
	out[12], out[13] = 0x50, flags
	return append(out, "hello"...) // odd, for the checksum's sake
}

func datagram(sport, dport uint16) []byte {
	out := make([]byte, 8, 13)
	binary.BigEndian.PutUint16(out, sport)
	binary.BigEndian.PutUint16(out[2:], dport)
	binary.BigEndian.PutUint16(out[4:], 13)
	return append(out, "hello"...)
}

// unreachable is an ICMP error that quotes the beginning of a packet.
func unreachable(v6 bool, quoted []byte) (proto byte, l4 []byte) {
	h := make([]byte, 8)
	h[0], h[1] = 3, 3
	proto = icmp4
	if v6 {
		h[0], h[1] = 1, 4
		proto = icmp6
	}
	return proto, append(h, quoted...)
}

// flow is what a frame says of its ends; good tells whether all its checksums are right.
type flow struct {
	src, dst netip.AddrPort
	good     bool
}

func read(b []byte) flow { return readPacket(b[14:], true) }

func readPacket(p []byte, whole bool) flow {
	var src, dst netip.Addr
	var l4 []byte
	var proto byte
	good := true
	if p[0]>>4 == 6 {
		src, dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		proto, l4 = p[6], p[40:]
	} else {
		src, dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		proto, l4 = p[9], p[20:]
		good = sum(p[:20]) == 0xffff
	}
	if whole {
		good = good && sum(pseudo(src, dst, proto, len(l4)), l4) == 0xffff
	}
	if proto == icmp4 || proto == icmp6 {
		return flow{netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0), good}
	}
	port := func(at int) uint16 { return binary.BigEndian.Uint16(l4[at:]) }
	return flow{netip.AddrPortFrom(src, port(0)), netip.AddrPortFrom(dst, port(2)), good}
}

func addr(a netip.Addr) bpf.NetproxyAddr {
	var out bpf.NetproxyAddr
	b := a.As16()
	for i := range out.W {
		out.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func port(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}
