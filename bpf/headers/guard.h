/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * guard.h: what packets to our own addresses may pass that no SA of ours accounts
 * for. What goes to others, or to hosts behind us that share our address, is none
 * of the guard's business. Off: nothing is looked at but counted; log-only: what
 * would be dropped is counted and sampled; on: it is dropped, unless the index may
 * lack an SPI that the kernel has: tail_known is 0, or who keeps it has not been
 * heard of (alive_until), since a killed daemon takes nothing back.
 *
 * The functions guard_* are global, so that the verifier looks at each once and not on
 * every way to it. That is why they take no pointer into the packet.
 */
#ifndef ESPALIER_GUARD_H
#define ESPALIER_GUARD_H

#include "parse.h"
#include "sa_index.h"
#include "sample.h"

/* conntrack_translates says whether the connection of p is one that conntrack
 * knows and translates: then it belongs to a host behind us. Each program type
 * has its own. An entry alone means nothing, a flood makes those as well. */
static __always_inline int conntrack_translates(CONTEXT *ctx, const struct packet *p);

#define BEHIND_NS (600ULL * 1000000000) /* as long as conntrack remembers ESP */

/* source of the packet, as maps have it. */
static __always_inline void source(const struct packet *p, struct addr_key *src)
{
	*src = (struct addr_key){ .family = p->family };
	__builtin_memcpy(src->addr, p->src, 16);
}

/* to_us: the destination is one of our addresses. */
static __always_inline int to_us(const struct packet *p)
{
	struct addr_key dst = { .family = p->family };

	__builtin_memcpy(dst.addr, p->key.addr, 16);
	return bpf_map_lookup_elem(&own_addrs, &dst) != NULL;
}

/* is_behind: ESP went from us to src a short while ago that is not from an SA of
 * ours, so a host behind us talks to it with our address. */
static __always_inline int is_behind(const struct addr_key *src)
{
	__u64 *last = bpf_map_lookup_elem(&behind, src);

	return last && bpf_ktime_get_ns() - *last < BEHIND_NS;
}

#define SECOND_NS 1000000000ULL

/* knows_all: an SPI that is not in the index is nobody's. */
static __always_inline int knows_all(const struct config *c)
{
	return c->tail_known && bpf_ktime_get_ns() < c->alive_until * SECOND_NS;
}

/* verdict counts what the guard objects to and says whether it is to be dropped. */
static __always_inline int verdict(const struct config *c, __u32 cpu, const struct packet *p, const struct addr_key *src, enum total why)
{
	if (c->guard == GUARD_OFF)
		return 0;
	total_add(cpu, why);
	sample_guard(cpu, p, src, why);
	return c->guard == GUARD_ON && knows_all(c);
}

/* guard_esp: ESP with an SPI that is nobody's. */
__noinline int guard_esp(CONTEXT *ctx, struct packet *p)
{
	const struct config *c = the_config();
	__u32 cpu = bpf_get_smp_processor_id();
	struct stranger *known, fresh = { .packets = 1 };
	struct addr_key src;

	if (!c || !p)
		return 0;
	if (!to_us(p)) {
		total_add(cpu, TOTAL_ESP_TRANSIT);
		return 0;
	}
	source(p, &src);
	if (is_behind(&src) || (p->udp && conntrack_translates(ctx, p))) {
		total_add(cpu, TOTAL_ESP_BEHIND);
		return 0;
	}
	total_add(cpu, TOTAL_ESP_UNKNOWN);
	known = bpf_map_lookup_elem(&strangers, &src);
	if (known) {
		__sync_fetch_and_add(&known->packets, 1);
		known->spi = p->key.spi;
		known->last = bpf_ktime_get_ns();
	} else {
		fresh.spi = p->key.spi;
		fresh.last = bpf_ktime_get_ns();
		bpf_map_update_elem(&strangers, &src, &fresh, BPF_ANY);
	}
	return verdict(c, cpu, p, &src, TOTAL_GUARD_UNKNOWN_SPI);
}

/* guard_bad: neither ESP nor IKE, though it claims to be. */
__noinline int guard_bad(CONTEXT *ctx, struct packet *p)
{
	const struct config *c = the_config();
	__u32 cpu = bpf_get_smp_processor_id();
	struct addr_key src;

	if (!c || !p || !to_us(p))
		return 0;
	if (p->udp && conntrack_translates(ctx, p))
		return 0;
	source(p, &src);
	return verdict(c, cpu, p, &src, TOTAL_GUARD_MALFORMED);
}

