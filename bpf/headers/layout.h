/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * layout.h: what the programs and user space share. Layout version 2. The Go
 * types are generated from it (bpf2go -type); nothing is mirrored by hand.
 *
 * How an SA is found and counted:
 *
 *   (direction, family, destination, SPI) --hash--> row of the CPU that runs, bucket, way:
 *       one cache line has the key, the slot, where to steer, and this CPU's counters
 *   slot --> sas[slot]      the whole key, flags, the CPU it is steered to, and its place
 *                           in the index: for user space
 *
 * index, sas, drop_counts, totals and config are BPF_F_MMAPABLE arrays. User space reads
 * and writes them through memory, without a system call per SPI. Each CPU has a row of the
 * index of its own, since it counts there; all rows have the same keys in the same places.
 *
 * A key may lie in any of its first MAX_PROBES buckets (sa_index.h says which), in the
 * first of them that had room, and stays where it was put: its counters lie there, and
 * nothing that was counted has to be moved. Half of the entries are always free, so nine
 * of ten keys are in their first bucket. A bucket that keys in the index had to go past
 * says so (ENTRY_PASSED); where one does not, no further one is looked into.
 *
 * Publication (user space is the only writer of keys and of sas, one process at a
 * time): sas[slot] is filled; the buckets that the key goes past are told; the entry's
 * counters are set to zero and `where` is written, then the key word, with one 64-bit
 * store, in row 0 last. Removal clears the key word, in row 0 first: so an entry counts as there when row 0 has it, and a daemon that takes over
 * makes the other rows so. Two keys of the same SPI whose tags are the same as well are
 * told apart by user space alone: it never has both in the index. Slot and entry are
 * handed out again together, after the SA's last read, with the next generation; until
 * then a program that has found the entry just before may still count in it.
 *
 * Layout 1 had `counters` (struct sa_counters_1) beside an index that all CPUs shared.
 * Its SAs and counts are taken over.
 */
#ifndef ESPALIER_LAYOUT_H
#define ESPALIER_LAYOUT_H

#define LAYOUT_VERSION 2

#define DIR_IN 0
#define DIR_OUT 1
#define DIR_FLOW 2 /* no SA, but a group of clear connections from inside that are steered and counted as one */

#define FLOW_GROUPS 128 /* numbered in the place of an SPI */

/* sa_key: an SA as packets name it. IPv4 destinations lie in the first four
 * bytes of addr, the rest is zero. spi and addr are in network order. */
struct sa_key {
	__be32 spi;
	__u8 dir;    /* DIR_* */
	__u8 family; /* 4, 6; 0 of a DIR_FLOW, whose addr is zero as well */
	__u16 zero;
	__u8 addr[16];
} __attribute__((aligned(8)));

/* An index entry, in the row of one CPU: key word 0 is free. tag is the upper half of a
 * keyed hash of the whole sa_key, never 0. The program that runs on that CPU writes the
 * last three fields. */
struct index_entry {
	__u64 key;       /* spi in the low half (as in the packet), tag in the high half */
	__u32 where;     /* see ENTRY_* */
	__u32 last_used; /* bpf_jiffies64() >> LAST_USED_SHIFT; 0: never. config.jiffies_hz says what a jiffy is */
	__u64 packets;
	__u64 bytes;     /* of the packet from its IP header on, as it is on the wire */
};

#define LAST_USED_SHIFT 3 /* more than a year until it comes round */

/* where: the slot and the CPU it is steered to (a copy of sas[slot].cpu, ENTRY_NO_CPU for
 * CPU_NONE), so that a packet needs nothing of sas. */
#define ENTRY_SLOT(where) ((where) & 0xfffff)
#define ENTRY_CPU(where) ((where) >> 20 & 0x7ff)
#define ENTRY_NO_CPU 0x7ff
#define ENTRY_MOVING 0x7fe /* it changes its CPU: sas[slot] says where each packet goes */
#define ENTRY_PASSED 0x80000000U /* in the first entry of a bucket, used or not: see above */

#define INDEX_WAYS 2
#define MAX_PROBES 24 /* buckets that a key may lie in */
struct index_bucket { /* one cache line; index cpu * config.buckets + bucket */
	struct index_entry way[INDEX_WAYS];
};

#define CPU_NONE 0xffffffffU /* not steered: stays on the CPU that received it */

#define CPU_SHED 0xfffffffeU /* as sa_slot.from */

#define SA_OWN 1        /* the daemon's own; otherwise somebody else's that is only counted */
#define SA_RESERVED 2   /* an SPI without SA yet: known to the guard */
#define SA_GONE 4       /* removed from the index; its counts can be read until the slot is given back */

