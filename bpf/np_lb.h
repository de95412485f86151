/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Choice of a backend; used by the socket hooks and by the packet path. */
#pragma once

#include "np_maps.h"

static __always_inline bool np_addr_eq(const struct addr *a, const struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline struct addr np_addr4(__u32 ip)
{
	struct addr a = {.w = {0, 0, bpf_htonl(0xffff), ip}};

	return a;
}

static __always_inline bool np_addr_is4(const struct addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline bool np_key_eq(const struct svc_key *a, const struct svc_key *b)
{
	return np_addr_eq(&a->addr, &b->addr) && a->port == b->port && a->proto == b->proto;
}

/* What the entry of key points at now. */
static __noinline struct svc *np_svc_of(const struct svc_key *key)
{
	struct svc_entry *entry = bpf_map_lookup_elem(&np_svc, key);
	struct svc *svc;
	__u32 at;

	if (!entry)
		return NULL;
	at = *(volatile __u32 *)&entry->record;
	svc = bpf_map_lookup_elem(&np_records, &at);
	if (!svc || !np_key_eq(&svc->key, key)) /* the entry was deleted since, and its element is another key's */
		return NULL;
	return svc;
}

static __always_inline struct svc *np_svc_at(const struct addr *addr, __be16 port, __u8 proto)
{
	struct svc_key key = {.addr = *addr, .port = port, .proto = proto};

	return np_svc_of(&key);
}

/* The service behind an address and port: an explicit entry, else a NodePort if the address is a node's,
 * (each family has its own), else the entry that refuses the rest of a known address. */
static __always_inline struct svc *np_svc_find(const struct addr *addr, __be16 port, __u8 proto)
{
	struct svc *svc = np_svc_at(addr, port, proto);
	__u32 p = bpf_ntohs(port);

	if (svc)
		return svc;
	if (np_nodeport_hi && p >= np_nodeport_lo && p <= np_nodeport_hi &&
	    bpf_map_lookup_elem(&np_nodeips, addr)) {
		struct addr any = {};

		if (np_addr_is4(addr))
			any = np_addr4(0);
		return np_svc_at(&any, port, proto);
	}
	return np_svc_at(addr, 0, 0);
}

static __always_inline struct backend *np_backend_at(__u32 index)
{
	return bpf_map_lookup_elem(&np_backends, &index);
}

/* A backend that a flow was given before may be kept while it serves. */
static __always_inline struct backend *np_backend_kept(__u32 index, __u32 gen)
{
	struct backend *b = np_backend_at(index);

	if (!b || b->gen != gen || b->flags & NP_BACKEND_DEAD)
		return NULL;
	return b;
}

static __always_inline struct backend *np_affine(const struct svc *svc, const struct affinity_key *key,
						    __u32 *index)
{
	struct affinity *a = bpf_map_lookup_elem(&np_affinity, key);
	struct backend *b;
	__u64 now = bpf_ktime_get_ns();
	__u32 at;

	if (!a || now - a->seen > (__u64)svc->affinity * 1000000000ull)
		return NULL;
	at = *(volatile __u32 *)&a->backend;
	b = np_backend_kept(at, a->gen);
	if (!b || b->svc != svc->id) /* the kernel may have given a's element to another client or service meanwhile */
		return NULL;
	if (b->flags & NP_BACKEND_TERMINATING && !(svc->flags & NP_SVC_TERMINATING))
		return NULL;
	*index = at;
	a->seen = now;
	return b;
}

enum pick_verdict {
	NP_PICK_NONE = -1, /* nothing to offer */
	NP_PICK_DEAD = -2, /* the choice fell on an endpoint that is no more */
};

/* The index of one of the backends, or a verdict. */
static __always_inline int np_pick_once(const struct svc *svc, bool local)
{
	__u32 base = local ? svc->lbase : svc->base;
	__u32 n = local ? svc->ln : svc->n;
	__u32 slot, *at;
	struct backend *b;

	if (svc->flags & NP_SVC_REFUSE || !n)
		return NP_PICK_NONE;
	slot = base + bpf_get_prandom_u32() % n;
	at = bpf_map_lookup_elem(&np_slots, &slot);
	if (!at || !*at)
		return NP_PICK_NONE;
	b = np_backend_at(*at - 1);
	if (!b || b->flags & NP_BACKEND_DEAD)
		return NP_PICK_DEAD;
	return *at - 1;
}

/* Picks again by what the entry says now: backends die after the entry has left them, so whoever meets a dead one
 * holds an old record. Each turn needs another change between two reads; the bound is for the verifier. Not static:
 * so the verifier looks at it once, not once per way that leads here. */
__noinline int np_pick_again(const struct svc_key *key, bool local)
{
	if (!key)
		return NP_PICK_NONE;
	for (int i = 0; i < 8; i++) {
		struct svc *svc = np_svc_of(key);
		int got = svc ? np_pick_once(svc, local) : NP_PICK_NONE;

		if (got != NP_PICK_DEAD)
			return got;
	}
	return NP_PICK_NONE;
}

static __always_inline struct backend *np_pick_random(const struct svc *svc, bool local, __u32 *index)
{
	int got = np_pick_once(svc, local);

	if (got == NP_PICK_DEAD) {
		struct svc_key key = svc->key;

		got = np_pick_again(&key, local);
	}
	if (got < 0)
		return NULL;
	*index = got;
	return np_backend_at(*index);
}

/* NULL when the service has nothing to offer. */
static __always_inline struct backend *np_pick(const struct svc *svc, const struct addr *client,
						  bool local, __u32 *index)
{
	struct affinity_key key = {.client = *client, .svc = svc->id};
	struct backend *b;

	if (!svc->affinity)
		return np_pick_random(svc, local, index);
	b = np_affine(svc, &key, index);
	if (b)
		return b;
	b = np_pick_random(svc, local, index);
	if (b) {
		struct affinity a = {.backend = *index, .gen = b->gen, .seen = bpf_ktime_get_ns()};

		bpf_map_update_elem(&np_affinity, &key, &a, BPF_ANY);
	}
	return b;
}
