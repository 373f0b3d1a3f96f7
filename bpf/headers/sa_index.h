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

/* The first bucket of a key comes from the hash, the second from the first and the tag. */
static __always_inline __u32 other_bucket(__u32 bucket, __u32 tag, __u32 mask)
{
	return (bucket ^ (tag * 0x5bd1e995U | 1)) & mask;
}

/* same is 1 when both words are equal, without a branch: where an entry lies among the
 * four of a bucket cannot be predicted, and a wrong guess about a word that is not in
 * the cache yet costs all the work that could be done meanwhile. */
static __always_inline __u64 same(__u64 a, __u64 b)
{
	__u64 x = a ^ b;

	x = (x | -x) >> 63;
	asm volatile("" : "+r"(x)); /* or the compiler makes a branch of it */
	return x ^ 1;
}

/* home_touch reads the counters that the first SAs of a bucket have (user space gives
 * them the slots 2 * bucket and 2 * bucket + 1, while those are free): memory delivers
 * them at the same time as the bucket, instead of afterwards. */
static __always_inline void home_touch(const struct config *c, __u32 cpu, __u32 bucket)
{
	__u32 n = cpu * c->slots + HOME_SLOTS * bucket;
	struct sa_counters *count = bpf_map_lookup_elem(&counters, &n);

	if (count)
		(void)LOAD_ONCE(count->packets);
}

/* sa_find gives the value of a key's entry (see ENTRY_*), and whether there is one. It
 * looks into the first bucket once more after the second: an entry that moved from the
 * second to the first meanwhile was in neither when it was looked for. */
static __always_inline int sa_find(const struct config *c, __u32 cpu, const struct sa_key *key, __u64 *value)
{
	__u64 h = sa_hash(c, (const __u64 *)key);
	__u32 mask = c->buckets - 1, tag = h >> 32 ?: 1, n = h & mask;
	__u64 want = (__u64)tag << 32 | key->spi;

	home_touch(c, cpu, n);
	for (int pass = 0; pass < 3; pass++) {
		struct index_bucket *b = bpf_map_lookup_elem(&index, &n);
		struct index_entry *e;
		__u64 way;

		if (!b)
			return 0;
		way = same(LOAD_ONCE(b->way[1].key), want) | same(LOAD_ONCE(b->way[2].key), want) << 1 | same(LOAD_ONCE(b->way[3].key), want) * 3;
		e = &b->way[way & (INDEX_WAYS - 1)];
		if (LOAD_ONCE(e->key) == want) {
			*value = LOAD_ONCE(e->value);
			if (LOAD_ONCE(e->key) == want)
				return 1;
		}
		n = other_bucket(n, tag, mask);
	}
	return 0;
}

/* sa_count adds packets to the row of the CPU that runs, and says how many that makes. */
static __always_inline __u64 sa_count(const struct config *c, __u32 cpu, __u32 slot, __u32 packets, __u64 bytes)
{
	__u32 n = cpu * c->slots + slot;
	struct sa_counters *count = bpf_map_lookup_elem(&counters, &n);

	if (!count)
		return 0;
	count->packets += packets;
	count->bytes += bytes;
	count->last_used = bpf_jiffies64();
	return count->packets;
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
