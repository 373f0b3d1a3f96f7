/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * parse.h: the one parser. It walks from the link header to what the programs tell
 * apart, and looks at nothing that is not there: every read is behind a comparison
 * with the end of the packet. What it cannot make sense of is passed on.
 */
#ifndef ESPALIER_PARSE_H
#define ESPALIER_PARSE_H

#include "kernel.h"
#include "layout.h"

/* What a packet is. */
enum kind {
	KIND_NOT_IP = 0,    /* or a device's own; none of our business */
	KIND_OTHER,         /* IP that is none of the kinds below */
	KIND_ESP,           /* plain or in UDP: key is complete */
	KIND_IKE,           /* header says where */
	KIND_KEEPALIVE,     /* NAT keepalive (RFC 3948 2.3) */
	KIND_LATER_FRAGMENT,
	KIND_BAD_ESP,       /* ESP or IKE by port or protocol, but too short or impossible */
	KIND_MALFORMED      /* broken before that is known */
};

enum via { UDP_NONE = 0, UDP_OURS, UDP_PEERS }; /* whose port it is by which ESP or IKE is known */

enum link { LINK_ETHERNET, LINK_RAW }; /* LINK_RAW: begins with the IP header */

struct packet {
	union {
		struct sa_key key; /* destination; of ESP the SPI, too */
		__u64 word[3];     /* the same, as it is written and hashed */
	};
	__u64 src[2];          /* source, as in sa_key */
	__u8 kind;             /* enum kind */
	__u8 family;           /* 4, 6; 0: not IP */
	__u8 proto;            /* of what header points to: IPPROTO_ESP, _UDP, _TCP ... */
	__u8 first_fragment;   /* more fragments follow */
	__u8 udp;              /* ESP, IKE: enum via */
	__u16 l4_offset;       /* from the beginning of the packet to the header after IP's */
	__be16 sport, dport;   /* TCP and UDP, else 0 */
	__be32 seq;            /* ESP's sequence number */
	__u32 bytes;           /* from the IP header on, as that header says */
	void *header;          /* ESP: its SPI; IKE: its header; else what follows IP's headers */
};

/* Parts of sa_key's first word. The key is put together in registers and written in
 * whole words: a CPU that reads eight bytes which lie in its store buffer as several
 * pieces waits until they are in the cache, behind every earlier write, and so behind the
 * counters of the packets before, which memory is still to deliver. */
#define WORD_DIR(dir) ((__u64)(dir) << 32)
#define WORD_FAMILY(family) ((__u64)(family) << 40)

/* word_at reads eight bytes of a packet, where four are aligned. */
static __always_inline __u64 word_at(const __be32 *half)
{
	return half[0] | (__u64)half[1] << 32;
}

struct ethhdr {
	__u8 dst[6], src[6];
	__be16 proto;
};

struct vlan_tag {
	__be16 tci, proto;
};

struct pppoe { /* session header (RFC 2516 4) and PPP protocol */
	__u8 version_type, code;
	__be16 session, length, proto;
};

struct ip4 {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, proto;
	__be16 check;
	__be32 src, dst;
};

struct ip6 {
	__be32 version_flow;
	__be16 length;
	__u8 next, hops;
	__be32 src[4], dst[4];
};

struct ip6_ext {
	__u8 next, length; /* in 8 bytes, without the first */
	__be16 fragment;   /* fragment header only: offset, flags */
	__be32 id;
};

struct udp {
	__be16 sport, dport, length, check;
};

struct esp {
	__be32 spi, seq;
};

struct ike {
	__be32 ispi[2], rspi[2];
	__u8 next, version, exchange, flags;
	__be32 id, length;
};

#define ETH_IP4 bpf_htons(0x0800)
#define ETH_IP6 bpf_htons(0x86dd)
#define ETH_VLAN bpf_htons(0x8100)
#define ETH_QINQ bpf_htons(0x88a8)
#define ETH_PPPOE bpf_htons(0x8864)
#define PPP_IP4 bpf_htons(0x0021)
#define PPP_IP6 bpf_htons(0x0057)

