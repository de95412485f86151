/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Where a packet goes once it is what it will be. */
#pragma once

#include "np_nat.h"

#define NP_PACKET_HOST 0
#define NP_AF_INET 2
#define NP_AF_INET6 10

static __always_inline struct route *np_route_of(const struct addr *dst)
{
	struct prefix key = {.len = 128, .addr = *dst};

	return bpf_map_lookup_elem(&np_routes, &key);
}

static __always_inline int np_drop_packet(enum drop why)
{
	np_count_drop(why);
	return TC_ACT_SHOT;
}

/* Straight into a pod of this node, past the host's stack; only from ingress hooks. */
static __always_inline int np_to_local(struct __sk_buff *skb, const struct ep *ep)
{
	if (bpf_skb_store_bytes(skb, 0, ep->mac, sizeof(ep->mac), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(ep->mac), ep->host_mac, sizeof(ep->host_mac), 0))
		return np_drop_packet(NP_DROP_REWRITE);
	return bpf_redirect_peer(ep->ifindex, 0);
}

/* An answer to a client outside leaves by the device that the routes name. The stack would not take it: its source is
 * one of the node's own addresses, and it came from a device. */
static __always_inline int np_to_client(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {.ifindex = skb->ifindex};
	long rc;

	if (p->v6) {
		fib.family = NP_AF_INET6;
		for (int i = 0; i < 4; i++) {
			fib.ipv6_src[i] = p->src.w[i];
			fib.ipv6_dst[i] = p->dst.w[i];
		}
	} else {
		fib.family = NP_AF_INET;
		fib.ipv4_src = p->src.w[3];
		fib.ipv4_dst = p->dst.w[3];
	}
	rc = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return np_drop_packet(NP_DROP_NO_ROUTE);
	return bpf_redirect_neigh(fib.ifindex, NULL, 0, 0);
}

/* From ingress hooks. */
static __always_inline int np_forward(struct __sk_buff *skb, const struct packet *p)
{
	struct ep *ep = bpf_map_lookup_elem(&np_eps, &p->dst);
	struct route *route;

	if (ep)
		return np_to_local(skb, ep);
	route = np_route_of(&p->dst);
	if (!route)
		return p->reverse ? np_to_client(skb, p) : TC_ACT_OK;
	if (route->flags & NP_ROUTE_LOCAL)
		return TC_ACT_OK;
	if (route->flags & NP_ROUTE_TUNNEL && np_tunnel_ifindex)
		return bpf_redirect(np_tunnel_ifindex, 0);
	return np_drop_packet(NP_DROP_NO_NODE);
}
