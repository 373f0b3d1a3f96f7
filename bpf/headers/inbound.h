/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * inbound.h: what becomes of a packet from outside: counted by SPI, guarded, and
 * which CPU it goes to. XDP and, for devices without Ethernet, tc use it.
 */
#ifndef ESPALIER_INBOUND_H
#define ESPALIER_INBOUND_H

#include "parse.h"
#include "sa_index.h"
#include "guard.h"

/* Verdicts: VERDICT_PASS, VERDICT_DROP, or a CPU to redirect to. */
#define VERDICT_PASS 0xffffffffU
#define VERDICT_DROP 0xfffffffeU

/* moving chooses for a packet of an SA that changes its CPU (see struct sa_slot). */
static __always_inline __u32 moving(__u32 cpu, __u32 slot)
{
	struct sa_slot *sa = bpf_map_lookup_elem(&sas, &slot);

	if (!sa)
		return CPU_NONE;
	if (LOAD_ONCE(sa->from) == CPU_SHED) {
		if (bpf_ktime_get_ns() >= LOAD_ONCE(sa->seen))
			return sa->cpu;
		total_add(cpu, TOTAL_SHED);
		return VERDICT_DROP;
	}
	/* Atomic: the SA may be received by another CPU from one poll to the next. It is also what orders this count
	 * before the reading of seen; user space writes seen and then reads the count. */
	if (__sync_fetch_and_add(&sa->passed, 1) == LOAD_ONCE(sa->seen))
		sa->from = sa->cpu;
	return sa->from;
}

/* listed is the CPU that the upper half of a hash chooses from the list. */
static __always_inline __u32 listed(const struct config *c, __u32 hash)
{
	__u32 n = c->steer_cpus;

	if (!n || n > STEER_LIST)
		return CPU_NONE;
	n = (__u64)hash * n >> 32;
	return n < STEER_LIST ? c->steer_list[n] : CPU_NONE;
}

/* placed is the CPU that an entry's where says. */
static __always_inline __u32 placed(__u32 cpu, __u32 where)
{
	__u32 n = ENTRY_CPU(where);

	if (unlikely(n == ENTRY_MOVING))
		return moving(cpu, ENTRY_SLOT(where));
	return n == ENTRY_NO_CPU ? CPU_NONE : n;
}

/* steer chooses the CPU of a known SA's packet, whose entry has this where. */
static __always_inline __u32 steer(const struct config *c, const struct packet *p, __u32 cpu, __u32 where)
{
	if (c->steer == STEER_SLOT)
		return placed(cpu, where);
	if (c->steer != STEER_HASH)
		return CPU_NONE;
	return listed(c, sa_hash(c, (const __u64 *)&p->key) >> 32);
}

/* inbound counts, guards and chooses. ctx is for conntrack, end that of the packet. */
static __always_inline __u32 inbound(CONTEXT *ctx, const struct config *c, __u32 cpu, struct packet *p, void *end)
{
	struct ike ike;

	if (likely(p->kind == KIND_ESP)) {
		struct index_entry *e = sa_find(c, cpu, &p->key);
		__u32 to;

		if (unlikely(!e))
			return guard_esp(ctx, p) ? VERDICT_DROP : VERDICT_PASS;
		sa_count(e, 1, p->bytes);
		if (unlikely(p->first_fragment)) {
			total_add(cpu, TOTAL_FRAGMENT);
			return VERDICT_PASS;
		}
		to = steer(c, p, cpu, LOAD_ONCE(e->where));
		return to == cpu || to == CPU_NONE ? VERDICT_PASS : to;
	}
	switch (p->kind) {
	case KIND_IKE:
		if (p->header + sizeof(ike) > end)
			return VERDICT_PASS; /* never: parse has seen it */
		__builtin_memcpy(&ike, p->header, sizeof(ike));
		return guard_ike(ctx, p, &ike) ? VERDICT_DROP : VERDICT_PASS;
	case KIND_BAD_ESP:
		return guard_bad(ctx, p) ? VERDICT_DROP : VERDICT_PASS;
	case KIND_KEEPALIVE:
		total_add(cpu, TOTAL_KEEPALIVE);
		break;
	case KIND_LATER_FRAGMENT:
		total_add(cpu, TOTAL_FRAGMENT);
		break;
	case KIND_MALFORMED:
		total_add(cpu, TOTAL_MALFORMED);
		break;
	}
	return VERDICT_PASS;
}

#endif
