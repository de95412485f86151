/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Both directions of the host side of a pod's veth. */
#pragma once

#include "np_route.h"

static __always_inline bool np_is_link_local(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool np_is_multicast6(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool np_is_unset(const struct addr *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

/* Neighbour discovery and its like never leave the link: the pod's neighbours are permanent, the host's stack
 * may answer what is asked nevertheless. */
static __always_inline bool np_stays_on_link(const struct packet *p)
{
	if (!p->v6)
		return false;
	return (np_is_link_local(&p->src) || np_is_unset(&p->src)) && (np_is_link_local(&p->dst) || np_is_multicast6(&p->dst));
}

/* From the pod. */
SEC("tc")
int np_from_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct packet p;
	struct pod_if *from;

	if (skb->protocol == bpf_htons(NP_ETH_ARP))
		return TC_ACT_OK;
	from = bpf_map_lookup_elem(&np_ifs, &ifindex);
	if (!from)
		return np_drop_packet(NP_DROP_UNKNOWN_LINK);
	if (!np_parse(skb, &p))
		return np_drop_packet(NP_DROP_MALFORMED);
	if (np_stays_on_link(&p))
		return TC_ACT_OK;
	if (!np_addr_eq(&p.src, p.v6 ? &from->ip6 : &from->ip4))
		return np_drop_packet(NP_DROP_SPOOFED);
	if (np_service(skb, &p) == NP_DROPPED)
		return TC_ACT_SHOT;
	return np_forward(skb, &p);
}

/* From the host's stack to the pod: replies of flows translated on their way out. */
SEC("tc")
int np_to_pod(struct __sk_buff *skb)
{
	struct packet p;

	if (np_parse(skb, &p) && np_service_known(skb, &p) == NP_DROPPED)
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}