#define IPPROTO_HOPOPTS 0
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ESP 50
#define IPPROTO_DSTOPTS 60
#define IPPROTO_SCTP 132

#define MAX_IP6_EXT 5 /* extension headers; a packet with more is malformed to us */
#define MIN_SPI 256   /* below are reserved (RFC 4303 2.1) */

/* parse_esp: p->header points to what must be an ESP header. */
static __always_inline void parse_esp(struct packet *p, void *end)
{
	struct esp *esp = p->header;

	if ((void *)(esp + 1) > end || bpf_ntohl(esp->spi) < MIN_SPI) {
		p->kind = KIND_BAD_ESP;
		return;
	}
	p->word[0] |= esp->spi;
	p->seq = esp->seq;
	p->kind = KIND_ESP;
}

/* port_kind says what a port of ours, in network order, is for: 0 nothing. */
static __always_inline __u16 port_kind(const struct config *c, __be16 port)
{
	__u16 want = bpf_ntohs(port);

	for (int i = 0; i < IKE_PORTS; i++) {
		if (!c->ports[i].port)
			return 0;
		if (c->ports[i].port == want)
			return c->ports[i].kind;
	}
	return 0;
}

/* parse_udp: IKE, keepalives and ESP in UDP (RFC 3948 2) on a port of ours; what leaves from
 * another one, to the port for it, may be of an SA of a single CPU, which has its own. */
static __always_inline void parse_udp(const struct config *c, struct packet *p, void *end)
{
	struct udp *udp = p->header;
	__u32 length;
	__u16 kind;

	if ((void *)(udp + 1) > end) {
		p->kind = KIND_MALFORMED;
		return;
	}
	p->sport = udp->sport;
	p->dport = udp->dport;
	kind = port_kind(c, p->key.dir == DIR_IN ? udp->dport : udp->sport);
	if (kind) {
		p->udp = UDP_OURS;
	} else {
		if (p->key.dir == DIR_IN)
			return;
		kind = port_kind(c, udp->dport);
		if (kind != PORT_NATT)
			return;
		p->udp = UDP_PEERS;
	}
	p->header = udp + 1;
	length = bpf_ntohs(udp->length) - (__u32)sizeof(*udp);
	if (kind == PORT_NATT) {
		__u8 *first = p->header;

		if (length == 1 && (void *)(first + 1) <= end && *first == 0xff) {
			p->kind = KIND_KEEPALIVE;
			return;
		}
		if ((void *)(first + 4) > end || length - 4 > 0xffff) {
			p->kind = KIND_BAD_ESP;
			return;
		}
		if (*(__be32 *)first) {
			parse_esp(p, end);
			return;
		}
		p->header = first + 4;
		length -= 4;
	}
	p->kind = KIND_IKE;
	if (p->header + sizeof(struct ike) > end || length - (__u32)sizeof(struct ike) > 0xffff)
		p->kind = KIND_BAD_ESP;
}

/* parse_l4: what follows IP's headers is at p->header. */
static __always_inline void parse_l4(const struct config *c, struct packet *p, void *end)
{
	if (p->proto == IPPROTO_ESP) {
		parse_esp(p, end);
	} else if (p->proto == IPPROTO_UDP) {
		parse_udp(c, p, end);
	} else if (p->proto == IPPROTO_TCP) {
		struct udp *ports = p->header; /* TCP's are in the same place */

		if ((void *)(ports + 1) <= end) {
			p->sport = ports->sport;
			p->dport = ports->dport;
		}
	}
}

