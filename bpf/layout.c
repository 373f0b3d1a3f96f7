//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * layout.c: no program; bpf2go takes the Go types of layout.h from here.
 */
#include "headers/kernel.h"
#include "headers/layout.h"

#define SHOW(kind, name) kind name show_##name
SHOW(struct, sa_key);
SHOW(struct, index_entry);
SHOW(struct, index_bucket);
SHOW(struct, sa_slot);
SHOW(struct, sa_counters_1);
SHOW(struct, config);
SHOW(struct, port);
SHOW(struct, addr_key);
SHOW(struct, lpm_key);
SHOW(struct, mss_value);
SHOW(struct, token_bucket);
SHOW(struct, stranger);
SHOW(struct, cpumap_value);
SHOW(struct, drop_sample);
SHOW(enum, drop_reason);
SHOW(enum, total);
SHOW(enum, guard_mode);
SHOW(enum, steer_mode);
SHOW(enum, flow_mode);
