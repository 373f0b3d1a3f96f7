/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * sample.h: a few of the dropped packets go to user space with what is known of
 * them; all are counted. A CPU gives at most SAMPLES_PER_JIFFY a jiffy, so that a
 * flood costs no more than its counting.
 */
#ifndef ESPALIER_SAMPLE_H
#define ESPALIER_SAMPLE_H

#include "maps.h"
#include "parse.h"

#define SAMPLES_PER_JIFFY 8

/* sample_allowed keeps the jiffy and how many it had in one of the CPU's totals. */
static __always_inline int sample_allowed(__u32 cpu)
{
	__u32 n = cpu * TOTALS + TOTAL_SAMPLING;
	__u64 *state = bpf_map_lookup_elem(&totals, &n), now = bpf_jiffies64() << 8;

	if (!state)
		return 0;
	if (*state >> 8 != now >> 8) {
		*state = now + 1;
		return 1;
	}
	if ((*state & 255) >= SAMPLES_PER_JIFFY)
		return 0;
	*state += 1;
	return 1;
}

/* sample_guard tells of a packet that the guard objects to. */
static __always_inline void sample_guard(__u32 cpu, const struct packet *p, const struct addr_key *src, enum total why)
{
	struct drop_sample *s;

	if (!sample_allowed(cpu))
		return;
	s = bpf_ringbuf_reserve(&samples, sizeof(*s), 0);
	if (!s)
		return;
	*s = (struct drop_sample){
		.time = bpf_ktime_get_ns(), .key = p->key, .seq = p->seq, .reason = why, .length = p->bytes, .guard = 1, .family = p->family
	};
	__builtin_memcpy(s->src, src->addr, 16);
	bpf_ringbuf_submit(s, 0);
}

#endif
