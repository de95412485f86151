/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Translation of packets, for clients that the socket hooks do not see and for those from outside. */
#pragma once

#include "np_parse.h"

/* Outside ip_local_port_range, so that a translated flow never meets a direct one of the same tuple. */
#define NP_NAT_PORT_FIRST 61000
#define NP_NAT_PORTS 4536
#define NP_NAT_TRIES 32
#define NP_NAT_SECOND 1000000000ull
#define NP_NAT_REFRESH NP_NAT_SECOND
#define NP_NAT_UDP_IDLE (120 * NP_NAT_SECOND)
#define NP_NAT_TCP_IDLE (6 * 3600 * NP_NAT_SECOND)

#define NP_TCP_CHECK 16
#define NP_UDP_CHECK 6
#define NP_ICMP_CHECK 2
#define NP_IP4_CHECK 10
#define NP_IP4_SRC 12
#define NP_IP6_SRC 8

static __always_inline void np_reverse(struct tuple *out, const struct tuple *in)
{
	out->src = in->dst;
	out->dst = in->src;
	out->sport = in->dport;
	out->dport = in->sport;
	out->proto = in->proto;
	out->pad[0] = out->pad[1] = out->pad[2] = 0;
}

/* Writes the entry at key's other half anew if it is gone (an LRU map may evict one half alone). */
static __noinline void np_nat_restore(const struct tuple *key, const struct nat *e)
{
	struct nat other = {};
	struct tuple at;

	np_reverse(&at, &e->to);
	np_reverse(&other.to, key);
	other.backend = e->backend;
	other.gen = e->gen;
	other.flags = (e->flags & NP_NAT_REVERSE) ^ NP_NAT_REVERSE;
	other.seen = e->seen;
	bpf_map_update_elem(&np_nat, &at, &other, BPF_NOEXIST);
}

static __noinline void np_nat_forget(const struct tuple *key, const struct nat *e)
{
	struct tuple at;

	np_reverse(&at, &e->to);
	bpf_map_delete_elem(&np_nat, &at);
	bpf_map_delete_elem(&np_nat, key);
}

static __noinline void np_nat_end(struct nat *e, bool reset)
{
	struct tuple at;
	struct nat *other;

	np_reverse(&at, &e->to);
	other = bpf_map_lookup_elem(&np_nat, &at);
	e->flags |= NP_NAT_FIN;
	if (reset || (other && other->flags & NP_NAT_FIN)) {
		e->flags |= NP_NAT_CLOSING;
		if (other)
			other->flags |= NP_NAT_CLOSING;
	}
}

/* A forward entry that its packet must not follow: the flow is to be given a backend anew. */
static __always_inline bool np_nat_stale(const struct packet *p, const struct nat *e)
{
	if (e->flags & NP_NAT_REVERSE)
		return false;
	if (p->t.proto == NP_TCP)
		return e->flags & NP_NAT_CLOSING && (p->tcp_flags & (NP_TCP_SYN | NP_TCP_ACK)) == NP_TCP_SYN;
	return !np_backend_kept(e->backend, e->gen);
}

/* What the packet becomes if its flow is known. */
static __always_inline struct nat *np_nat_find(const struct packet *p)
{
	struct nat *e = bpf_map_lookup_elem(&np_nat, &p->t);
	__u64 now;

	if (!e || p->inner)
		return e;
	if (np_nat_stale(p, e)) {
		np_nat_forget(&p->t, e);
		return NULL;
	}
	now = bpf_ktime_get_ns();
	if (now - e->seen > NP_NAT_REFRESH) {
		e->seen = now;
		np_nat_restore(&p->t, e);
	}
	if (p->tcp_flags & (NP_TCP_FIN | NP_TCP_RST))
		np_nat_end(e, p->tcp_flags & NP_TCP_RST);
	return e;
}

/* A flow that ended, or was not heard of for long: its port may be given to another. */
static __always_inline bool np_nat_over(const struct nat *e, __u8 proto)
{
	__u64 idle = bpf_ktime_get_ns() - e->seen;

	return e->flags & NP_NAT_CLOSING || idle > (proto == NP_TCP ? NP_NAT_TCP_IDLE : NP_NAT_UDP_IDLE);
}

/* Takes the reverse half with a free port into rev_key; that of a flow that is over may be taken. Returns 0 if there
 * is none. Not static, for the verifier's sake. */