struct sa_slot { /* one cache line */
	struct sa_key key;  /* 24 bytes */
	__u32 generation;   /* odd: in use */
	__u32 cpu;          /* where esp_in redirects its packets: CPU_NONE or an index of cpus */
	__u32 flags;        /* SA_* */
	__u32 reqid;
	__u32 if_id;
	/* Of an SA that changes its CPU, from `from` to `cpu`, without a packet overtaking another. The program counts
	 * the packets that come meanwhile in `passed`. User space writes `seen` when it knows that those before the first
	 * `seen` of them, and these, have all been delivered; the SA goes over (from = cpu) with the packet after them,
	 * and with no other: while packets are under way they are joined by those that follow. CPU_SHED drops packets,
	 * until bpf_ktime_get_ns() is `seen`. */
	__u32 from;         /* CPU_NONE, an index of cpus, or CPU_SHED */
	__u64 seen;         /* more than `passed` can be: it does not go over yet */
	__u32 passed;
	__u32 place;        /* of its entries: bucket * INDEX_WAYS + way. Layout 1: not used */
};

struct sa_counters_1 { /* of layout 1: index cpu * slots + slot */
	__u64 packets;
	__u64 bytes;
	__u64 last_used; /* bpf_jiffies64() */
	__u64 reserved;
};

/* Why a packet was lost. drop_counts[slot * DROP_REASONS + reason] for known SAs,
 * totals for what has no SA. Values never change their meaning. */
enum drop_reason {
	DROP_NONE = 0,
	DROP_REPLAY = 1,          /* seen before, or left of the window */
	DROP_INTEGRITY = 2,       /* ICV wrong */
	DROP_NO_STATE = 3,        /* no SA with this SPI */
	DROP_EXPIRED = 4,         /* the SA is past its hard limit, or not valid any more */
	DROP_NO_POLICY = 5,       /* inner packet: no policy allows it */
	DROP_POLICY_BLOCK = 6,    /* inner packet: a policy blocks it */
	DROP_TEMPLATE = 7,        /* inner packet: came by another SA than its policy asks for */
	DROP_MODE = 8,            /* mode or protocol of the SA does not fit the packet */
	DROP_SEQUENCE = 9,        /* the sequence number is used up */
	DROP_MEMORY = 10,         /* no kernel memory */
	DROP_HEADER = 11,         /* malformed header or padding */
	DROP_ENCAP = 12,          /* UDP encapsulation does not match the SA */
	DROP_OUT_NO_STATE = 13,   /* outbound: policy without SA */
	DROP_OUT_PROTO = 14,      /* outbound: transformation failed */
	DROP_OUT_BUNDLE = 15,     /* outbound: no route or bundle for the outer packet */
	DROP_OTHER = 16,          /* counted in xfrm_stat under a name not in this list */
	DROP_SELECTOR = 17,       /* inner packet: not what the SA's own selector says */
	DROP_REASONS = 20
};

/* Totals of packets that belong to no SA, and of what the programs did. One row a
 * CPU: totals[cpu * TOTALS + n]. */
enum total {
	TOTAL_ESP_UNKNOWN = 0,    /* ESP to our addresses with an SPI that is nobody's */
	TOTAL_ESP_TRANSIT,        /* ESP of others, passed by */
	TOTAL_IKE,                /* IKE to our addresses */
	TOTAL_KEEPALIVE,          /* NAT keepalives */
	TOTAL_FRAGMENT,           /* fragments: passed, never steered */
	TOTAL_REDIRECTED,         /* given to another CPU */
	TOTAL_REDIRECT_FAILED,    /* bpf_redirect_map refused: passed instead */
	TOTAL_FLOW_REDIRECTED,    /* clear packets given to another CPU */
	TOTAL_MSS_REWRITTEN,
	TOTAL_MSS_MALFORMED,      /* SYN whose options cannot be read: untouched */
	TOTAL_GUARD_UNKNOWN_SPI,  /* from here on: guard, dropped or (log-only) would be */
	TOTAL_GUARD_NOT_PEER,     /* IKE_SA_INIT from an address that is no peer's */
	TOTAL_GUARD_RATE,         /* IKE_SA_INIT above its prefix's rate */
	TOTAL_GUARD_IKE_SPI,      /* IKE for an IKE SPI that is not ours */
	TOTAL_GUARD_MALFORMED,    /* too short or impossible to be IKE or ESP */
	TOTAL_CPU_TAKEN,          /* packets that this CPU's thread took from its queue (cpu_in) */
	TOTAL_ESP_OUT_UNKNOWN,    /* ESP that left with an SPI that is nobody's */
	TOTAL_MALFORMED,          /* cut off or impossible before what it carries was known: passed */
	TOTAL_ESP_BEHIND,         /* ESP to our addresses for a host behind us (masqueraded), passed by */
	TOTAL_SHED,               /* dropped because its SA, or group of connections, was leaving a CPU that did not get through */
	TOTAL_FLOW_UNFINISHED,    /* clear packets that stay because their checksum is yet to be computed */
	TOTAL_SAMPLING = 31,      /* not a total: how many samples this CPU gave in which jiffy */
	TOTALS = 32
};

