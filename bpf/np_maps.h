/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The one set of maps. Sizes here are placeholders: the loader sets max_entries from its configuration. */
#pragma once

#include "np_types.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct svc_key);
	__type(value, struct svc_entry);
} np_svc SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct svc);
} np_records SEC(".maps");

/* Backend indexes plus one; 0 was never used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 20);
	__type(key, __u32);
	__type(value, __u32);
} np_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct backend);
} np_backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} np_affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peer);
} np_sk_tcp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peers);
} np_sk_udp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, struct nat);
} np_nat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct addr);
	__type(value, struct ep);
} np_eps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct pod_if);
} np_ifs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prefix);
	__type(value, struct route);
} np_routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct addr);
	__type(value, struct node);
} np_nodeips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NP_DROP_MAX);
	__type(key, enum drop);
	__type(value, __u64);
} np_drops SEC(".maps");

/* Configuration of the node, fixed when the programs are loaded. Read it word by word: a cast that drops
 * volatile lets the compiler fold it to its initial value. */
const volatile __u32 np_tunnel_ifindex = 0;
const volatile __u32 np_vni = 0;
const volatile __u32 np_nat_ip4 = 0;    /* network order */
const volatile __u32 np_nat_ip6[4] = {}; /* network order */
const volatile __u32 np_nodeport_lo = 0; /* first and last NodePort; 0 and 0 is none */
const volatile __u32 np_nodeport_hi = 0;

static __always_inline void np_count_drop(enum drop why)
{
	__u64 *n = bpf_map_lookup_elem(&np_drops, &why);

	if (n)
		(*n)++;
}
