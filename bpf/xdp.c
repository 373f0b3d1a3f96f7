//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * xdp.c: the programs at the NIC. All are made for packets in several buffers
 * (xdp.frags), since the kernel wants that of all or none that share a CPUMAP.
 */
#define CONTEXT struct xdp_md
#include "headers/inbound.h"
#include "headers/conntrack.h"

static __always_inline int conntrack_translates(CONTEXT *ctx, const struct packet *p)
{
	struct bpf_sock_tuple tuple;
	struct bpf_ct_opts opts = { .netns = -1, .l4proto = IPPROTO_UDP };
	struct nf_conn *ct;
	__u32 size;

	if (!bpf_xdp_ct_lookup)
		return 0;
	size = conntrack_tuple(p, &tuple);
	ct = bpf_xdp_ct_lookup(ctx, &tuple, size, &opts, sizeof(opts));
	return conntrack_is_nat(ct);
}

#define MAX_L4_OFFSET 512 /* what stands further back is not looked at */

/* unfinished: the checksum of TCP or UDP is but the sum of its pseudo header, as a
 * sender leaves it that lets the device do the rest (CHECKSUM_PARTIAL): another
 * namespace behind a veth, a guest behind a tap. XDP gets the bare frame, and after a
 * redirect nobody knows what is left to do. One in 65536 of other packets looks the same,
 * and stays as well. */
static __always_inline int unfinished(struct xdp_md *ctx, const struct packet *p, void *start, void *end)
{
	__u64 at = p->l4_offset, sum;
	__be16 check;
	__u32 length;
	void *l4;

	asm volatile("" : "+r"(at)); /* the compiler checks a copy otherwise, and the verifier does not see it */
	if (at > MAX_L4_OFFSET)
		return 1;
	l4 = start + at;
	if (p->proto == IPPROTO_UDP) {
		struct udp *udp = l4;

		if ((void *)(udp + 1) > end)
			return 0;
		length = bpf_ntohs(udp->length);
		check = udp->check;
	} else if (p->proto == IPPROTO_TCP) {
		__be16 *words = l4;

		if ((void *)(words + 10) > end)
			return 0;
		length = bpf_xdp_get_buff_len(ctx) - at; /* of a short frame that the wire has padded, too much: then it is finished */
		check = words[8];
	} else {
		return p->proto == IPPROTO_SCTP; /* a CRC, which may be left to the device, too */
	}
	sum = (__u64)bpf_htons(p->proto) + bpf_htons(length);
	sum += (__u32)p->word[1] + (p->word[1] >> 32) + (__u32)p->word[2] + (p->word[2] >> 32);
	sum += (__u32)p->src[0] + (p->src[0] >> 32) + (__u32)p->src[1] + (p->src[1] >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	for (int i = 0; i < 3; i++)
		sum = (sum & 0xffff) + (sum >> 16);
	return check == (__be16)sum;
}

/* esp_in runs on outside interfaces. steering is a constant. */
static __always_inline int esp_from_outside(struct xdp_md *ctx, int steering)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct config *c = the_config();
	__u32 cpu = bpf_get_smp_processor_id(), to;
	struct packet p;

	if (!c)
		return XDP_PASS;
	parse(c, &p, start, end, DIR_IN, LINK_ETHERNET);
	to = inbound(ctx, c, cpu, &p, end);
	if (to == VERDICT_DROP)
		return XDP_DROP;
	if (!steering || to == VERDICT_PASS)
		return XDP_PASS;
	if (bpf_redirect_map(&cpus, to, XDP_PASS) != XDP_REDIRECT) {
		total_add(cpu, TOTAL_REDIRECT_FAILED);
		return XDP_PASS;
	}
	total_add(cpu, TOTAL_REDIRECTED);
	return XDP_REDIRECT;
}

SEC("xdp.frags")
int esp_in(struct xdp_md *ctx)
{
	return esp_from_outside(ctx, 1);
}

/* esp_in_stay never redirects: for devices that keep the VLAN tag beside the packet,
 * where a redirect would lose it, and for generic XDP. That gives a program that wants
 * more headroom a copy of the packet, without the length of its MAC header, and from
 * Linux 6.9 on what the CPUMAP gets of it begins with that header and not with IP's. */
SEC("xdp.frags")
int esp_in_stay(struct xdp_md *ctx)
{
	return esp_from_outside(ctx, 0);
}

/* grouped counts a packet in the group of its connection, and is the CPU of that. It is a
 * global function: the verifier looks at it once, not once for each kind of packet. */
__noinline __u32 grouped(__u32 cpu, __u32 hash, __u32 bytes)
{
	struct sa_key key = { .spi = bpf_htonl((__u64)hash * FLOW_GROUPS >> 32), .dir = DIR_FLOW };
	const struct config *c = the_config();
	struct index_entry *e;

	if (!c)
		return CPU_NONE;
	e = sa_find(c, cpu, &key);
	if (!e)
		return CPU_NONE;
	sa_count(e, 1, bytes);
	return placed(cpu, LOAD_ONCE(e->where));
}

/* flow_in runs on inside interfaces: clear packets of one flow go to one CPU, so that
 * they are encrypted there. Fragments stay, since only the first has ports, and what a
 * redirect would break; neither is a group's. */
SEC("xdp.frags")
int flow_in(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct config *c = the_config();
	__u32 cpu = bpf_get_smp_processor_id(), n, mode;
	struct packet p;
	__u64 word[3], h;

	if (!c)
		return XDP_PASS;
	mode = c->flow_steer;
	if (mode == FLOW_STAY)
		return XDP_PASS;
	parse(c, &p, start, end, DIR_IN, LINK_ETHERNET);
	if (!p.family || p.kind == KIND_MALFORMED)
		return XDP_PASS;
	if (p.kind == KIND_LATER_FRAGMENT || p.first_fragment) {
		total_add(cpu, TOTAL_FRAGMENT);
		return XDP_PASS;
	}
	/* Both addresses, both ports, the protocol: as in the hash of SAs, with secrets. */
	word[0] = (__u64)p.sport << 48 | (__u64)p.dport << 32 | (__u64)p.proto << 8 | p.family;
	word[1] = *(__u64 *)p.key.addr * c->hash_key[2] + *(__u64 *)(p.key.addr + 8);
	word[2] = p.src[0] * c->hash_key[0] + p.src[1];
	h = sa_hash(c, word);
	/* In either mode, and before: the verifier goes through it once for each kind of packet. */
	if (unfinished(ctx, &p, start, end)) {
		total_add(cpu, TOTAL_FLOW_UNFINISHED);
		return XDP_PASS;
	}
	n = mode == FLOW_LIST ? listed(c, h >> 32) : grouped(cpu, h >> 32, p.bytes);
	if (n == VERDICT_DROP)
		return XDP_DROP;
	if (n == cpu || n == CPU_NONE)
		return XDP_PASS;
	if (bpf_redirect_map(&cpus, n, XDP_PASS) != XDP_REDIRECT) {
		total_add(cpu, TOTAL_REDIRECT_FAILED);
		return XDP_PASS;
	}
	total_add(cpu, TOTAL_FLOW_REDIRECTED);
	return XDP_REDIRECT;
}

/* cpu_in runs in the thread of a CPUMAP entry: what it has taken from its queue. */
SEC("xdp.frags/cpumap")
int cpu_in(struct xdp_md *ctx)
{
	total_add(bpf_get_smp_processor_id(), TOTAL_CPU_TAKEN);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
