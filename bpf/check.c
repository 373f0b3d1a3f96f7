//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * check.c: programs for tests only; the daemon never loads them.
 */
#include "headers/kernel.h"
#include "headers/sa_index.h"

struct find_request {
	struct sa_key key;
	__u32 slot; /* answer */
	__u32 found;
	__u32 hash[2];
};

/* find looks a key up that comes as packet, and answers in the packet. */
SEC("xdp.frags")
int find(struct xdp_md *ctx)
{
	const struct config *c = the_config();
	struct find_request *r = (void *)(long)ctx->data;
	struct sa_key key;
	__u32 slot = 0;
	__u64 h;

	if (!c || (void *)(r + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	key = r->key;
	h = sa_hash(c, (const __u64 *)&key);
	r->found = sa_find(c, &key, &slot) != NULL;
	r->slot = slot;
	r->hash[0] = h;
	r->hash[1] = h >> 32;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
