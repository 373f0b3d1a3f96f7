package dataplane

import (
	"fmt"
	"math/bits"
	"net/netip"
)

// Range is one side of a traffic selector (RFC 7296 3.13.1): an inclusive
// range of addresses of one family, a protocol, an inclusive range of ports.
type Range struct {
	Start, End         netip.Addr
	Proto              uint8  // IP protocol; 0: any
	StartPort, EndPort uint16 // 0 to 65535: any; for ICMP type<<8 | code
}

func (r Range) String() string {
	return fmt.Sprintf("%s-%s[%d/%d-%d]", r.Start, r.End, r.Proto, r.StartPort, r.EndPort)
}

// TooManyError says that ranges need more selectors than the limit allows; the
// caller narrows them (RFC 7296 2.9) or refuses.
type TooManyError struct {
	Local, Remote Range
	Need, Limit   int
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("traffic selectors %s and %s need %d kernel policies: expected at most %d", e.Local, e.Remote, e.Need, e.Limit)
}

// IP protocols whose packets the kernel can match by port, or by what it has
// instead: ICMP type and code, mobility header type, GRE key.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoDCCP   = 33
	protoICMPv6 = 58
	protoSCTP   = 132
	protoMH     = 135
	protoLite   = 136
)

// Expand turns a pair of ranges into the smallest set of disjoint prefix and
// port-mask selectors that match exactly the same packets, with Src and
// SrcPort from local. Errors: *TooManyError above limit; a plain one when the
// ranges contradict each other or the kernel cannot match them at all.
func Expand(local, remote Range, limit int) ([]Selector, error) {
	if err := checkRanges(&local, &remote); err != nil {
		return nil, err
	}
	proto := local.Proto
	if proto == 0 {
		proto = remote.Proto
	}
	ports, err := portMasks(proto, &local, &remote)
	if err != nil {
		return nil, err
	}
	var srcRoom, dstRoom [8]netip.Prefix // most ranges are one
	src, dst := appendPrefixes(srcRoom[:0], local.Start, local.End), appendPrefixes(dstRoom[:0], remote.Start, remote.End)
	// At most 254 prefixes a side and 30*30 pairs of masks: no overflow.
	if need := len(src) * len(dst) * len(ports); need > limit {
		return nil, &TooManyError{Local: local, Remote: remote, Need: need, Limit: limit}
	}
	out := make([]Selector, 0, len(src)*len(dst)*len(ports))
	for _, s := range src {
		for _, d := range dst {
			for _, p := range ports {
				out = append(out, Selector{
					Src: s, Dst: d, Proto: proto,
					SrcPort: p.src.value, SrcPortMask: p.src.mask,
					DstPort: p.dst.value, DstPortMask: p.dst.mask,
				})
			}
		}
	}
	return out, nil
}

func checkRanges(local, remote *Range) error {
	for _, r := range []*Range{local, remote} {
		if !r.Start.IsValid() || !r.End.IsValid() || r.Start.Is4() != r.End.Is4() || r.End.Less(r.Start) {
			return fmt.Errorf("address range %s-%s: expected two addresses of one family in order", r.Start, r.End)
		}
		if r.StartPort > r.EndPort {
			return fmt.Errorf("ports %d-%d: expected them in order; OPAQUE ports (RFC 4301 4.4.1.1) cannot be matched by the kernel", r.StartPort, r.EndPort)
		}
	}
	if local.Start.Is4() != remote.Start.Is4() {
		return fmt.Errorf("address ranges %s-%s and %s-%s: expected one family", local.Start, local.End, remote.Start, remote.End)
	}
	if local.Proto != remote.Proto && local.Proto != 0 && remote.Proto != 0 {
		return fmt.Errorf("protocols %d and %d: expected the same on both sides", local.Proto, remote.Proto)
	}
	return nil
}

// masked is a set of 16-bit numbers: those that equal value in the bits of mask.
type masked struct{ value, mask uint16 }

type portPair struct{ src, dst masked }

func (r *Range) anyPort() bool { return r.StartPort == 0 && r.EndPort == 65535 }

// anyPorts is the one pair of masks that every packet meets.
var anyPorts [1]portPair

