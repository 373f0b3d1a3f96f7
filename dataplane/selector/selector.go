// Package selector is the arithmetic of traffic selectors (RFC 7296 2.9 and
// 3.13.1, RFC 4301 4.4.1.1): exact ranges of addresses and ports of one IP
// protocol, their text, intersection and narrowing. It knows neither IKE nor
// kernel; ranges stay ranges here.
package selector

import (
	"fmt"
	"net/netip"
	"strconv"
)

// IP protocols whose port fields hold something other than ports, or that the
// text form names.
const (
	ProtoICMP   uint8 = 1
	ProtoICMPv6 uint8 = 58
	protoMH     uint8 = 135 // mobility header: its type takes the port's place
)

// OPAQUE's port range (RFC 7296 3.13.1): start above end, on purpose.
const (
	opaqueStart uint16 = 65535
	opaqueEnd   uint16 = 0
)

// TS is one traffic selector: an inclusive range of addresses of one family and
// an inclusive range of ports. It is comparable; two selectors with the same
// meaning are ==, provided both are Valid.
//
// For ICMP and ICMPv6 a "port" is type*256 + code (RFC 7296 3.13.1). Ports with
// StartPort 65535 and EndPort 0 are OPAQUE: packets whose ports can't be seen,
// such as fragments. Any ports (0 to 65535) include OPAQUE.
type TS struct {
	Proto              uint8 // IP protocol; 0: any
	StartPort, EndPort uint16
	Start, End         netip.Addr // no zones, no IPv4-mapped IPv6
}

// FromPrefix returns the selector of all protocols and ports within the prefix.
// Host bits of the prefix's address are ignored.
func FromPrefix(p netip.Prefix) TS {
	start, end := prefixRange(p)
	return TS{EndPort: 65535, Start: start, End: end}
}

// Host returns the selector of all protocols and ports of one address.
func Host(a netip.Addr) TS {
	a = a.Unmap().WithZone("")
	return TS{EndPort: 65535, Start: a, End: a}
}

// Packet returns the selector of one packet seen from one end: its own address
// and port. A protocol without ports takes port 0 and means any port then, as
// RFC 7296 2.9 wants of the first selector that an initiator proposes.
func Packet(a netip.Addr, proto uint8, port uint16) TS {
	ts := Host(a)
	ts.Proto = proto
	if hasPorts(proto) {
		ts.StartPort, ts.EndPort = port, port
	}
	return ts
}

// hasPorts reports whether the protocol has ports, or a type in their place,
// that a selector can match.
func hasPorts(proto uint8) bool {
	switch proto {
	case 6, 17, 33, 132, 136, ProtoICMP, ProtoICMPv6, protoMH:
		return true
	}
	return false
}

// Valid reports whether the addresses are of one family, without zones and in
// order, and the ports in order or OPAQUE. Everything but Valid and String
// expects valid selectors; what comes from the network is checked with it.
func (t TS) Valid() bool {
	return t.Start.IsValid() && t.End.IsValid() &&
		t.Start.Zone() == "" && t.End.Zone() == "" &&
		!t.Start.Is4In6() && !t.End.Is4In6() &&
		t.Start.Is4() == t.End.Is4() && !t.End.Less(t.Start) &&
		(t.StartPort <= t.EndPort || t.Opaque())
}

// Opaque reports whether the selector matches only packets whose ports are
// hidden (RFC 7296 3.13.1).
func (t TS) Opaque() bool { return t.StartPort == opaqueStart && t.EndPort == opaqueEnd }

// AnyPort reports whether every port matches, hidden ones, too.
func (t TS) AnyPort() bool { return t.StartPort == 0 && t.EndPort == 65535 }

// IsHost reports whether the selector is about one address.
func (t TS) IsHost() bool { return t.Start == t.End }

// Prefix returns the address range as a prefix when it is exactly one.
func (t TS) Prefix() (netip.Prefix, bool) {
	if !t.Start.IsValid() || t.Start.BitLen() != t.End.BitLen() {
		return netip.Prefix{}, false
	}
	a, b := t.Start.AsSlice(), t.End.AsSlice()
	bits := 0
	for i := range a {
		if a[i] == b[i] {
			bits += 8
			continue
		}
		for m := byte(0x80); m != 0 && a[i]&m == b[i]&m; m >>= 1 {
			bits++
		}
		break
	}
	p := netip.PrefixFrom(t.Start, bits)
	start, end := prefixRange(p)
	return p, start == t.Start && end == t.End
}

// prefixRange returns the first and the last address of a prefix.
func prefixRange(p netip.Prefix) (start, end netip.Addr) {
	start = p.Masked().Addr().WithZone("")
	b := start.AsSlice()
	for i := range b {
		switch host := (i+1)*8 - p.Bits(); {
		case host >= 8:
			b[i] = 0xff
		case host > 0:
			b[i] |= byte(1<<host - 1)
		}
	}
	end, _ = netip.AddrFromSlice(b)
	return start, end
}

// String writes the selector as Parse reads it: "10.1.0.0/16[tcp/80]", a range
// as "10.0.0.1-10.0.0.9", without brackets when every protocol and port matches.
func (t TS) String() string {
	var room [96]byte
	return string(t.AppendTo(room[:0]))
}

// AppendTo appends what String writes.
func (t TS) AppendTo(b []byte) []byte {
	if p, ok := t.Prefix(); ok {
		b = p.AppendTo(b)
	} else {
		b = fmt.Appendf(b, "%s-%s", t.Start, t.End)
	}
	return append(b, t.protoPort()...)
}

// protoPort writes the part in brackets, or nothing when it does not restrict.
func (t TS) protoPort() string {
	if t.Proto == 0 && t.AnyPort() {
		return ""
	}
	name := protoName(t.Proto)
	switch {
	case t.AnyPort():
		return "[" + name + "]"
	case t.Opaque():
		return "[" + name + "/opaque]"
	case t.Proto == ProtoICMP || t.Proto == ProtoICMPv6:
		return "[" + name + "/" + t.icmp() + "]"
	case t.StartPort == t.EndPort:
		return "[" + name + "/" + strconv.Itoa(int(t.StartPort)) + "]"
	}
	return fmt.Sprintf("[%s/%d-%d]", name, t.StartPort, t.EndPort)
}

// icmp writes types and codes: "8" is type 8 with every code, "3(4)" one code,
// "3(1)-3(4)" a range of packed values, "8-11" whole types.
func (t TS) icmp() string {
	from, to := t.StartPort, t.EndPort
	whole := from&0xff == 0 && to&0xff == 0xff
	switch {
	case whole && from>>8 == to>>8:
		return strconv.Itoa(int(from >> 8))
	case whole:
		return fmt.Sprintf("%d-%d", from>>8, to>>8)
	case from == to:
		return fmt.Sprintf("%d(%d)", from>>8, from&0xff)
	}
	return fmt.Sprintf("%d(%d)-%d(%d)", from>>8, from&0xff, to>>8, to&0xff)
}
