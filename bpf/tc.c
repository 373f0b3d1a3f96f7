//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * tc.c: the programs at the traffic control hooks, where packets are the kernel's
 * own and go both ways. Those that end in _raw are for devices without Ethernet
 * header (tun, ppp). All leave the verdict to whoever comes next.
 */
#define CONTEXT struct __sk_buff
#include "headers/inbound.h"
#include "headers/conntrack.h"
#include "headers/mss.h"

static __always_inline int conntrack_translates(CONTEXT *ctx, const struct packet *p)
{
	struct bpf_sock_tuple tuple;
	struct bpf_ct_opts opts = { .netns = -1, .l4proto = IPPROTO_UDP };
	struct nf_conn *ct;
	__u32 size;

	if (!bpf_skb_ct_lookup)
		return 0;
	size = conntrack_tuple(p, &tuple);
	ct = bpf_skb_ct_lookup(ctx, &tuple, size, &opts, sizeof(opts));
	return conntrack_is_nat(ct);
}

/* HEADERS: what is asked to lie in one piece when it does not: link, IP and its options, UDP and ESP. */
#define HEADERS 160

/* parse_skb parses what of the packet lies in one piece, and asks for more of it
 * when that is too little. */
static __always_inline void parse_skb(CONTEXT *ctx, const struct config *c, struct packet *p, int dir, int link)
{
	parse(c, p, (void *)(long)ctx->data, (void *)(long)ctx->data_end, dir, link);
	if (likely(p->kind != KIND_MALFORMED && p->kind != KIND_BAD_ESP) || ctx->data_end - ctx->data >= ctx->len)
		return;
	bpf_skb_pull_data(ctx, MIN(ctx->len, HEADERS));
	/* Whether or not there is more now, what parse has found is not valid any more. */
	parse(c, p, (void *)(long)ctx->data, (void *)(long)ctx->data_end, dir, link);
}

/* esp_in_raw: what esp_in does, but for steering. */
SEC("tc")
int esp_in_raw(CONTEXT *ctx)
{
	const struct config *c = the_config();
	struct packet p;

	if (!c)
		return TC_ACT_UNSPEC;
	parse_skb(ctx, c, &p, DIR_IN, LINK_RAW);
	return inbound(ctx, c, bpf_get_smp_processor_id(), &p, (void *)(long)ctx->data_end) == VERDICT_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#define BEHIND_REFRESH_NS (16ULL * 1000000000)

/* esp_leaves counts ESP by its SA. What is of no SA of ours comes from a host behind
 * us, and where it goes is remembered for the guard. */
static __always_inline int esp_leaves(CONTEXT *ctx, int link)
{
	const struct config *c = the_config();
	__u32 cpu = bpf_get_smp_processor_id(), segments = ctx->gso_segs;
	struct addr_key dst = {};
	struct packet p;
	struct index_entry *e;
	__u64 *last, now;

	if (!c)
		return TC_ACT_UNSPEC;
	parse_skb(ctx, c, &p, DIR_OUT, link);
	if (p.kind != KIND_ESP)
		return TC_ACT_UNSPEC;
	e = sa_find(c, cpu, &p.key);
	if (e) {
		/* A packet that the device will cut is several on the wire, with a header each. */
		if (segments > 1)
			sa_count(e, segments, ctx->wire_len);
		else
			sa_count(e, 1, p.bytes);
		return TC_ACT_UNSPEC;
	}
	if (p.udp == UDP_PEERS)
		return TC_ACT_UNSPEC; /* from anybody's port: that is no sign of ESP */
	total_add(cpu, TOTAL_ESP_OUT_UNKNOWN);
	dst.family = p.family;
	__builtin_memcpy(dst.addr, p.key.addr, 16);
	now = bpf_ktime_get_ns();
	last = bpf_map_lookup_elem(&behind, &dst);
	if (!last || now - *last > BEHIND_REFRESH_NS)
		bpf_map_update_elem(&behind, &dst, &now, BPF_ANY);
	return TC_ACT_UNSPEC;
}

/* esp_out: egress of outside interfaces. */
SEC("tc")
int esp_out(CONTEXT *ctx)
{
	return esp_leaves(ctx, LINK_ETHERNET);
}

SEC("tc")
int esp_out_raw(CONTEXT *ctx)
{
	return esp_leaves(ctx, LINK_RAW);
}

/* mss_xfrm: both directions of an xfrm interface; its index says which tunnel. */
SEC("tc")
int mss_xfrm(CONTEXT *ctx)
{
	struct syn syn;
	__u32 device = ctx->ifindex;

	if (find_syn(ctx, &syn, LINK_RAW))
		clamp(ctx, &syn, bpf_map_lookup_elem(&mss_ifs, &device));
	return TC_ACT_UNSPEC;
}

/* mss_in: ingress of inside interfaces; the destination says which tunnel. */
SEC("tc")
int mss_in(CONTEXT *ctx)
{
	struct syn syn;

	if (find_syn(ctx, &syn, LINK_ETHERNET))
		clamp(ctx, &syn, by_prefix(&syn, syn.dst));
	return TC_ACT_UNSPEC;
}

SEC("tc")
int mss_in_raw(CONTEXT *ctx)
{
	struct syn syn;

	if (find_syn(ctx, &syn, LINK_RAW))
		clamp(ctx, &syn, by_prefix(&syn, syn.dst));
	return TC_ACT_UNSPEC;
}

/* mss_out: egress of inside interfaces, or ingress of outside ones, where decrypted
 * packets pass a second time; the source says which tunnel. */
SEC("tc")
int mss_out(CONTEXT *ctx)
{
	struct syn syn;

	if (find_syn(ctx, &syn, LINK_ETHERNET))
		clamp(ctx, &syn, by_prefix(&syn, syn.src));
	return TC_ACT_UNSPEC;
}

SEC("tc")
int mss_out_raw(CONTEXT *ctx)
{
	struct syn syn;

	if (find_syn(ctx, &syn, LINK_RAW))
		clamp(ctx, &syn, by_prefix(&syn, syn.src));
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
