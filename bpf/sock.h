/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Service translation at the socket: the kernel never sees the service address. */
#pragma once

#include "np_lb.h"

enum sock_verdict {
	NP_SOCK_REFUSE = 0, /* the values are what a sock_addr program returns */
	NP_SOCK_OK = 1,
};

static __always_inline struct addr np_sock_addr4(const struct bpf_sock_addr *ctx)
{
	return np_addr4(ctx->user_ip4);
}

static __always_inline struct addr np_sock_addr6(const struct bpf_sock_addr *ctx)
{
	struct addr a = {.w = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};

	return a;
}

static __always_inline void np_sock_set4(struct bpf_sock_addr *ctx, const struct addr *a, __be16 port)
{
	ctx->user_ip4 = a->w[3];
	ctx->user_port = port;
}

static __always_inline void np_sock_set6(struct bpf_sock_addr *ctx, const struct addr *a, __be16 port)
{
	ctx->user_ip6[0] = a->w[0];
	ctx->user_ip6[1] = a->w[1];
	ctx->user_ip6[2] = a->w[2];
	ctx->user_ip6[3] = a->w[3];
	ctx->user_port = port;
}

static __always_inline struct addr np_sock_client(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct addr a = {.w = {(__u32)cookie, (__u32)(cookie >> 32), 0, 0}};

	return a;
}

static __always_inline struct peer *np_peer_of_vip(struct peers *all, const struct addr *vip, __be16 vport)
{
	for (int i = 0; i < NP_UDP_PEERS; i++) {
		struct peer *p = &all->peer[i];

		if (p->vport == vport && np_addr_eq(&p->vip, vip))
			return p;
	}
	return NULL;
}

static __always_inline struct peer *np_peer_of_backend(struct peers *all, const struct addr *addr, __be16 port)
{
	for (int i = 0; i < NP_UDP_PEERS; i++) {
		struct peer *p = &all->peer[i];

		if (p->vport && p->port == port && np_addr_eq(&p->addr, addr))
			return p;
	}
	return NULL;
}

static __always_inline void np_peer_remember(struct peers *all, const struct peer *peer)
{
	struct peer *at = np_peer_of_vip(all, &peer->vip, peer->vport);

	if (!at)
		at = &all->peer[all->next++ % NP_UDP_PEERS];
	*at = *peer;
}

/* Chooses where a socket's traffic for dst:port goes. Fills peer and returns true for a service;
 * *verdict says whether there is a backend. */
static __always_inline bool np_sock_choose(struct bpf_sock_addr *ctx, __u8 proto, struct peer *peer, int *verdict)
{
	struct svc *svc = np_svc_find(&peer->vip, peer->vport, proto);
	struct addr client;
	struct backend *b;

	if (!svc)
		return false;
	client = np_sock_client(ctx);
	b = np_pick(svc, &client, svc->flags & NP_SVC_LOCAL, &peer->backend);
	if (!b) {
		bpf_set_retval(-NP_ECONNREFUSED);
		np_count_drop(NP_DROP_NO_BACKEND);
		*verdict = NP_SOCK_REFUSE;
		return true;
	}
	peer->addr = b->addr;
	peer->port = b->port;
	peer->gen = b->gen;
	*verdict = NP_SOCK_OK;
	return true;
}

/* True when ctx must be sent to peer->addr:port. */
static __always_inline bool np_sock_connect(struct bpf_sock_addr *ctx, struct peer *peer, int *verdict)
{
	__u8 proto = ctx->protocol;

	*verdict = NP_SOCK_OK;
	if (proto == NP_TCP) {
		struct peer *kept;

		if (!np_sock_choose(ctx, proto, peer, verdict)) {
			kept = bpf_sk_storage_get(&np_sk_tcp, ctx->sk, 0, 0);
			if (kept)
				kept->vport = 0;
			return false;
		}
		if (*verdict != NP_SOCK_OK)
			return false;
		kept = bpf_sk_storage_get(&np_sk_tcp, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (kept)
			*kept = *peer;
		return true;
	}
	if (proto == NP_UDP) {
		struct peers *all;

		if (!np_sock_choose(ctx, proto, peer, verdict) || *verdict != NP_SOCK_OK)
			return false;
		all = bpf_sk_storage_get(&np_sk_udp, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (all)
			np_peer_remember(all, peer);
		return true;
	}
	return false;
}

/* A datagram of an unconnected socket keeps the backend that the socket used before, while that serves. */
static __always_inline bool np_sock_send(struct bpf_sock_addr *ctx, struct peer *peer, int *verdict)
{
	struct peers *all;
	struct peer *kept;

	*verdict = NP_SOCK_OK;
	if (ctx->protocol != NP_UDP)
		return false;
	all = bpf_sk_storage_get(&np_sk_udp, ctx->sk, 0, 0);
	if (all) {
		kept = np_peer_of_vip(all, &peer->vip, peer->vport);
		if (kept && np_backend_kept(kept->backend, kept->gen)) {
			*peer = *kept;
			return true;
		}
	}
	if (!np_sock_choose(ctx, NP_UDP, peer, verdict) || *verdict != NP_SOCK_OK)
		return false;
	if (!all)
		all = bpf_sk_storage_get(&np_sk_udp, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (all)
		np_peer_remember(all, peer);
	return true;
}

/* The service address that the socket believes to talk to, for an address the kernel reports. */
static __always_inline struct peer *np_sock_reverse(struct bpf_sock_addr *ctx, const struct addr *addr, __be16 port)
{
	if (ctx->protocol == NP_TCP) {
		struct peer *p = bpf_sk_storage_get(&np_sk_tcp, ctx->sk, 0, 0);

		if (p && p->vport && p->port == port && np_addr_eq(&p->addr, addr))
			return p;
		return NULL;
	}
	if (ctx->protocol == NP_UDP) {
		struct peers *all = bpf_sk_storage_get(&np_sk_udp, ctx->sk, 0, 0);

		return all ? np_peer_of_backend(all, addr, port) : NULL;
	}
	return NULL;
}

#define NP_SOCK_FORWARD(family, hook, fn)                                                       \
	SEC("cgroup/" #hook #family)                                                            \
	int np_##hook##family(struct bpf_sock_addr *ctx)                                        \
	{                                                                                       \
		struct peer peer = {.vip = np_sock_addr##family(ctx), .vport = ctx->user_port}; \
		int verdict;                                                                    \
                                                                                                \
		if (fn(ctx, &peer, &verdict))                                                   \
			np_sock_set##family(ctx, &peer.addr, peer.port);                        \
		return verdict;                                                                 \
	}

#define NP_SOCK_REVERSE(family, hook)                                                           \
	SEC("cgroup/" #hook #family)                                                            \
	int np_##hook##family(struct bpf_sock_addr *ctx)                                        \
	{                                                                                       \
		struct addr addr = np_sock_addr##family(ctx);                                \
		struct peer *peer = np_sock_reverse(ctx, &addr, ctx->user_port);             \
                                                                                                \
		if (peer)                                                                       \
			np_sock_set##family(ctx, &peer->vip, peer->vport);                      \
		return NP_SOCK_OK;                                                              \
	}

NP_SOCK_FORWARD(4, connect, np_sock_connect)
NP_SOCK_FORWARD(6, connect, np_sock_connect)
NP_SOCK_FORWARD(4, sendmsg, np_sock_send)
NP_SOCK_FORWARD(6, sendmsg, np_sock_send)
NP_SOCK_REVERSE(4, recvmsg)
NP_SOCK_REVERSE(6, recvmsg)
NP_SOCK_REVERSE(4, getpeername)
NP_SOCK_REVERSE(6, getpeername)
