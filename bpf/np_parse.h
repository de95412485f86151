/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* From bytes to a tuple. Every parser checks its own bounds (by the load helper) and returns true or false. */
#pragma once

#include "np_lb.h"

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2

#define NP_ETH_LEN 14
#define NP_ETH_IP4 0x0800
#define NP_ETH_ARP 0x0806
#define NP_ETH_IP6 0x86dd
#define NP_IPV6_FRAGMENT 44

#define NP_TCP_FIN 0x01
#define NP_TCP_SYN 0x02
#define NP_TCP_RST 0x04
#define NP_TCP_ACK 0x10

struct ip4hdr {
	__u8 vihl, tos;
	__be16 len, id, frag;
	__u8 ttl, proto;
	__be16 check;
	__u32 src, dst;
};

struct ip6hdr {
	__u32 flow;
	__be16 len;
	__u8 next, hops;
	struct addr src, dst;
};

struct icmphdr {
	__u8 type, code;
	__be16 check;
	__u32 rest;
};

/* What a packet is. For an ICMP error about a flow the tuple is that of the flow's packets coming the
 * error's way, and inner* say where the quoted packet lies. */
struct packet {
	__u32 l4;       /* offset of the transport header */
	__u32 inner;    /* offset of the quoted IP header; 0 if the packet is no ICMP error */
	__u32 inner_l4;
	__u8 v6;
	__u8 has_ports; /* tuple is complete: may be translated */
	__u8 fragment;  /* any fragment, also the first */
	__u8 tcp_flags;
	__u8 reverse; /* was translated as an answer: its source is a service's address now */
	struct addr src, dst; /* of the outer header */
	struct tuple t;
};

static __always_inline bool np_load_ip4(struct __sk_buff *skb, __u32 off, struct addr *src, struct addr *dst,
					__u8 *proto, __u32 *l4, __u8 *fragment)
{
	struct ip4hdr h;

	if (bpf_skb_load_bytes(skb, off, &h, sizeof(h)) || (h.vihl >> 4) != 4 || (h.vihl & 15) < 5)
		return false;
	*src = np_addr4(h.src);
	*dst = np_addr4(h.dst);
	*proto = h.proto;
	*l4 = off + (h.vihl & 15) * 4;
	*fragment = (h.frag & bpf_htons(0x3fff)) != 0;
	return true;
}

static __always_inline bool np_load_ip6(struct __sk_buff *skb, __u32 off, struct addr *src, struct addr *dst,
					__u8 *proto, __u32 *l4, __u8 *fragment)
{
	struct ip6hdr h;

	if (bpf_skb_load_bytes(skb, off, &h, sizeof(h)) || (bpf_ntohl(h.flow) >> 28) != 6)
		return false;
	*src = h.src;
	*dst = h.dst;
	*proto = h.next;
	*l4 = off + sizeof(h);
	*fragment = h.next == NP_IPV6_FRAGMENT;
	return true;
}

static __always_inline bool np_load_ip(struct __sk_buff *skb, bool v6, __u32 off, struct addr *src,
				       struct addr *dst, __u8 *proto, __u32 *l4, __u8 *fragment)
{
	if (v6)
		return np_load_ip6(skb, off, src, dst, proto, l4, fragment);
	return np_load_ip4(skb, off, src, dst, proto, l4, fragment);
}

static __always_inline bool np_is_error(bool v6, __u8 type)
{
	if (v6)
		return type >= 1 && type <= 4;
	return type == 3 || type == 11 || type == 12;
}

/* Reads the packet quoted by an ICMP error into the tuple, reversed. */
static __always_inline void np_parse_error(struct __sk_buff *skb, struct packet *p)
{
	struct icmphdr icmp;
	struct addr src, dst;
	__be16 ports[2];
	__u8 proto, fragment;
	__u32 l4;

	if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)) || !np_is_error(p->v6, icmp.type))
		return;
	if (!np_load_ip(skb, p->v6, p->l4 + sizeof(icmp), &src, &dst, &proto, &l4, &fragment))
		return;
	if (fragment || (proto != NP_TCP && proto != NP_UDP) || bpf_skb_load_bytes(skb, l4, ports, sizeof(ports)))
		return;
	p->inner = p->l4 + sizeof(icmp);
	p->inner_l4 = l4;
	p->t.src = dst;
	p->t.dst = src;
	p->t.sport = ports[1];
	p->t.dport = ports[0];
	p->t.proto = proto;
	p->has_ports = 1;
}

static __always_inline void np_parse_ports(struct __sk_buff *skb, struct packet *p)
{
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return;
	if (p->t.proto == NP_TCP && bpf_skb_load_bytes(skb, p->l4 + 13, &p->tcp_flags, 1))
		return;
	p->t.sport = ports[0];
	p->t.dport = ports[1];
	p->has_ports = 1;
}

/* False: no IP packet, or one cut short. A packet without ports (or in fragments) has has_ports unset. */
static __always_inline bool np_parse(struct __sk_buff *skb, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	p->v6 = skb->protocol == bpf_htons(NP_ETH_IP6);
	if (!p->v6 && skb->protocol != bpf_htons(NP_ETH_IP4))
		return false;
	if (!np_load_ip(skb, p->v6, NP_ETH_LEN, &p->src, &p->dst, &p->t.proto, &p->l4, &p->fragment))
		return false;
	p->t.src = p->src;
	p->t.dst = p->dst;
	if (p->fragment)
		return true;
	switch (p->t.proto) {
	case NP_TCP:
	case NP_UDP:
		np_parse_ports(skb, p);
		break;
	case NP_ICMP:
	case NP_ICMPV6:
		np_parse_error(skb, p);
		break;
	}
	return true;
}
