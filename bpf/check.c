//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * check.c: programs for tests only; the daemon never loads them.
 */
#define CONTEXT struct xdp_md
#include "headers/inbound.h"

static __always_inline int conntrack_translates(CONTEXT *ctx, const struct packet *p)
{
	asm volatile("" ::"r"(ctx)); /* or the compiler passes nothing for it, which the verifier refuses */
	return 0;
}

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
	struct index_entry *e;
	__u64 h;

	if (!c || (void *)(r + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	key = r->key;
	h = sa_hash(c, (const __u64 *)&key);
	e = sa_find(c, bpf_get_smp_processor_id(), &key);
	r->found = e != NULL;
	r->slot = e ? ENTRY_SLOT(LOAD_ONCE(e->where)) : 0;
	r->hash[0] = h;
	r->hash[1] = h >> 32;
	return XDP_PASS;
}

/* What the others are measured against. */
SEC("xdp.frags")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags")
int redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cpus, 1, XDP_PASS);
}

SEC("tc")
int tc_pass(struct __sk_buff *ctx)
{
	return TC_ACT_UNSPEC;
}

/* draws: SPIs, which draw takes one after the other. A packet that is repeated finds
 * everything in the cache; this is what many SAs cost. */
MMAP_ARRAY(draws, __u64); /* the SPI in its first half, as in packets */
const volatile __u32 draws_mask = 0;
__u32 drawn = 0;

SEC("xdp.frags")
int draw(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct config *c = the_config();
	__u32 n = drawn++ & draws_mask, cpu = bpf_get_smp_processor_id(), to;
	__u64 *spi = bpf_map_lookup_elem(&draws, &n);
	struct esp *esp = start + sizeof(struct ethhdr) + sizeof(struct ip4);
	struct packet p;

	if (!c || !spi || (void *)(esp + 1) > end)
		return XDP_ABORTED;
	esp->spi = *spi;
	parse(c, &p, start, end, DIR_IN, LINK_ETHERNET);
	to = inbound(ctx, c, cpu, &p, end);
	if (to == VERDICT_PASS || to == VERDICT_DROP)
		return XDP_DROP; /* the measurement is of SAs that are known and steered */
	return bpf_redirect_map(&cpus, to, XDP_PASS);
}

/* touch is the least that a packet of one SA among many can cost: its SPI is drawn as draw
 * does it, and one cache line of its own is read and counted in, of the index's second
 * row: so there have to be two CPUs. Nothing is parsed, looked for or compared. */
SEC("xdp.frags")
int touch(struct xdp_md *ctx)
{
	const struct config *c = the_config();
	__u32 n = drawn++ & draws_mask;
	__u64 *spi = bpf_map_lookup_elem(&draws, &n);
	struct index_bucket *b;

	if (!c || !spi)
		return XDP_ABORTED;
	n = c->buckets + (*spi * 0x9e3779b97f4a7c15ULL >> 40 & (c->buckets - 1));
	b = bpf_map_lookup_elem(&index, &n);
	if (!b)
		return XDP_ABORTED;
	b->way[0].packets++;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