enum guard_mode { GUARD_OFF = 0, GUARD_LOG = 1, GUARD_ON = 2 };
enum steer_mode {
	STEER_OFF = 0,
	STEER_SLOT = 1, /* the CPU in the SA's index entry decides */
	STEER_HASH = 2  /* hash of SPI and addresses over cpus[0..config.cpus) */
};

enum flow_mode {
	FLOW_STAY = 0,
	FLOW_LIST = 1,  /* over steer_list */
	FLOW_GROUP = 2  /* over groups, and the CPU in the group's index entry decides */
};

#define IKE_PORTS 8
#define PORT_IKE 1   /* port 500: IKE without marker */
#define PORT_NATT 2  /* port 4500: non-ESP marker, ESP in UDP, keepalives */

#define STEER_LIST 128

struct port { /* host order; port 0: unused, ends the list */
	__u16 port;
	__u16 kind;
};

/* config: one element. User space writes single fields, aligned, at any time. */
struct config {
	__u32 layout;        /* LAYOUT_VERSION */
	__u32 slots;         /* capacity: of sas */
	__u32 buckets;       /* of a row of index, a power of two */
	__u32 cpus;          /* possible CPUs: rows of index and totals */
	__u64 hash_key[3];   /* secret, random and odd, chosen at creation: see sa_index.h */
	__u32 jiffies_hz;
	__u32 steer;         /* enum steer_mode */
	__u32 steer_cpus;    /* how many of steer_list count */
	__u32 flow_steer;    /* enum flow_mode, of the hash of the 5-tuple */
	__u32 guard;         /* enum guard_mode */
	__u32 guard_peers;   /* 1: IKE_SA_INIT only from prefixes in peers */
	__u32 init_rate;     /* IKE_SA_INIT per second and source prefix; 0: no limit */
	__u32 init_burst;
	__u8 prefix4;        /* length of the prefixes of init_rate: 24 to 32 */
	__u8 prefix6;        /* 56 to 128 */
	__u8 tail_known;     /* 1: every inbound SPI of the kernel is in the index (in step with XFRM); 0: guard only logs */
	__u8 mss;            /* 1: mss programs rewrite */
	struct port ports[IKE_PORTS];
	__u32 steer_list[STEER_LIST]; /* CPUs that may get work, for the hash policies; more often: more of it */
	__u32 alive_until;   /* second of the monotonic clock to which the daemon vouches for tail_known */
};

/* own_addrs (hash): the box's own addresses, to tell transit. Value: a __u32, unused.
 * ike_spis (hash): own IKE SPIs, a __u64 as in packets; the same value.
 * behind (LRU hash): where ESP goes that left with our address and no SA of ours, so
 * of hosts behind us; value: bpf_ktime_get_ns of the last, a __u64.
 * addr_key is the key of strangers and buckets as well. */
struct addr_key {
	__u8 family; /* 4, 6 */
	__u8 zero[3];
	__u8 addr[16];
};

/* peers (LPM trie) and mss_prefixes (LPM trie): prefixlen counts from family on,
 * so 32 bits more than the address prefix has. */
struct lpm_key {
	__u32 prefixlen;
	__u8 family;
	__u8 zero[3];
	__u8 addr[16];
};

/* What a SYN may announce at most, by family of the inner packet; 0: leave alone. */
struct mss_value {
	__u16 mss4;
	__u16 mss6;
};

/* buckets (LRU hash): IKE_SA_INIT tokens of a source prefix. */
struct token_bucket {
	__u64 stamp;  /* bpf_ktime_get_ns of the last refill */
	__u32 tokens; /* thousandths */
	__u32 zero;
};

/* cpus (CPUMAP): entry n is CPU n. As all kernels since 5.9 have it. */
struct cpumap_value {
	__u32 queue;   /* packets */
	__u32 program; /* a file descriptor when written, the program's id when read */
};

/* strangers (LRU hash, by source): ESP to our addresses with an SPI that is nobody's. */
struct stranger {
	__u64 packets;
	__u64 last; /* bpf_ktime_get_ns */
	__be32 spi; /* of the last one */
	__u32 zero;
};

/* A sample of drops, for espctl drop monitor (ring buffer "samples"). */
struct drop_sample {
	__u64 time; /* bpf_ktime_get_ns */
	struct sa_key key;
	__be32 seq; /* sequence number of the packet, 0 when unknown */
	__u32 reason;
	__u32 ifindex;
	__u32 length;
	__u8 src[16];
	__u8 guard; /* 1: dropped (or would be) by the guard, reason is then an enum total */
	__u8 family;
	__u8 zero[6];
};

#endif
