package datapath

import (
	"encoding/binary"
	"net/netip"

	"github.com/rutter-project/rutter/bpf"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

// addrOf is an address as the maps hold it.
func addrOf(a netip.Addr) bpf.NetproxyAddr {
	var out bpf.NetproxyAddr
	b := a.As16()
	for i := range out.W {
		out.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func netipOf(a bpf.NetproxyAddr) netip.Addr {
	var b [16]byte
	for i, w := range a.W {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// swap turns a port from host to network order or back.
func swap(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// prefixOf is a prefix as the longest-match map holds it: IPv4 lies in the last 32 of 128 bits.
func prefixOf(p netip.Prefix) bpf.NetproxyPrefix {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpf.NetproxyPrefix{Len: uint32(bits), Addr: addrOf(p.Addr())}
}

func keyOf(f resolve.Front) bpf.NetproxySvcKey {
	return bpf.NetproxySvcKey{Addr: addrOf(f.Addr), Port: swap(f.Port), Proto: uint8(f.Protocol)}
}
