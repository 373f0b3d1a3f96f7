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

// indexWays are the entries of a bucket.
const indexWays = uint32(len(bpf.IndexBucket{}.Way))

// maxProbes is MAX_PROBES of headers/layout.h. One of so many buckets practically
// always has room, since at most half of the entries are in use.
const maxProbes = 24

// place is where a key may lie.
type place struct {
	word uint64 // the key word of its entry
	hash uint32 // its lower bits are the first bucket
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
	return place{word: uint64(tag)<<32 | uint64(k.Spi), hash: uint32(h)}
}

// bucket is the nth of the buckets that it may lie in, counted from 0.
func (p place) bucket(c *bpf.Config, n uint32) uint32 {
	step := uint32(p.word>>32)*0x5bd1e995 | 1
	return (p.hash + n*step) & (c.Buckets - 1)
}

// The parts of an entry's where (ENTRY_* of headers/layout.h).
const (
	slotBits = 20
	cpuMask  = 1<<11 - 1
	passed   = 1 << 31
)

// whereOf is what an entry says of its SA: slot, and CPU, all ones for none.
func whereOf(slot, cpu uint32) uint32 { return slot | min(cpu, cpuMask)<<slotBits }

// slotOf is the slot that an entry names.
func slotOf(where uint32) uint32 { return where & (1<<slotBits - 1) }

// cpuOf is the CPU that an entry names.
func cpuOf(where uint32) uint32 { return where >> slotBits & cpuMask }
