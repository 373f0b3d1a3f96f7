/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * xfrm.h: the few fields of kernel structures that drops.c reads. Their places come
 * from the running kernel's BTF (CO-RE); only names count here.
 */
#ifndef ESPALIER_XFRM_H
#define ESPALIER_XFRM_H

#include "kernel.h"
#include "sa_index.h"
#include "sample.h"

#define AF_INET 2
#define AF_INET6 10

struct linux_xfrm_mib {
	unsigned long mibs[1]; /* as many as the kernel has */
} __core;

struct netns_mib {
	struct linux_xfrm_mib *xfrm_statistics; /* per CPU */
} __core;

struct net {
	struct netns_mib mib;
} __core;

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __core;

typedef union {
	__be32 a4;
	__be32 a6[4];
} xfrm_address_t;

struct xfrm_id {
	xfrm_address_t daddr;
	__be32 spi;
} __core;

struct xfrm_state {
	possible_net_t xs_net;
	struct xfrm_id id;
	struct {
		__u16 family;
	} props;
} __core;

struct sec_path {
	int len;
	struct xfrm_state *xvec[6];
} __core;

struct skb_ext {
	__u8 offset[1];
} __core;

enum skb_ext_id { SKB_EXT_SEC_PATH = 1 };

struct dst_entry {
	struct xfrm_state *xfrm;
} __core;

struct sk_buff {
	unsigned long _skb_refdst;
	__u8 active_extensions;
	unsigned int len;
	__u16 transport_header;
	__u16 network_header;
	unsigned char *head;
	struct skb_ext *extensions;
	struct net_device *dev;
} __core;

/* GET reads a field of a structure that the verifier knows nothing of. */
#define GET(to, from, field) bpf_probe_read_kernel(to, sizeof(*(to)), __builtin_preserve_access_index(&(from)->field))

/* The counters of /proc/net/xfrm_stat (enum in linux/snmp.h; numbers never change,
 * older kernels have fewer). Which may grow while a function handles a packet. */
#define STATS 33
#define STAT(n) (1ULL << (n))
#define STAT_RANGE(from, to) (STAT((to) + 1) - STAT(from))
#define STATS_IN (STAT_RANGE(1, 10) | STAT(28) | STAT(30) | STAT(31))
#define STATS_POLICY (STAT(3) | STAT(9) | STAT_RANGE(11, 14))
#define STATS_OUT (STAT_RANGE(15, 22) | STAT(27) | STAT(29))

/* reason_of says what a counter means. What an audit function tells as well is left to it. */
static __always_inline __u32 reason_of(__u32 stat, int by_policy, __u32 audited)
{
	switch (stat) {
	case 2: return DROP_MEMORY;
	case 3: return DROP_HEADER;
	case 4: return audited ? DROP_NONE : DROP_NO_STATE;
	case 5: return audited ? DROP_HEADER : DROP_INTEGRITY; /* padding; without audit mostly the ICV */
	case 6: return DROP_MODE;
	case 7: return audited ? DROP_NONE : DROP_REPLAY;
	case 8: return DROP_EXPIRED;
	case 9: return by_policy ? DROP_SELECTOR : DROP_ENCAP;
	case 10: return DROP_EXPIRED;
	case 11: return DROP_TEMPLATE;
	case 12: return DROP_NO_POLICY;
	case 13: return DROP_POLICY_BLOCK;
	case 16: case 17: return DROP_OUT_BUNDLE;
	case 18: return DROP_OUT_NO_STATE;
	case 19: case 20: return DROP_OUT_PROTO;
	case 21: return audited ? DROP_NONE : DROP_SEQUENCE;
	case 22: case 27: return DROP_EXPIRED;
	case 28: return DROP_NO_STATE; /* the SA is still a larval one */
	case 29: case 30: return DROP_MODE;
	}
	return DROP_OTHER;
}

/* read_stats reads as many counters as this kernel has. */
static __always_inline long read_stats(__u64 *to, const void *from)
{
	__u32 size = __builtin_preserve_type_info(*(struct linux_xfrm_mib *)0, 1); /* its size */

	return bpf_probe_read_kernel(to, MIN(size, STATS * sizeof(__u64)), from);
}

