package table

import (
	"unsafe"

	"espalier/bpf"
)

// words are a key as the hash sees it.
type words [3]uint64

func wordsOf(k *bpf.Key) words {
	const size = unsafe.Sizeof(bpf.Key{})
	var _ [unsafe.Sizeof(words{})]byte = [size]byte{} // both have the same size
	return *(*words)(unsafe.Pointer(k))               // a Key is aligned in C; reading it unaligned is fine where Go runs
}

// place is where a key may lie.
type place struct {
	word   uint64 // the key word of its entry
	bucket uint32 // the first bucket
}

// placeOf has the same hash as headers/sa_index.h.
func placeOf(c *bpf.Config, k *bpf.Key) place {
	w := wordsOf(k)
	h := w[0]*c.HashKey[0] + w[1]*c.HashKey[1] + w[2]*c.HashKey[2]
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	h ^= h >> 29
	tag := uint32(h >> 32)
	if tag == 0 {
		tag = 1
	}
	return place{word: uint64(tag)<<32 | uint64(k.Spi), bucket: uint32(h) & (c.Buckets - 1)}
}

// other is the other bucket of an entry with this key word; other of that one is
// the first again.
func other(c *bpf.Config, bucket uint32, word uint64) uint32 {
	tag := uint32(word >> 32)
	return (bucket ^ (tag*0x5bd1e995 | 1)) & (c.Buckets - 1)
}

// valueOf is the value word of an entry: slot, CPU (all ones for none) and generation.
func valueOf(slot, cpu, generation uint32) uint64 {
	return uint64(slot) | uint64(uint16(min(cpu, 0xffff)))<<32 | uint64(uint16(generation))<<48
}
