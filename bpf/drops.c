//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * drops.c: why the kernel lost a packet of an SA. Two sources:
 *
 *   xfrm_audit_state_*  functions that the kernel calls with the SA at hand when a
 *                       packet is a replay, has a wrong ICV, or no SA (only with
 *                       CONFIG_AUDITSYSCALL; the loader says in "audited" whether)
 *   xfrm_stat           this CPU's counters, before and after a function that handles
 *                       one packet: what has grown is why that packet was lost
 *
 * The first decides where both tell of the same packet.
 */
#include "headers/kernel.h"
#include "headers/xfrm.h"

/* 1: the kernel calls xfrm_audit_state_*. */
const volatile __u32 audited = 1;

/* Which function's "before" it is: they do not nest in themselves on one CPU. */
enum place { PLACE_INPUT, PLACE_POLICY, PLACE_OUTPUT, PLACES };

/* What is known of a packet when a function begins, since it is gone afterwards. */
struct before {
	struct drop_sample packet;
	__u64 stat[STATS];
	__u64 now[STATS]; /* the same when it ends; here, since the stack is short */
	void *stats; /* where stat comes from; NULL: nothing is known */
	__u32 told; /* an audit function has told the reason */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct before);
} before SEC(".maps");

static __always_inline struct before *before_of(__u32 place)
{
	return bpf_map_lookup_elem(&before, &place);
}

/* lost counts a packet under its SA, if that is in the table, and tells of it. */
static __noinline int lost(struct drop_sample *d, __u32 reason)
{
	const struct config *c = the_config();
	struct drop_sample *s;
	struct index_entry *e;
	__u64 *count;
	__u32 n;

	if (!c || reason >= DROP_REASONS)
		return 0;
	e = sa_find(c, bpf_get_smp_processor_id(), &d->key);
	if (e) {
		n = ENTRY_SLOT(LOAD_ONCE(e->where)) * DROP_REASONS + reason;
		count = bpf_map_lookup_elem(&drop_counts, &n);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
	if (!sample_allowed(bpf_get_smp_processor_id()))
		return 0;
	s = bpf_ringbuf_reserve(&samples, sizeof(*s), 0);
	if (!s)
		return 0;
	*s = *d;
	s->time = bpf_ktime_get_ns();
	s->reason = reason;
	bpf_ringbuf_submit(s, 0);
	return 0;
}

/* told notes that an audit function spoke, in whichever function runs. */
static __always_inline void told(__u32 place)
{
	struct before *b = before_of(place);

	if (b)
		b->told = 1;
}

SEC("fentry/xfrm_audit_state_notfound")
int audit_notfound(__u64 *ctx)
{
	struct drop_sample d = {};

	read_packet((struct sk_buff *)ctx[0], (__u16)ctx[1] == AF_INET6, &d);
	d.key.spi = ctx[2];
	d.seq = ctx[3];
	told(PLACE_INPUT);
	return lost(&d, DROP_NO_STATE);
}

SEC("fentry/xfrm_audit_state_replay")
int audit_replay(__u64 *ctx)
{
	struct drop_sample d = {};

	read_packet((struct sk_buff *)ctx[1], 0, &d);
	read_state((struct xfrm_state *)ctx[0], DIR_IN, &d);
	d.seq = ctx[2];
	told(PLACE_INPUT);
	return lost(&d, DROP_REPLAY);
}

SEC("fentry/xfrm_audit_state_icvfail")
int audit_icvfail(__u64 *ctx)
{
	struct drop_sample d = {};

	read_packet((struct sk_buff *)ctx[1], 0, &d);
	read_state((struct xfrm_state *)ctx[0], DIR_IN, &d);
	told(PLACE_INPUT);
	return lost(&d, DROP_INTEGRITY);
}

SEC("fentry/xfrm_audit_state_replay_overflow")
int audit_overflow(__u64 *ctx)
{
	struct drop_sample d = {};

	read_packet((struct sk_buff *)ctx[1], 0, &d);
	read_state((struct xfrm_state *)ctx[0], DIR_OUT, &d);
	told(PLACE_OUTPUT);
	return lost(&d, DROP_SEQUENCE);
}

/* grown finds the first of some counters that has grown; 0: none. */
static __always_inline __u32 grown(const struct before *b, __u64 counters)
{
	for (__u32 i = 1; i < STATS; i++) {
		if (counters >> i & 1 && b->now[i] != b->stat[i])
			return i;
	}
	return 0;
}

/* after ends what a function's beginning began: the reason, when one of its counters has grown. */
static __always_inline void after(__u32 place, __u64 counters)
{
	struct before *b = before_of(place);
	__u32 stat, reason = 0;

	if (!b || !b->stats || read_stats(b->now, b->stats))
		return;
	b->stats = NULL;
	if (b->told)
		return;
	stat = grown(b, counters);
	if (stat)
		reason = reason_of(stat, place == PLACE_POLICY, audited);
	if (stat && reason)
		lost(&b->packet, reason);
}

/* begin notes the counters of a namespace. */
static __always_inline struct before *begin(__u32 place, const struct net *net)
{
	struct before *b = before_of(place);

	if (!b)
		return NULL;
	b->told = 0;
	__builtin_memset(&b->packet, 0, sizeof(b->packet));
	b->stats = stats_of(net);
	if (!b->stats || read_stats(b->stat, b->stats)) {
		b->stats = NULL;
		return NULL;
	}
	return b;
}

SEC("fentry/xfrm_input")
int input_begins(__u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[0];
	struct before *b = begin(PLACE_INPUT, skb->dev ? skb->dev->nd_net.net : NULL);
	struct xfrm_state *x;

	if (!b)
		return 0;
	read_packet(skb, 0, &b->packet);
	if ((__s32)ctx[3] < 0) { /* asynchronous crypto has done its work: the state is the last of the path */
		x = last_state(skb);
		if (x)
			read_state(x, DIR_IN, &b->packet);
	} else {
		read_spi(skb, ctx[2], &b->packet);
	}
	return 0;
}

SEC("fexit/xfrm_input")
int input_ends(__u64 *ctx)
{
	after(PLACE_INPUT, STATS_IN);
	return 0;
}

SEC("fentry/__xfrm_policy_check")
int policy_begins(__u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[2];
	struct xfrm_state *x = last_state(skb);
	struct before *b = before_of(PLACE_POLICY);

	if (!x) { /* never was in a tunnel: no SA has lost it */
		if (b)
			b->stats = NULL;
		return 0;
	}
	b = begin(PLACE_POLICY, skb->dev ? skb->dev->nd_net.net : NULL);
	if (!b)
		return 0;
	read_packet(skb, 0, &b->packet);
	read_state(x, DIR_IN, &b->packet);
	return 0;
}

SEC("fexit/__xfrm_policy_check")
int policy_ends(__u64 *ctx)
{
	after(PLACE_POLICY, STATS_POLICY);
	return 0;
}

SEC("fentry/xfrm_output_resume")
int output_begins(__u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[OUTPUT_SKB];
	struct xfrm_state *x = output_state(skb);
	struct net *net = NULL;
	struct before *b;

	if (x)
		GET(&net, x, xs_net.net);
	b = begin(PLACE_OUTPUT, net);
	if (!b)
		return 0;
	read_packet(skb, 0, &b->packet);
	read_state(x, DIR_OUT, &b->packet);
	return 0;
}

SEC("fexit/xfrm_output_resume")
int output_ends(__u64 *ctx)
{
	after(PLACE_OUTPUT, STATS_OUT);
	return 0;
}

char _license[] SEC("license") = "GPL";
