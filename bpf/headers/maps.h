/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * maps.h: the maps that all objects share; dataplane/flow makes them once and
 * gives them to each object by name. Their sizes here are least ones, package bpf
 * sets the real ones (Sizes).
 */
#ifndef ESPALIER_MAPS_H
#define ESPALIER_MAPS_H

#include "kernel.h"
#include "layout.h"

#define MMAP_ARRAY(name, value_type) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__uint(max_entries, 1); \
		__type(key, __u32); \
		__type(value, value_type); \
	} name SEC(".maps")

MMAP_ARRAY(config, struct config);
MMAP_ARRAY(index, struct index_bucket);
MMAP_ARRAY(sas, struct sa_slot);
MMAP_ARRAY(drop_counts, __u64);
MMAP_ARRAY(totals, __u64);

#define SHARED_MAP(name, map_type, entries, flags, key_type, value_type) \
	struct { \
		__uint(type, map_type); \
		__uint(max_entries, entries); \
		__uint(map_flags, flags); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

/* Of the guard. Which entries there are is user space's business, except for the LRU maps, which the programs fill. */
SHARED_MAP(own_addrs, BPF_MAP_TYPE_HASH, 4096, BPF_F_NO_PREALLOC, struct addr_key, __u32);
SHARED_MAP(ike_spis, BPF_MAP_TYPE_HASH, 1 << 16, BPF_F_NO_PREALLOC, __u64, __u32);
SHARED_MAP(peers, BPF_MAP_TYPE_LPM_TRIE, 1 << 16, BPF_F_NO_PREALLOC, struct lpm_key, __u32);
SHARED_MAP(buckets, BPF_MAP_TYPE_LRU_HASH, 1 << 14, 0, struct addr_key, struct token_bucket);
SHARED_MAP(behind, BPF_MAP_TYPE_LRU_HASH, 1 << 12, 0, struct addr_key, __u64);
SHARED_MAP(strangers, BPF_MAP_TYPE_LRU_HASH, 1 << 12, 0, struct addr_key, struct stranger);

/* Of the mss programs. */
SHARED_MAP(mss_ifs, BPF_MAP_TYPE_HASH, 4096, BPF_F_NO_PREALLOC, __u32, struct mss_value);
SHARED_MAP(mss_prefixes, BPF_MAP_TYPE_LPM_TRIE, 1 << 16, BPF_F_NO_PREALLOC, struct lpm_key, struct mss_value);

/* Where esp_in and flow_in redirect to: entry n is CPU n. */
SHARED_MAP(cpus, BPF_MAP_TYPE_CPUMAP, 1, 0, __u32, struct cpumap_value);

/* Samples of drops, for espctl drop monitor. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} samples SEC(".maps");

#endif
