/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * sa_index.h: from a packet's (direction, family, destination, SPI) to its SA's
 * slot, and counting there. dataplane/flow/table is the writer; it has the same
 * hash, and a test compares the two.
 */
#ifndef ESPALIER_SA_INDEX_H
#define ESPALIER_SA_INDEX_H

#include "layout.h"
#include "maps.h"

/* sa_hash: the key's three words, each times a secret odd number, summed and mixed.
 * Peers choose the SPIs of outbound SAs; without the secret they cannot aim at a bucket. */
static __always_inline __u64 sa_hash(const struct config *c, const __u64 *word)
{
	__u64 h = word[0] * c->hash_key[0] + word[1] * c->hash_key[1] + word[2] * c->hash_key[2];

	h ^= h >> 32;
	h *= 0x9e3779b97f4a7c15ULL;
	return h ^ h >> 29;
}

/* Where a key may lie: the first bucket is the hash's, each next one a step further. The
 * step is odd, so that no bucket comes twice. */
static __always_inline __u32 bucket_step(__u32 tag)
{
	return tag * 0x5bd1e995U | 1;
}

#define NOWHERE 0xffffffffU

/* sa_find_further looks into the buckets of a key after its first; row is where the
 * CPU's begin, mask says how many there are. It gives the place of the key in index,
 * bucket * INDEX_WAYS + way, or NOWHERE. Few packets need it. It is a global function:
 * the verifier looks at it once, not once for each way to here. */
__noinline __u32 sa_find_further(__u32 row, __u32 mask, __u32 bucket, __u64 want)
{
	__u32 step = bucket_step(want >> 32);

#pragma clang loop unroll(disable)
	for (__u32 i = 1; i < MAX_PROBES; i++) {
		struct index_bucket *b;
		__u32 n;

		bucket += step;
		n = row + (bucket & mask);
		b = bpf_map_lookup_elem(&index, &n);
		if (!b)
			break;
		if (LOAD_ONCE(b->way[0].key) == want)
			return n * INDEX_WAYS;
		if (LOAD_ONCE(b->way[1].key) == want)
			return n * INDEX_WAYS + 1;
		if (!(LOAD_ONCE(b->way[0].where) & ENTRY_PASSED))
			break;
	}
	return NOWHERE;
}

/* sa_find gives the entry of a key in the row of the CPU that runs; NULL: nobody's. */
static __always_inline struct index_entry *sa_find(const struct config *c, __u32 cpu, const struct sa_key *key)
{
	__u64 h = sa_hash(c, (const __u64 *)key);
	__u32 tag = h >> 32 ?: 1, mask = c->buckets - 1, row = cpu * c->buckets, n = row + ((__u32)h & mask), place;
	__u64 want = (__u64)tag << 32 | key->spi;
	struct index_bucket *b = bpf_map_lookup_elem(&index, &n);
	struct index_entry *e;
	__u64 other;

	if (!b)
		return NULL;
	/* Which of the two ways has it is as good as random, and where the line comes from memory a wrong guess
	 * is only noticed when it is there: what follows would be begun anew. So this is computed, not branched. */
	other = LOAD_ONCE(b->way[0].key) ^ want;
	other = (other | -other) >> 63;
	asm volatile("" : "+r"(other)); /* the compiler makes a branch of it otherwise */
	e = (void *)b + (other & 1) * sizeof(*e);
	if (likely(LOAD_ONCE(e->key) == want))
		return e;
	if (likely(!(LOAD_ONCE(b->way[0].where) & ENTRY_PASSED)))
		return NULL;
	place = sa_find_further(row, mask, h, want);
	if (place == NOWHERE)
		return NULL;
	n = place / INDEX_WAYS;
	b = bpf_map_lookup_elem(&index, &n);
	return b ? &b->way[place % INDEX_WAYS] : NULL;
}

/* sa_count adds packets to an entry. */
static __always_inline void sa_count(struct index_entry *e, __u32 packets, __u64 bytes)
{
	e->packets += packets;
	e->bytes += bytes;
	e->last_used = bpf_jiffies64() >> LAST_USED_SHIFT;
}

/* total_add adds one to a total, in the row of the CPU that runs. */
static __always_inline void total_add(__u32 cpu, enum total total)
{
	__u32 n = cpu * TOTALS + total;
	__u64 *count = bpf_map_lookup_elem(&totals, &n);

	if (count)
		*count += 1;
}

/* the_config: the one element; NULL only for the verifier. */
static __always_inline const struct config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

#endif