__noinline int np_nat_take(struct tuple *rev_key, struct nat *rev)
{
	__u32 start = bpf_get_prandom_u32();

	if (!rev_key || !rev)
		return 0;
	for (int i = 0; i < NP_NAT_TRIES; i++) {
		struct nat *old;

		rev_key->dport = bpf_htons(NP_NAT_PORT_FIRST + (start + i) % NP_NAT_PORTS);
		if (!bpf_map_update_elem(&np_nat, rev_key, rev, BPF_NOEXIST))
			return 1;
		old = bpf_map_lookup_elem(&np_nat, rev_key);
		if (old && np_nat_over(old, rev_key->proto)) {
			np_nat_forget(rev_key, old);
			if (!bpf_map_update_elem(&np_nat, rev_key, rev, BPF_NOEXIST))
				return 1;
		}
	}
	return 0;
}

/* Makes both entries of a new flow of p to backend index, its source address becoming src. */
static __noinline struct nat *np_nat_new(const struct packet *p, __u32 index, const struct addr *src)
{
	struct backend *b = np_backend_at(index);
	struct tuple rev_key = {.proto = p->t.proto};
	struct nat half = {.backend = index, .flags = NP_NAT_REVERSE};

	if (!b)
		return NULL;
	half.gen = b->gen;
	half.seen = bpf_ktime_get_ns();
	rev_key.src = b->addr;
	rev_key.sport = b->port;
	rev_key.dst = *src;
	np_reverse(&half.to, &p->t);
	if (!np_nat_take(&rev_key, &half))
		return NULL;
	np_reverse(&half.to, &rev_key);
	half.flags = 0;
	if (bpf_map_update_elem(&np_nat, &p->t, &half, BPF_ANY)) {
		bpf_map_delete_elem(&np_nat, &rev_key);
		return NULL;
	}
	return bpf_map_lookup_elem(&np_nat, &p->t);
}

/* One's complement difference that turning the first pair of addresses into the second makes. */
static __always_inline __s64 np_addr_diff(bool v6, struct addr *src, struct addr *dst, struct addr *nsrc,
					  struct addr *ndst)
{
	__s64 sum;

	if (!v6) {
		__u32 old[2] = {src->w[3], dst->w[3]};
		__u32 new[2] = {nsrc->w[3], ndst->w[3]};

		return bpf_csum_diff(old, sizeof(old), new, sizeof(new), 0);
	}
	sum = bpf_csum_diff(src->w, sizeof(*src), nsrc->w, sizeof(*nsrc), 0);
	return bpf_csum_diff(dst->w, sizeof(*dst), ndst->w, sizeof(*ndst), sum);
}

static __always_inline bool np_store_addrs(struct __sk_buff *skb, bool v6, __u32 off, struct addr *src,
					   struct addr *dst)
{
	if (!v6) {
		__u32 both[2] = {src->w[3], dst->w[3]};

		return !bpf_skb_store_bytes(skb, off + NP_IP4_SRC, both, sizeof(both), 0);
	}
	return !bpf_skb_store_bytes(skb, off + NP_IP6_SRC, src, sizeof(*src), 0) &&
	       !bpf_skb_store_bytes(skb, off + NP_IP6_SRC + sizeof(*src), dst, sizeof(*dst), 0);
}

static __always_inline bool np_store_ports(struct __sk_buff *skb, __u32 off, __be16 sport, __be16 dport)
{
	__be16 ports[2] = {sport, dport};

	return !bpf_skb_store_bytes(skb, off, ports, sizeof(ports), 0);
}

static __always_inline __u32 np_ports_word(__be16 sport, __be16 dport)
{
	union {
		__be16 half[2];
		__u32 word;
	} u = {.half = {sport, dport}};

	return u.word;
}

/* Rewrites the outer addresses; the IPv4 header checksum follows. */
static __always_inline bool np_rewrite_outer(struct __sk_buff *skb, struct packet *p, struct addr *src,
					     struct addr *dst, __s64 diff)
{
	if (!p->v6 && bpf_l3_csum_replace(skb, NP_ETH_LEN + NP_IP4_CHECK, 0, diff, 0))
		return false;
	return np_store_addrs(skb, p->v6, NP_ETH_LEN, src, dst);
}

/* An ordinary packet of the flow becomes one of to. */
static __noinline bool np_rewrite_packet(struct __sk_buff *skb, struct packet *p, struct tuple *to)
{
	bool tcp = p->t.proto == NP_TCP;
	__u32 check = p->l4 + (tcp ? NP_TCP_CHECK : NP_UDP_CHECK);
	__u64 mangled = tcp ? 0 : BPF_F_MARK_MANGLED_0;
	__s64 diff = np_addr_diff(p->v6, &p->t.src, &p->t.dst, &to->src, &to->dst);

	if (bpf_l4_csum_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | mangled) ||
	    bpf_l4_csum_replace(skb, check, np_ports_word(p->t.sport, p->t.dport),
				np_ports_word(to->sport, to->dport), mangled | 4))
		return false;
	return np_rewrite_outer(skb, p, &to->src, &to->dst, diff) &&
	       np_store_ports(skb, p->l4, to->sport, to->dport);
}