/* prefix_of shortens an address to the prefix that shares a bucket. */
static __always_inline void prefix_of(const struct config *c, struct addr_key *a)
{
	__be32 *part = (__be32 *)a->addr;
	__u32 n;

	if (a->family == 4) {
		n = c->prefix4 < 32 ? c->prefix4 : 32;
		*part &= n ? bpf_htonl(~0U << (32 - n & 31)) : 0;
		return;
	}
	n = c->prefix6 < 128 ? c->prefix6 : 128;
	for (int i = 0; i < 4; i++) {
		__u32 bits = n > 32 ? 32 : n;

		part[i] &= bits ? bpf_htonl(~0U << (32 - bits & 31)) : 0;
		n -= bits;
	}
}

#define MAX_RATE 1000000U          /* per second */
#define FULL_NS (60ULL * 1000000000) /* a longer pause fills no more */

/* take_token: one more IKE_SA_INIT of this prefix is within its rate. Two CPUs that
 * take at once may both get the last token; that is good enough for a limit. */
static __always_inline int take_token(const struct config *c, struct addr_key *src)
{
	__u64 rate = MIN(c->init_rate, MAX_RATE), burst = MIN(c->init_burst ?: c->init_rate, MAX_RATE) * 1000ULL;
	__u64 now = bpf_ktime_get_ns(), tokens, passed;
	struct token_bucket *b, fresh = { .stamp = now };

	if (!rate)
		return 1;
	prefix_of(c, src);
	b = bpf_map_lookup_elem(&buckets, src);
	if (!b) {
		fresh.tokens = burst - 1000;
		bpf_map_update_elem(&buckets, src, &fresh, BPF_ANY);
		return 1;
	}
	passed = now - b->stamp;
	if (passed > FULL_NS)
		passed = FULL_NS;
	tokens = b->tokens + passed * rate / 1000000;
	if (tokens > burst)
		tokens = burst;
	if (passed * rate >= 1000000) /* else not even a thousandth: the time is kept */
		b->stamp = now;
	if (tokens < 1000) {
		b->tokens = tokens;
		return 0;
	}
	b->tokens = tokens - 1000;
	return 1;
}

#define IKE_SA_INIT 34
#define IKE_SESSION_RESUME 38
#define IKE_FLAG_INITIATOR 8
#define IKE_FLAG_RESPONSE 32

/* objection: why an IKE message is unwelcome; TOTALS: it is not. src may be
 * shortened. */
static __always_inline enum total objection(const struct config *c, const struct ike *ike, struct addr_key *src)
{
	__u64 ispi = (__u64)ike->ispi[1] << 32 | ike->ispi[0], rspi = (__u64)ike->rspi[1] << 32 | ike->rspi[0], own;

	if (ike->version >> 4 != 2 || !ispi || bpf_ntohl(ike->length) < sizeof(*ike))
		return TOTAL_GUARD_MALFORMED;
	if ((ike->exchange == IKE_SA_INIT || ike->exchange == IKE_SESSION_RESUME) && !rspi && !(ike->flags & IKE_FLAG_RESPONSE)) {
		struct lpm_key peer = { .prefixlen = 32 + 128, .family = src->family };

		if (src->family == 4)
			peer.prefixlen = 32 + 32;
		__builtin_memcpy(peer.addr, src->addr, 16);
		if (c->guard_peers && !bpf_map_lookup_elem(&peers, &peer))
			return TOTAL_GUARD_NOT_PEER;
		return take_token(c, src) ? TOTALS : TOTAL_GUARD_RATE;
	}
	own = ike->flags & IKE_FLAG_INITIATOR ? rspi : ispi;
	return bpf_map_lookup_elem(&ike_spis, &own) ? TOTALS : TOTAL_GUARD_IKE_SPI;
}

/* guard_ike: an IKE message. */
__noinline int guard_ike(CONTEXT *ctx, struct packet *p, struct ike *ike)
{
	const struct config *c = the_config();
	__u32 cpu = bpf_get_smp_processor_id();
	struct addr_key src, shortened;
	enum total why;

	if (!c || !p || !ike || !to_us(p))
		return 0;
	total_add(cpu, TOTAL_IKE);
	if (c->guard == GUARD_OFF)
		return 0;
	source(p, &src);
	shortened = src;
	why = objection(c, ike, &shortened);
	if (why == TOTALS || conntrack_translates(ctx, p))
		return 0;
	return verdict(c, cpu, p, &src, why);
}

#endif