static __always_inline void parse_ip4(const struct config *c, struct packet *p, struct ip4 *ip, void *start, void *end)
{
	__u32 header;

	p->kind = KIND_MALFORMED;
	if ((void *)(ip + 1) > end)
		return;
	header = (ip->version_ihl & 15) * 4;
	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip) || bpf_ntohs(ip->length) < header)
		return;
	p->family = 4;
	p->word[0] |= WORD_FAMILY(4);
	p->word[1] = ip->dst;
	p->src[0] = ip->src;
	p->bytes = bpf_ntohs(ip->length);
	p->proto = ip->proto;
	if (unlikely(ip->fragment & bpf_htons(0x3fff))) {
		if (ip->fragment & bpf_htons(0x1fff)) {
			p->kind = KIND_LATER_FRAGMENT;
			return;
		}
		p->first_fragment = 1;
	}
	p->header = (void *)ip + header;
	if (p->header > end)
		return;
	p->l4_offset = p->header - start;
	p->kind = KIND_OTHER;
	parse_l4(c, p, end);
}

static __always_inline void parse_ip6(const struct config *c, struct packet *p, struct ip6 *ip, void *start, void *end)
{
	void *at = ip + 1;
	__u8 next;

	p->kind = KIND_MALFORMED;
	if (at > end || (*(__u8 *)ip >> 4) != 6)
		return;
	p->family = 6;
	p->word[0] |= WORD_FAMILY(6);
	p->word[1] = word_at(ip->dst);
	p->word[2] = word_at(ip->dst + 2);
	p->src[0] = word_at(ip->src);
	p->src[1] = word_at(ip->src + 2);
	p->bytes = bpf_ntohs(ip->length) + (__u32)sizeof(*ip);
	next = ip->next;
	for (int i = 0; i <= MAX_IP6_EXT; i++) {
		struct ip6_ext *ext = at;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if (i == MAX_IP6_EXT || (void *)(ext + 1) > end)
			return;
		if (next == IPPROTO_FRAGMENT) {
			if (ext->fragment & bpf_htons(0xfff8)) {
				p->proto = ext->next;
				p->kind = KIND_LATER_FRAGMENT;
				return;
			}
			p->first_fragment = ext->fragment & bpf_htons(1) ? 1 : 0;
			at += sizeof(*ext);
		} else {
			at += (ext->length + 1) * 8;
		}
		next = ext->next;
	}
	if (at > end)
		return;
	p->proto = next;
	p->header = at;
	p->l4_offset = at - start;
	p->kind = KIND_OTHER;
	parse_l4(c, p, end);
}

/* parse fills p, for a packet that comes in or goes out (dir); link is a constant. */
static __always_inline void parse(const struct config *c, struct packet *p, void *start, void *end, int dir, int link)
{
	void *at = start;
	__be16 proto;

	*p = (struct packet){ .word[0] = WORD_DIR(dir), .header = start };
	if (link == LINK_ETHERNET) {
		struct ethhdr *eth = at;

		if ((void *)(eth + 1) > end) {
			p->kind = KIND_MALFORMED;
			return;
		}
		proto = eth->proto;
		at = eth + 1;
		for (int i = 0; i < 2; i++) {
			struct vlan_tag *tag = at;

			if (likely(proto != ETH_VLAN && proto != ETH_QINQ))
				break;
			if ((void *)(tag + 1) > end) {
				p->kind = KIND_MALFORMED;
				return;
			}
			proto = tag->proto;
			at = tag + 1;
		}
		if (proto == ETH_PPPOE) {
			struct pppoe *ppp = at;

			if ((void *)(ppp + 1) > end) {
				p->kind = KIND_MALFORMED;
				return;
			}
			if (ppp->version_type != 0x11 || ppp->code)
				return;
			proto = ppp->proto == PPP_IP4 ? ETH_IP4 : ppp->proto == PPP_IP6 ? ETH_IP6 : 0;
			at = ppp + 1;
		}
	} else {
		if (at + 1 > end) {
			p->kind = KIND_MALFORMED;
			return;
		}
		proto = *(__u8 *)at >> 4 == 4 ? ETH_IP4 : *(__u8 *)at >> 4 == 6 ? ETH_IP6 : 0;
	}
	if (proto == ETH_IP4)
		parse_ip4(c, p, at, start, end);
	else if (proto == ETH_IP6)
		parse_ip6(c, p, at, start, end);
}

#endif