/* An ICMP error about the flow: the quoted packet becomes the one that the receiver had sent. */
static __noinline bool np_rewrite_error(struct __sk_buff *skb, struct packet *p, struct tuple *to)
{
	__u32 check = p->l4 + NP_ICMP_CHECK;
	struct addr src = np_addr_eq(&p->src, &p->t.src) ? to->src : p->src;
	__s64 inner = np_addr_diff(p->v6, &p->t.dst, &p->t.src, &to->dst, &to->src);
	__s64 outer = np_addr_diff(p->v6, &p->src, &p->dst, &src, &to->dst);

	/* The quoted IPv4 header's checksum cancels out its addresses' change; IPv6 has none, but its ICMP
	 * counts the outer addresses as well. */
	if (p->v6) {
		if (bpf_l4_csum_replace(skb, check, 0, inner, 0) ||
		    bpf_l4_csum_replace(skb, check, 0, outer, BPF_F_PSEUDO_HDR))
			return false;
	} else if (bpf_l3_csum_replace(skb, p->inner + NP_IP4_CHECK, 0, inner, 0)) {
		return false;
	}
	if (bpf_l4_csum_replace(skb, check, np_ports_word(p->t.dport, p->t.sport),
				np_ports_word(to->dport, to->sport), 4))
		return false;
	return np_store_addrs(skb, p->v6, p->inner, &to->dst, &to->src) &&
	       np_store_ports(skb, p->inner_l4, to->dport, to->sport) &&
	       np_rewrite_outer(skb, p, &src, &to->dst, outer);
}

/* Rewrites the packet as its entry says and makes p tell what it is now. */
static __always_inline bool np_translate(struct __sk_buff *skb, struct packet *p, const struct nat *e)
{
	struct tuple to = e->to;
	bool done = p->inner ? np_rewrite_error(skb, p, &to) : np_rewrite_packet(skb, p, &to);

	if (p->inner) {
		if (np_addr_eq(&p->src, &p->t.src))
			p->src = to.src;
	} else {
		p->src = to.src;
	}
	p->dst = to.dst;
	p->t = to;
	p->reverse = (e->flags & NP_NAT_REVERSE) != 0;
	return done;
}

enum service_verdict {
	NP_PASS,       /* no service's packet; unchanged */
	NP_TRANSLATED, /* rewritten: p tells the new tuple */
	NP_DROPPED,    /* counted */
};

static __always_inline struct addr np_nat_source(bool v6)
{
	struct addr a = {.w = {np_nat_ip6[0], np_nat_ip6[1], np_nat_ip6[2], np_nat_ip6[3]}};

	return v6 ? a : np_addr4(np_nat_ip4);
}

static __always_inline enum service_verdict np_drop_service(enum drop why)
{
	np_count_drop(why);
	return NP_DROPPED;
}

/* Translates by a known flow or, for the first packet, by the service tables. */
static __always_inline enum service_verdict np_service(struct __sk_buff *skb, struct packet *p)
{
	struct nat *e = NULL;
	struct backend *b;
	struct svc *svc;
	struct addr src;
	__u32 index;

	if (p->has_ports)
		e = np_nat_find(p);
	if (!e) {
		svc = p->has_ports && !p->inner ? np_svc_find(&p->t.dst, p->t.dport, p->t.proto)
						: np_svc_at(&p->dst, 0, 0);
		if (!svc)
			return NP_PASS;
		if (p->fragment)
			return np_drop_service(NP_DROP_FRAGMENT);
		if (svc->flags & NP_SVC_REFUSE)
			return np_drop_service(NP_DROP_NO_PORT);
		b = np_pick(svc, &p->t.src, svc->flags & NP_SVC_LOCAL, &index);
		if (!b)
			return np_drop_service(NP_DROP_NO_BACKEND);
		src = p->t.src;
		if (np_addr_eq(&src, &b->addr)) /* to itself: it would drop its own address */
			src = np_nat_source(p->v6);
		e = np_nat_new(p, index, &src);
		if (!e)
			return np_drop_service(NP_DROP_NO_FLOW);
	}
	if (!np_translate(skb, p, e))
		return np_drop_service(NP_DROP_REWRITE);
	return NP_TRANSLATED;
}

/* Translates packets of flows known already; others pass. */
static __always_inline enum service_verdict np_service_known(struct __sk_buff *skb, struct packet *p)
{
	struct nat *e = p->has_ports ? np_nat_find(p) : NULL;

	if (!e)
		return NP_PASS;
	if (!np_translate(skb, p, e))
		return np_drop_service(NP_DROP_REWRITE);
	return NP_TRANSLATED;
}
