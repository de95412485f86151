/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Both directions of the node's uplinks: services for clients outside the cluster. Whatever is none of a service's
 * passes as it is. */
#pragma once

#include "np_route.h"

static __always_inline bool np_is_self(const struct addr *a)
{
	struct node *n = bpf_map_lookup_elem(&np_nodeips, a);

	return n && n->flags & NP_NODE_SELF;
}

/* The service that a client outside may reach at this address. */
static __always_inline struct svc *np_svc_outside(const struct tuple *t)
{
	struct svc *svc = np_svc_at(&t->dst, t->dport, t->proto);
	__u32 port = bpf_ntohs(t->dport);
	struct addr any = {};

	if (svc)
		return svc->flags & NP_SVC_EXTERNAL ? svc : NULL;
	if (!np_nodeport_hi || port < np_nodeport_lo || port > np_nodeport_hi || !np_is_self(&t->dst))
		return NULL;
	if (np_addr_is4(&t->dst))
		any = np_addr4(0);
	return np_svc_at(&any, t->dport, t->proto);
}

/* The first packet of a client outside. Its address is kept where the answer comes by this node anyhow: from
 * endpoints here by policy, and from this node's own. */
static __always_inline struct nat *np_nat_outside(struct packet *p, const struct svc *svc, enum drop *why)
{
	bool local = svc->flags & NP_SVC_EXT_LOCAL;
	struct addr src = p->t.src;
	struct backend *b;
	struct nat *e;
	__u32 index;

	b = np_pick(svc, &src, local, &index);
	if (!b) {
		*why = NP_DROP_NO_BACKEND;
		return NULL;
	}
	if (!local && !np_is_self(&b->addr))
		src = np_nat_source(p->v6);
	e = np_nat_new(p, index, &src);
	if (!e)
		*why = NP_DROP_NO_FLOW;
	return e;
}

SEC("tc")
int np_from_uplink(struct __sk_buff *skb)
{
	enum drop why = NP_DROP_NONE;
	struct packet p;
	struct svc *svc;
	struct nat *e;

	if (!np_parse(skb, &p) || !p.has_ports)
		return TC_ACT_OK;
	e = np_nat_find(&p);
	if (!e) {
		svc = p.inner ? NULL : np_svc_outside(&p.t);
		if (!svc)
			return TC_ACT_OK;
		e = np_nat_outside(&p, svc, &why);
		if (!e)
			return np_drop_packet(why);
	}
	if (!np_translate(skb, &p, e))
		return np_drop_packet(NP_DROP_REWRITE);
	return np_forward(skb, &p);
}

/* Answers of endpoints that are the node itself. */
SEC("tc")
int np_to_uplink(struct __sk_buff *skb)
{
	struct packet p;

	if (np_parse(skb, &p) && np_service_known(skb, &p) == NP_DROPPED)
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}
