/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Both directions of the node's vxlan device, which carries what is between nodes. */
#pragma once

#include "np_route.h"

#define NP_TUNNEL_TTL 64

SEC("tc")
int np_from_tunnel(struct __sk_buff *skb)
{
	struct packet p;
	struct ep *ep;

	if (!np_parse(skb, &p))
		return np_drop_packet(NP_DROP_MALFORMED);
	/* The inner link addresses mean nothing; kernels before 6.15 want this before the redirect, too. */
	bpf_skb_change_type(skb, NP_PACKET_HOST);
	if (np_service_known(skb, &p) == NP_DROPPED)
		return TC_ACT_SHOT;
	ep = bpf_map_lookup_elem(&np_eps, &p.dst);
	if (ep)
		return np_to_local(skb, ep);
	return p.reverse ? np_to_client(skb, &p) : TC_ACT_OK;
}

SEC("tc")
int np_to_tunnel(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {.tunnel_id = np_vni, .tunnel_ttl = NP_TUNNEL_TTL};
	__u64 flags = 0;
	struct route *route;
	struct packet p;

	if (!np_parse(skb, &p))
		return np_drop_packet(NP_DROP_MALFORMED);
	route = np_route_of(&p.dst);
	if (!route || !(route->flags & NP_ROUTE_TUNNEL))
		return np_drop_packet(NP_DROP_NO_NODE);
	if (np_addr_is4(&route->node)) {
		key.remote_ipv4 = bpf_ntohl(route->node.w[3]);
		flags = BPF_F_ZERO_CSUM_TX;
	} else {
		for (int i = 0; i < 4; i++)
			key.remote_ipv6[i] = route->node.w[i];
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return np_drop_packet(NP_DROP_REWRITE);
	return TC_ACT_OK;
}