extern void __per_cpu_offset __weak __ksym;

/* stats_of is where this CPU's counters of a network namespace are; NULL: not to be had. */
static __always_inline void *stats_of(const struct net *net)
{
	__u64 offset = 0, base = 0;

	if (!&__per_cpu_offset || !net || GET(&base, net, mib.xfrm_statistics) ||
	    bpf_probe_read_kernel(&offset, sizeof(offset), (void *)&__per_cpu_offset + bpf_get_smp_processor_id() * 8))
		return NULL;
	return (void *)(base + offset);
}

/* read_packet: addresses, length and device of the packet, as far as its IP header lies in one piece. */
static __always_inline void read_packet(struct sk_buff *skb, int six, struct drop_sample *d)
{
	void *ip = skb->head + skb->network_header;
	__u8 version = 0;

	d->length = skb->len;
	if (skb->dev)
		d->ifindex = skb->dev->ifindex;
	bpf_probe_read_kernel(&version, 1, ip);
	if (version >> 4 == 4 && !six) {
		d->family = d->key.family = 4;
		bpf_probe_read_kernel(d->src, 4, ip + 12);
		bpf_probe_read_kernel(d->key.addr, 4, ip + 16);
	} else if (version >> 4 == 6) {
		d->family = d->key.family = 6;
		bpf_probe_read_kernel(d->src, 16, ip + 8);
		bpf_probe_read_kernel(d->key.addr, 16, ip + 24);
	}
}

/* read_spi: SPI and sequence number of an ESP packet that is about to be decrypted. */
static __always_inline void read_spi(struct sk_buff *skb, __be32 spi, struct drop_sample *d)
{
	struct esp esp = {};

	bpf_probe_read_kernel(&esp, sizeof(esp), skb->head + skb->transport_header);
	d->key.spi = spi ?: esp.spi;
	d->seq = esp.seq;
}

/* read_state: the SA's key, whatever the packet looks like by now. */
static __always_inline void read_state(struct xfrm_state *x, __u8 dir, struct drop_sample *d)
{
	__u16 family = 0;

	GET(&family, x, props.family);
	__builtin_memset(&d->key, 0, sizeof(d->key));
	d->key.dir = dir;
	GET(&d->key.spi, x, id.spi);
	if (family == AF_INET) {
		d->key.family = 4;
		bpf_probe_read_kernel(d->key.addr, 4, __builtin_preserve_access_index(&x->id.daddr));
	} else {
		d->key.family = 6;
		bpf_probe_read_kernel(d->key.addr, 16, __builtin_preserve_access_index(&x->id.daddr));
	}
}

/* last_state is the SA that a packet was decrypted with last; NULL: none. */
static __always_inline struct xfrm_state *last_state(struct sk_buff *skb)
{
	__u32 id = __builtin_preserve_enum_value(*(enum skb_ext_id *)SKB_EXT_SEC_PATH, 1);
	struct skb_ext *ext = skb->extensions;
	struct xfrm_state *x = NULL;
	struct sec_path *path;
	__u8 offset = 0;
	int len = 0;

	if (!(skb->active_extensions >> (id & 7) & 1))
		return NULL;
	bpf_probe_read_kernel(&offset, 1, (void *)__builtin_preserve_access_index(&ext->offset) + id);
	path = (void *)ext + offset * 8;
	GET(&len, path, len);
	if (len < 1 || len > 6)
		return NULL;
	bpf_probe_read_kernel(&x, sizeof(x), (void *)__builtin_preserve_access_index(&path->xvec) + (len - 1) * 8);
	return x;
}

/* output_state is the SA that a packet is to be encrypted with next; NULL: none. */
static __always_inline struct xfrm_state *output_state(struct sk_buff *skb)
{
	struct dst_entry *dst = (void *)(skb->_skb_refdst & ~1UL);
	struct xfrm_state *x = NULL;

	if (dst)
		GET(&x, dst, xfrm);
	return x;
}

/* xfrm_output_resume(sk, skb, err) */
#define OUTPUT_SKB 1

#endif
