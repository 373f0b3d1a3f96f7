/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * mss.h: rewrites what a SYN or SYN-ACK announces as its maximum segment size
 * (RFC 9293 3.2), never to more than it was.
 */
#ifndef ESPALIER_MSS_H
#define ESPALIER_MSS_H

#include "parse.h"
#include "sa_index.h"

struct tcp {
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};

#define TCP_SYN 2
#define TCP_RST 4
#define TCP_OPT_END 0
#define TCP_OPT_NOP 1
#define TCP_OPT_MSS 2
#define TCP_OPT_MSS_SIZE 4
#define TCP_OPTIONS_MAX 40
/* Bytes that are asked to lie in one piece: link, IPv6 with a little more, TCP. */
#define SYN_HEADERS 160

/* A SYN that may need another MSS. */
struct syn {
	__u8 family;
	__u16 tcp_offset; /* of the TCP header, from the beginning of the packet */
	__u16 options;    /* bytes of options, at most TCP_OPTIONS_MAX */
	__u8 src[16], dst[16];
};

/* read_syn says whether the packet is a whole SYN with options; *more is set when
 * too little of it lies in one piece. */
static __always_inline int read_syn(struct __sk_buff *ctx, struct syn *syn, int link, int *more)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct config *c = the_config();
	struct packet p;
	struct tcp *tcp;

	if (!c || !c->mss)
		return 0;
	parse(c, &p, start, end, DIR_IN, link);
	if (p.kind == KIND_MALFORMED)
		*more = 1;
	if (p.kind != KIND_OTHER || p.proto != IPPROTO_TCP || p.first_fragment)
		return 0;
	tcp = p.header;
	if ((void *)(tcp + 1) > end) {
		*more = 1;
		return 0;
	}
	if (likely((tcp->flags & (TCP_SYN | TCP_RST)) != TCP_SYN) || tcp->offset >> 4 <= 5)
		return 0;
	syn->family = p.family;
	syn->tcp_offset = p.l4_offset;
	syn->options = (tcp->offset >> 4) * 4 - sizeof(*tcp);
	__builtin_memcpy(syn->src, p.src, 16);
	__builtin_memcpy(syn->dst, p.key.addr, 16);
	return 1;
}

static __always_inline int find_syn(struct __sk_buff *ctx, struct syn *syn, int link)
{
	int more = 0;

	if (read_syn(ctx, syn, link, &more))
		return 1;
	if (likely(!more) || ctx->data_end - ctx->data >= ctx->len || bpf_skb_pull_data(ctx, MIN(ctx->len, SYN_HEADERS)))
		return 0;
	return read_syn(ctx, syn, link, &more);
}

/* by_prefix is what the tunnel to or from an address allows. */
static __always_inline struct mss_value *by_prefix(const struct syn *syn, const __u8 *addr)
{
	struct lpm_key k = { .prefixlen = 32 + (syn->family == 4 ? 32 : 128), .family = syn->family };

	__builtin_memcpy(k.addr, addr, 16);
	return bpf_map_lookup_elem(&mss_prefixes, &k);
}

/* The walk through the options of a SYN. */
struct walk {
	__u8 options[64]; /* more than there can be, for reads beyond the last option */
	__u32 at, length;
	__u32 limit;
	__u32 bad;        /* 1: the options cannot be read */
	__u64 found;      /* a bit for each place of an MSS option above limit */
};

/* walk_options looks at one option after the other. It is global, so that the verifier
 * looks at it once, and what it works on is memory that the verifier knows nothing of:
 * else every way through the options would be one of its own. */
__noinline int walk_options(struct walk *w)
{
	if (!w)
		return 0;
	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		__u32 at = LOAD_ONCE(w->at), kind, size;

		if (at >= LOAD_ONCE(w->length) || at >= TCP_OPTIONS_MAX)
			return 0;
		kind = w->options[at];
		if (kind == TCP_OPT_END)
			return 0;
		if (kind == TCP_OPT_NOP) {
			STORE_ONCE(w->at, at + 1);
			continue;
		}
		size = w->options[at + 1];
		if (size < 2 || size > w->length - at || (kind == TCP_OPT_MSS && size != TCP_OPT_MSS_SIZE)) {
			w->bad = 1;
			return 0;
		}
		if (kind == TCP_OPT_MSS && (__u32)(w->options[at + 2] << 8 | w->options[at + 3]) > w->limit)
			STORE_ONCE(w->found, LOAD_ONCE(w->found) | 1ULL << at);
		STORE_ONCE(w->at, at + size);
	}
	return 0;
}

/* rewrite puts the limit into the MSS option at a place, and mends the checksum. */
static __always_inline long rewrite(struct __sk_buff *ctx, const struct syn *syn, __u32 at, const __u8 *options, __u16 limit)
{
	__u32 tcp = syn->tcp_offset, value = tcp + sizeof(struct tcp) + at + 2;
	__be16 to = bpf_htons(limit);
	__u16 from = options[at + 3] << 8 | options[at + 2];

	if (bpf_skb_store_bytes(ctx, value, &to, sizeof(to), 0))
		return -1;
	/* The checksum is of 16-bit words; a value across two of them counts with its bytes swapped. */
	if (at & 1) {
		from = __builtin_bswap16(from);
		to = __builtin_bswap16(to);
	}
	return bpf_l4_csum_replace(ctx, tcp + __builtin_offsetof(struct tcp, check), from, to, sizeof(to));
}

/* clamp lowers each MSS option of a SYN to what v says. */
static __always_inline void clamp(struct __sk_buff *ctx, const struct syn *syn, const struct mss_value *v)
{
	__u32 cpu = bpf_get_smp_processor_id(), length = syn->options;
	struct walk w = { .length = length };

	if (v)
		w.limit = syn->family == 4 ? v->mss4 : v->mss6;
	/* Two comparisons, each with the register that is passed on: made one, older verifiers do not understand it. */
	asm volatile("" : "+r"(length));
	if (!w.limit || length > TCP_OPTIONS_MAX)
		return;
	asm volatile("" : "+r"(length));
	if (length < 4)
		return;
	if (bpf_skb_load_bytes(ctx, syn->tcp_offset + sizeof(struct tcp), w.options, length))
		w.bad = 1; /* cut off */
	else
		walk_options(&w);
	if (w.bad) {
		total_add(cpu, TOTAL_MSS_MALFORMED);
		return;
	}
	if (!w.found)
		return;
	for (int at = 0; at < TCP_OPTIONS_MAX; at++) {
		if (w.found >> at & 1 && rewrite(ctx, syn, at, w.options, w.limit))
			return;
	}
	total_add(cpu, TOTAL_MSS_REWRITTEN);
}

#endif
