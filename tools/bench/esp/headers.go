package esp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"espalier/dataplane"
)

// Lengths of headers in bytes.
const (
	ethLen  = 14
	ipv4Len = 20
	ipv6Len = 40
	udpLen  = 8
)

// Link is the Ethernet header of all frames.
type Link struct {
	Src, Dst net.HardwareAddr
	// VLAN is the tag's id, 1 to 4094; 0: none.
	VLAN uint16
}

// header is the link's Ethernet header for an IP packet of that family.
func (l *Link) header(v6 bool) ([]byte, error) {
	if len(l.Src) != 6 || len(l.Dst) != 6 {
		return nil, fmt.Errorf("link: expected two Ethernet addresses, got %q and %q", l.Src, l.Dst)
	}
	b := append(append(make([]byte, 0, ethLen+4), l.Dst...), l.Src...)
	if l.VLAN != 0 {
		b = append(b, 0x81, 0x00)
		b = binary.BigEndian.AppendUint16(b, l.VLAN)
	}
	if v6 {
		return append(b, 0x86, 0xdd), nil
	}
	return append(b, 0x08, 0x00), nil
}

// outerHeaders are those before ESP, without lengths and checksums.
func outerHeaders(sa *dataplane.SA) []byte {
	proto := byte(protoESP)
	if sa.Encap != nil {
		proto = protoUDP
	}
	b := ipHeader(sa.Src, sa.Dst, proto)
	if sa.Encap != nil {
		b = binary.BigEndian.AppendUint16(b, sa.Encap.SrcPort)
		b = binary.BigEndian.AppendUint16(b, sa.Encap.DstPort)
		b = append(b, 0, 0, 0, 0)
	}
	return b
}

// ipHeader is an IP header without length and checksum: don't fragment, 64 hops.
func ipHeader(src, dst netip.Addr, proto byte) []byte {
	if src.Is4() {
		b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0}
		return append(append(b, src.AsSlice()...), dst.AsSlice()...)
	}
	b := []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
	return append(append(b, src.AsSlice()...), dst.AsSlice()...)
}

// finishOuter writes lengths and checksums. ESP in UDP has none over IPv4 (RFC
// 3948 2.1); over IPv6 the kernel drops packets without.
func finishOuter(p []byte, udp bool) {
	v6 := p[0]>>4 == 6
	n := ipv4Len
	if v6 {
		n = ipv6Len
	}
	if udp {
		binary.BigEndian.PutUint16(p[n+4:], uint16(len(p)-n))
		if v6 {
			putUDPChecksum(p, n)
		}
	}
	finishIP(p)
}

// finishIP writes the packet's length, and IPv4's checksum.
func finishIP(p []byte) {
	if p[0]>>4 == 6 {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^fold(sum(0, p[:ipv4Len])))
}

// putUDPChecksum writes the checksum of the UDP header at n.
func putUDPChecksum(p []byte, n int) {
	addrs := p[12:20]
	if p[0]>>4 == 6 {
		addrs = p[8:40]
	}
	p[n+6], p[n+7] = 0, 0
	c := ^fold(sum(sum(uint32(len(p)-n)+protoUDP, addrs), p[n:]))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(p[n+6:], c)
}

// sum adds up 16-bit words (RFC 1071).
func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
		s = s&0xffff + s>>16
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// UDP is a UDP datagram in an IP packet of size bytes, headers included, with a
// payload of zeros and a checksum. Both addresses are of one family.
func UDP(src, dst netip.AddrPort, size int) ([]byte, error) {
	head := ipHeader(src.Addr(), dst.Addr(), protoUDP)
	if src.Addr().Is4() != dst.Addr().Is4() || size < len(head)+udpLen || size > 65535 {
		return nil, fmt.Errorf("UDP from %s to %s: expected one family and %d to 65535 bytes, got %d", src, dst, len(head)+udpLen, size)
	}
	p := make([]byte, size)
	n := copy(p, head)
	binary.BigEndian.PutUint16(p[n:], src.Port())
	binary.BigEndian.PutUint16(p[n+2:], dst.Port())
	binary.BigEndian.PutUint16(p[n+4:], uint16(size-n))
	putUDPChecksum(p, n)
	finishIP(p)
	return p, nil
}
