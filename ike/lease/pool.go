// Package lease hands out virtual addresses from pools in memory
// (RFC 7296 2.19). It knows no time and no locks: who shares it, guards it.
package lease

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"espalier/ike/wire"
)

// Pool is a configured pool. It is immutable.
type Pool struct {
	Name, Origin string     // origin: "file" or "vici"; a reload touches only its own
	Start, End   netip.Addr // inclusive, of one family
	// Attrs are handed out beside the addresses.
	Attrs []wire.CfgAttribute
}

// maxSize bounds the offsets within a pool; what an IPv6 prefix has beyond is
// not used.
const maxSize = 1 << 62

// Size is how many addresses the pool has, at most 2^62.
func (p *Pool) Size() uint64 {
	startHi, startLo := halves(p.Start)
	endHi, endLo := halves(p.End)
	lo, borrow := bits.Sub64(endLo, startLo, 0)
	hi, _ := bits.Sub64(endHi, startHi, borrow)
	if hi != 0 || lo >= maxSize {
		return maxSize
	}
	return lo + 1
}

// Contains reports whether the address is one of the pool's.
func (p *Pool) Contains(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && a.Is4() == p.Start.Is4() && !a.Less(p.Start) && !p.End.Less(a)
}

// Overlaps reports whether both pools have an address.
func (p *Pool) Overlaps(o *Pool) bool { return o.Contains(p.Start) || p.Contains(o.Start) }

// at is the address with the offset from the first one, below Size.
func (p *Pool) at(offset uint64) netip.Addr {
	hi, lo := halves(p.Start)
	lo, carry := bits.Add64(lo, offset, 0)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], hi+carry)
	binary.BigEndian.PutUint64(b[8:], lo)
	a := netip.AddrFrom16(b)
	if p.Start.Is4() {
		return a.Unmap()
	}
	return a
}

func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
