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
MMAP_ARRAY(counters, struct sa_counters);
MMAP_ARRAY(drop_counts, __u64);
MMAP_ARRAY(totals, __u64);

/* Samples of drops, for espctl drop monitor. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} samples SEC(".maps");

#endif
