/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shapes shared by the programs and, through BTF, by the Go side. */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define NP_TCP 6
#define NP_UDP 17
#define NP_ICMP 1
#define NP_ICMPV6 58
#define NP_SCTP 132

#define NP_ECONNREFUSED 111

/* An address in network order; IPv4 is ::ffff:a.b.c.d, so both families share maps and code. */
struct addr {
	__u32 w[4];
};

/* The front of a service. Port and protocol 0 refuse whatever no other entry of the address takes;
 * the unspecified address of a family is a NodePort. */
struct svc_key {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

enum svc_flags {
	NP_SVC_REFUSE = 1 << 0,      /* a known address, but no such port: refuse */
	NP_SVC_EXTERNAL = 1 << 1,    /* reachable from outside: NodePort, external or balancer address */
	NP_SVC_LOCAL = 1 << 2,       /* clients of the cluster use the local list (internalTrafficPolicy) */
	NP_SVC_EXT_LOCAL = 1 << 3,   /* clients from outside use the local list (externalTrafficPolicy) */
	NP_SVC_TERMINATING = 1 << 4, /* only endpoints that are terminating serve */
};

/* What np_svc holds. The kernel gives an element that was deleted or replaced to another key at once, while readers
 * still hold it, and copies values word by word: so elements are never replaced, and their one word is written in
 * place. The kernel writes in place only what has a lock; nobody takes it but the kernel. */
struct svc_entry {
	struct bpf_spin_lock lock;
	__u32 record; /* index in np_records */
};

/* A service as one address has it, with immutable extents in np_slots. Records are immutable, too, from the moment an
 * entry points at one until it has rested. A change writes new extents, then a new record, then the entry. */
struct svc {
	struct svc_key key; /* whose it is: a reader of an element that went to another key finds another one here */
	__u32 id;
	enum svc_flags flags;
	__u32 base, n;   /* cluster-wide list */
	__u32 lbase, ln; /* endpoints on this node */
	__u32 affinity;  /* seconds; 0 is none */
};

enum backend_flags {
	NP_BACKEND_DEAD = 1 << 0,        /* stopped serving: flows must move */
	NP_BACKEND_TERMINATING = 1 << 1, /* keeps old flows, takes no new ones */
};

struct backend {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
	enum backend_flags flags;
	__u32 gen; /* grows each time the index is given to another endpoint */
	__u32 svc; /* id of the service port whose endpoint it is */
};

struct affinity_key {
	struct addr client; /* packet path: the address; socket hooks: the netns cookie in w[0..1] */
	__u32 svc;
};

struct affinity {
	__u32 backend;
	__u32 gen;
	__u64 seen; /* ns since boot */
};

/* What one socket talks to: the address it asked for and the one it got. */
struct peer {
	struct addr vip;
	struct addr addr;
	__be16 vport;
	__be16 port;
	__u32 backend;
	__u32 gen;
};

#define NP_UDP_PEERS 4

struct peers {
	struct peer peer[NP_UDP_PEERS];
	__u32 next;
};

struct tuple {
	struct addr src, dst;
	__be16 sport, dport;
	__u8 proto;
	__u8 pad[3];
};

enum nat_flags {
	NP_NAT_REVERSE = 1 << 0,
	NP_NAT_FIN = 1 << 1,     /* this direction has ended */
	NP_NAT_CLOSING = 1 << 2, /* both have, or a reset was seen: the port may be taken over */
};

/* A translated flow has two entries. Each holds what its packets become, so each can restore the other:
 * the other one's key is this value reversed, its value this key reversed. */
struct nat {
	struct tuple to;
	__u32 backend;
	__u32 gen;
	enum nat_flags flags;
	__u32 pad;
	__u64 seen; /* ns since boot, refreshed once a second */
};

struct ep {
	__u32 ifindex; /* host side of the pod's veth */
	__u8 mac[6];   /* pod side */
	__u8 host_mac[6];
};

struct pod_if {
	struct addr ip4, ip6; /* the only sources the pod may use; zero where it has none */
};

struct prefix {
	__u32 len;
	struct addr addr;
};

enum route_flags {
	NP_ROUTE_TUNNEL = 1 << 0, /* behind another node */
	NP_ROUTE_LOCAL = 1 << 1,  /* this node's own range: the stack knows */
	NP_ROUTE_NONE = 1 << 2,   /* a range of the cluster that no node holds */
};

struct route {
	struct addr node; /* tunnel end */
	enum route_flags flags;
};

enum node_flags {
	NP_NODE_SELF = 1 << 0,
};

struct node {
	enum node_flags flags;
};

enum drop {
	NP_DROP_NONE,
	NP_DROP_MALFORMED,
	NP_DROP_SPOOFED,
	NP_DROP_NO_BACKEND,
	NP_DROP_NO_PORT,
	NP_DROP_NO_NODE,
	NP_DROP_REWRITE,
	NP_DROP_FRAGMENT,
	NP_DROP_UNKNOWN_LINK,
	NP_DROP_NO_FLOW,
	NP_DROP_NO_ROUTE,
	NP_DROP_MAX,
};
