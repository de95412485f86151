/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Where a packet goes once it is what it will be. */
#pragma once

#include "np_nat.h"

#define NP_PACKET_HOST 0

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

static __always_inline int np_forward(struct __sk_buff *skb, const struct packet *p)
{
	struct ep *ep = bpf_map_lookup_elem(&np_eps, &p->dst);
	struct route *route;

	if (ep)
		return np_to_local(skb, ep);
	route = np_route_of(&p->dst);
	if (!route || route->flags & NP_ROUTE_LOCAL)
		return TC_ACT_OK;
	if (route->flags & NP_ROUTE_TUNNEL && np_tunnel_ifindex)
		return bpf_redirect(np_tunnel_ifindex, 0);
	return np_drop_packet(NP_DROP_NO_NODE);
}
