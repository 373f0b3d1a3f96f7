package wire

import (
	"encoding/binary"
	"net/netip"
)

// selectorLen is the length of a traffic selector before its addresses (RFC 7296 3.13.1).
const selectorLen = 8

// TS is the Traffic Selector payload (RFC 7296 3.13): TSi with Initiator set, else TSr. Parsing wants at least one
// selector.
type TS struct {
	Initiator bool
	Selectors []TrafficSelector // at most MaxSelectors
}

// TrafficSelector is one range of addresses and ports (RFC 7296 3.13.1).
//
// Protocol 0 means any. Ports 0 to 65535 mean any port, or that the protocol has none; 65535 to 0 (start above end)
// means OPAQUE: only packets whose ports can't be seen, such as later fragments. For ICMP and ICMPv6 (1 and 58) a
// port is type in the upper and code in the lower octet; for Mobile IPv6 (135) the message type in the upper.
//
// Parsing refuses a range whose end lies before its start, but for OPAQUE. An IPv6 range keeps IPv4-mapped addresses
// as such.
//
// A selector of a type other than TSIPv4AddrRange and TSIPv6AddrRange has only TSType, Protocol (its second octet,
// whatever that means there) and Raw.
type TrafficSelector struct {
	TSType             TSType
	Protocol           uint8 // IP protocol number, 0 for any
	StartPort, EndPort uint16
	Start, End         netip.Addr // inclusive
	Raw                []byte     // of other types: what follows the selector's length field
}

// Opaque reports whether the ports are OPAQUE (RFC 7296 3.13.1).
func (s *TrafficSelector) Opaque() bool { return s.StartPort == 0xffff && s.EndPort == 0 }

// AnyPort reports whether every port, and a packet without ports, matches.
func (s *TrafficSelector) AnyPort() bool { return s.StartPort == 0 && s.EndPort == 0xffff }

// IsAddrRange reports whether the selector is an IPv4 or IPv6 address range, so that all fields but Raw are filled.
func (s *TrafficSelector) IsAddrRange() bool {
	return s.TSType == TSIPv4AddrRange || s.TSType == TSIPv6AddrRange
}

// NewTrafficSelector makes a selector for the addresses start to end, both of one family, and the type that fits it.
func NewTrafficSelector(protocol uint8, start, end netip.Addr, startPort, endPort uint16) TrafficSelector {
	t := TSIPv6AddrRange
	if start.Is4() {
		t = TSIPv4AddrRange
	}
	return TrafficSelector{TSType: t, Protocol: protocol, StartPort: startPort, EndPort: endPort, Start: start, End: end}
}

// Type is PayloadTSi or PayloadTSr.
func (p *TS) Type() PayloadType {
	if p.Initiator {
		return PayloadTSi
	}
	return PayloadTSr
}

// AppendBody appends the selectors. An address that does not fit its selector's type is written as zeros.
func (p *TS) AppendBody(b []byte) []byte {
	b = append(b, byte(len(p.Selectors)), 0, 0, 0)
	for i := range p.Selectors {
		b = p.Selectors[i].append(b)
	}
	return b
}

func (s *TrafficSelector) append(b []byte) []byte {
	b = append(b, byte(s.TSType), s.Protocol)
	b = binary.BigEndian.AppendUint16(b, uint16(s.len()))
	if !s.IsAddrRange() {
		return append(b, s.Raw...)
	}
	b = binary.BigEndian.AppendUint16(b, s.StartPort)
	b = binary.BigEndian.AppendUint16(b, s.EndPort)
	return appendAddr(appendAddr(b, s.TSType, s.Start), s.TSType, s.End)
}

func appendAddr(b []byte, t TSType, a netip.Addr) []byte {
	if t == TSIPv4AddrRange {
		var v4 [4]byte
		if a = a.Unmap(); a.Is4() {
			v4 = a.As4()
		}
		return append(b, v4[:]...)
	}
	var v6 [16]byte
	if a.IsValid() {
		v6 = a.As16()
	}
	return append(b, v6[:]...)
}

func (s *TrafficSelector) len() int {
	switch s.TSType {
	case TSIPv4AddrRange:
		return selectorLen + 2*4
	case TSIPv6AddrRange:
		return selectorLen + 2*16
	}
	return 4 + len(s.Raw)
}

func (p *TS) bodyLen() int {
	n := 4
	for i := range p.Selectors {
		n += p.Selectors[i].len()
	}
	return n
}

func parseTS(r reader) (*TS, error) {
	if err := r.need(4, "a number of traffic selectors and reserved field"); err != nil {
		return nil, err
	}
	n := int(r.take(4)[0])
	if n == 0 {
		return nil, r.failAt(-4, "at least 1 traffic selector", "0")
	}
	p := &TS{Initiator: r.payload == PayloadTSi}
	if 4*n > len(r.b) {
		return nil, r.fail(itoa(n)+" traffic selectors", octets(len(r.b)))
	}
	p.Selectors = make([]TrafficSelector, n)
	for i := range p.Selectors {
		if err := p.Selectors[i].parse(&r); err != nil {
			return nil, err
		}
	}
	if len(r.b) != 0 {
		return nil, r.fail("the end of the payload after "+itoa(n)+" traffic selectors", octets(len(r.b))+" more")
	}
	return p, nil
}

func (s *TrafficSelector) parse(r *reader) error {
	if err := r.need(4, "a traffic selector header"); err != nil {
		return err
	}
	s.TSType, s.Protocol = TSType(r.b[0]), r.b[1]
	n := int(binary.BigEndian.Uint16(r.b[2:]))
	if !s.IsAddrRange() {
		if n < 4 || n > len(r.b) {
			return r.failAt(2, "a traffic selector length from 4 to "+itoa(len(r.b)), itoa(n))
		}
		r.take(4)
		s.Raw = r.take(n - 4)
		return nil
	}
	if want := s.len(); n != want {
		return r.failAt(2, "a "+s.TSType.String()+" length of "+itoa(want), itoa(n))
	}
	if err := r.need(n, "a traffic selector"); err != nil {
		return err
	}
	s.StartPort, s.EndPort = binary.BigEndian.Uint16(r.b[4:]), binary.BigEndian.Uint16(r.b[6:])
	size := (n - selectorLen) / 2
	s.Start, _ = netip.AddrFromSlice(r.b[selectorLen : selectorLen+size])
	s.End, _ = netip.AddrFromSlice(r.b[selectorLen+size : n])
	if s.StartPort > s.EndPort && !s.Opaque() {
		return r.failAt(4, "a start port not above the end port, or 65535 to 0 (OPAQUE)",
			itoa(int(s.StartPort))+" to "+itoa(int(s.EndPort)))
	}
	if s.End.Less(s.Start) {
		return r.failAt(selectorLen, "a start address not above the end address", s.Start.String()+" to "+s.End.String())
	}
	r.take(n)
	return nil
}
