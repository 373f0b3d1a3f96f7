/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * conntrack.h: the kernel's connection tracking, where it lets BPF ask (from 5.18
 * on, once nf_conntrack is loaded). Without it, the functions are missing symbols.
 */
#ifndef ESPALIER_CONNTRACK_H
#define ESPALIER_CONNTRACK_H

#include "parse.h"

struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr, daddr;
			__be16 sport, dport;
		} ipv4;
		struct {
			__be32 saddr[4], daddr[4];
			__be16 sport, dport;
		} ipv6;
	};
};

struct bpf_ct_opts { /* its first 12 bytes, which every kernel accepts */
	__s32 netns; /* -1: the device's */
	__s32 error;
	__u8 l4proto, dir, reserved[2];
};

struct nf_conn {
	unsigned long status;
} __core;

#define IPS_SRC_NAT (1 << 4)
#define IPS_DST_NAT (1 << 5)

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, __u32 tuple_size, struct bpf_ct_opts *opts,
					 __u32 opts_size) __weak __ksym;
extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple, __u32 tuple_size, struct bpf_ct_opts *opts,
					 __u32 opts_size) __weak __ksym;
extern void bpf_ct_release(struct nf_conn *ct) __weak __ksym;

/* conntrack_tuple fills the tuple of a UDP packet and says how much of it counts. */
static __always_inline __u32 conntrack_tuple(const struct packet *p, struct bpf_sock_tuple *t)
{
	if (p->family == 4) {
		t->ipv4.saddr = *(__be32 *)p->src;
		t->ipv4.daddr = *(__be32 *)p->key.addr;
		t->ipv4.sport = p->sport;
		t->ipv4.dport = p->dport;
		return sizeof(t->ipv4);
	}
	__builtin_memcpy(t->ipv6.saddr, p->src, 16);
	__builtin_memcpy(t->ipv6.daddr, p->key.addr, 16);
	t->ipv6.sport = p->sport;
	t->ipv6.dport = p->dport;
	return sizeof(t->ipv6);
}

/* conntrack_is_nat gives the connection back and says whether it is translated. */
static __always_inline int conntrack_is_nat(struct nf_conn *ct)
{
	unsigned long status;

	if (!ct)
		return 0;
	status = ct->status;
	bpf_ct_release(ct);
	return (status & (IPS_SRC_NAT | IPS_DST_NAT)) != 0;
}

#endif