func portMasks(proto uint8, local, remote *Range) ([]portPair, error) {
	if local.anyPort() && remote.anyPort() {
		return anyPorts[:], nil
	}
	switch proto {
	case protoICMP, protoICMPv6:
		// RFC 7296 3.13.1 has type and code in the port of either side; both
		// limited, a packet has to satisfy both.
		lo, hi := max(local.StartPort, remote.StartPort), min(local.EndPort, remote.EndPort)
		if lo > hi {
			return nil, fmt.Errorf("ICMP type and code %d-%d and %d-%d: expected ranges that overlap", local.StartPort, local.EndPort, remote.StartPort, remote.EndPort)
		}
		return icmpMasks(lo, hi), nil
	case protoTCP, protoUDP, protoDCCP, protoSCTP, protoLite:
		var out []portPair
		for _, s := range maskRange(local.StartPort, local.EndPort) {
			for _, d := range maskRange(remote.StartPort, remote.EndPort) {
				out = append(out, portPair{s, d})
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("ports %d-%d and %d-%d of protocol %d: expected a protocol with ports, or any port", local.StartPort, local.EndPort, remote.StartPort, remote.EndPort, proto)
}

// icmpMasks splits a range of type<<8|code: the kernel has the type as source
// port, the code as destination port.
func icmpMasks(lo, hi uint16) []portPair {
	var out []portPair
	for _, m := range maskRange(lo, hi) {
		out = append(out, portPair{
			src: masked{m.value >> 8, m.mask >> 8},
			dst: masked{m.value & 0xff, m.mask & 0xff},
		})
	}
	for i := range out {
		// A number that has only 8 bits is matched over all 16, so that an exact
		// one looks like an exact port.
		for _, m := range []*masked{&out[i].src, &out[i].dst} {
			if m.mask != 0 {
				m.mask |= 0xff00
			}
		}
	}
	return out
}

// maskRange covers lo to hi with the fewest prefixes: from the bottom, always
// the largest aligned block that fits.
func maskRange(lo, hi uint16) []masked {
	var out []masked
	for at := uint32(lo); at <= uint32(hi); {
		size := uint32(1) << min(16, bits.TrailingZeros32(at))
		for at+size-1 > uint32(hi) {
			size /= 2
		}
		out = append(out, masked{uint16(at), uint16(^(size - 1))})
		at += size
	}
	return out
}

// Prefixes covers start to end with the fewest prefixes.
func Prefixes(start, end netip.Addr) []netip.Prefix { return appendPrefixes(nil, start, end) }

func appendPrefixes(out []netip.Prefix, start, end netip.Addr) []netip.Prefix {
	for at := start; ; {
		bits := at.BitLen()
		// Widen the block while it still starts at at and ends within the range.
		for bits > 0 {
			wider, err := at.Prefix(bits - 1)
			if err != nil || wider.Addr() != at || end.Less(lastAddr(wider)) {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(at, bits)
		out = append(out, p)
		last := lastAddr(p)
		if last == end {
			return out
		}
		at = last.Next()
	}
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96 // As16 maps it
	}
	for i := bits / 8; i < len(b); i++ {
		if i == bits/8 {
			b[i] |= 0xff >> (bits % 8)
			continue
		}
		b[i] = 0xff
	}
	a := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

// Reverse is the selector of the same traffic seen from the other side: source
// and destination change places. ICMP type and code stay: the kernel looks for
// the type in the source port in every direction.
func (s Selector) Reverse() Selector {
	r := s
	r.Src, r.Dst = s.Dst, s.Src
	if s.Proto != protoICMP && s.Proto != protoICMPv6 && s.Proto != protoMH {
		r.SrcPort, r.SrcPortMask, r.DstPort, r.DstPortMask = s.DstPort, s.DstPortMask, s.SrcPort, s.SrcPortMask
	}
	return r
}

// Policy priorities that Priority gives. The kernel takes the smallest first,
// so what users set themselves goes below PriorityNarrowest to come before all
// of them, or above PriorityWidest to come after. The numbers are those that
// strongSwan's policies have, so that policies which its users made beside them
// keep their place.
const (
	PriorityWidest    = 399_999
	PriorityNarrowest = PriorityWidest - maxScore
	maxScore          = 256*prefixWeight + protoWeight + 32*portWeight + PriorityInterface
	prefixWeight      = 512
	protoWeight       = 256
	portWeight        = 4
	// PriorityInterface is by how much a policy of one interface comes before the
	// same for all.
	PriorityInterface = 2
)

// Priority orders policies so that of two whose selectors include one another
// the narrower comes first: prefix lengths count most, then the protocol, then
// the bits of the ports.
func Priority(s Selector) uint32 {
	score := prefixWeight*(s.Src.Bits()+s.Dst.Bits()) +
		portWeight*(bits.OnesCount16(s.SrcPortMask)+bits.OnesCount16(s.DstPortMask))
	if s.Proto != 0 {
		score += protoWeight
	}
	return uint32(PriorityWidest - score)
}
