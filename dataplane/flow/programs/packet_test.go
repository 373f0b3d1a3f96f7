package programs

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// layer is one header of a packet under construction, named for where a packet is cut off.
type layer struct {
	name string
	b    []byte
}

// packet is made of layers, the outermost first.
type packet []layer

// bytes is the packet with its length and protocol fields as the layers say.
func (p packet) bytes() []byte {
	var out []byte
	for _, l := range p {
		out = append(out, l.b...)
	}
	return out
}

// add gives a packet with more layers.
func (p packet) add(layers ...layer) packet { return append(slices.Clone(p), layers...) }

// length of what follows, for the length fields.
func length(inner []layer) int { return len(packet(inner).bytes()) }

const (
	ethIP4   = 0x0800
	ethIP6   = 0x86dd
	ethVLAN  = 0x8100
	ethQinQ  = 0x88a8
	ethPPPoE = 0x8864
)

func eth(proto uint16) layer {
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	return layer{"ethernet", binary.BigEndian.AppendUint16(b, proto)}
}

func vlan(id, proto uint16) layer {
	return layer{"vlan", binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, id), proto)}
}

// pppoe is a session header; ppp is 0x21 for IPv4, 0x57 for IPv6.
func pppoe(code uint8, ppp uint16, inner ...layer) layer {
	b := []byte{0x11, code, 0, 1}
	b = binary.BigEndian.AppendUint16(b, uint16(length(inner)+2))
	return layer{"pppoe", binary.BigEndian.AppendUint16(b, ppp)}
}

// ip4opt is an IPv4 header with options, which are padded, and a fragment field.
func ip4opt(src, dst string, proto uint8, fragment uint16, options []byte, inner ...layer) layer {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := make([]byte, 20, 20+len(options))
	b[0] = 0x45 + byte(len(options)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+length(inner)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = 64, proto
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b)))
	return layer{"ip", b}
}

func ip4(src, dst string, proto uint8, inner ...layer) layer {
	return ip4opt(src, dst, proto, 0, nil, inner...)
}

func ip6(src, dst string, next uint8, inner ...layer) layer {
	b := make([]byte, 40)
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(length(inner)))
	b[6], b[7] = next, 64
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return layer{"ip", b}
}

// ext is an extension header of IPv6 of 8 bytes and more after them.
func ext(next uint8, more int) layer {
	b := make([]byte, 8+8*more)
	b[0], b[1] = next, byte(more)
	return layer{"ip", b}
}

// frag6 is IPv6's fragment header; offset in bytes.
func frag6(next uint8, offset int, more bool) layer {
	b := make([]byte, 8)
	b[0] = next
	binary.BigEndian.PutUint16(b[2:], uint16(offset))
	if more {
		b[3] |= 1
	}
	return layer{"ip", b}
}

func udp(sport, dport uint16, inner ...layer) layer {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sport), dport)
	return layer{"udp", append(binary.BigEndian.AppendUint16(b, uint16(8+length(inner))), 0, 0)}
}

func esp(spi, seq uint32) layer {
	return layer{"esp", binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, spi), seq)}
}

func marker() layer { return layer{"marker", make([]byte, 4)} }

func data(n int) layer { return layer{"data", make([]byte, n)} }

// ike is a header of an IKE message that consists of nothing else.
func ike(ispi, rspi uint64, exchange, flags uint8) layer {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, ispi), rspi)
	return layer{"ike", append(b, 33, 0x20, exchange, flags, 0, 0, 0, 0, 0, 0, 0, 28)}
}

// Flags of TCP.
const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// tcp is a header with options as they are, which must be a multiple of 4. The checksum is set by sumTCP.
func tcp(flags uint8, options []byte) layer {
	b := make([]byte, 20, 20+len(options))
	binary.BigEndian.PutUint16(b, 1234)
	binary.BigEndian.PutUint16(b[2:], 80)
	binary.BigEndian.PutUint32(b[4:], 0x01020304)
	b[12], b[13] = byte(5+len(options)/4)<<4, flags
	binary.BigEndian.PutUint16(b[14:], 64240)
	return layer{"tcp", append(b, options...)}
}

// sum adds 16-bit words.
func sum(s uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// tcpSum is what the checksum of a segment adds up to, with the pseudo header: 0xffff when it is right. packet begins with the IP header;
// at is where TCP begins.
func tcpSum(packet []byte, at int) uint16 {
	src := packet[12:20]
	if packet[0]>>4 == 6 {
		src = packet[8:40]
	}
	segment := packet[at:]
	return fold(sum(sum(uint32(len(segment))+6, src), segment))
}

// sumTCP sets the checksum.
func sumTCP(packet []byte, at int) {
	binary.BigEndian.PutUint16(packet[at+16:], 0)
	binary.BigEndian.PutUint16(packet[at+16:], ^tcpSum(packet, at))
}
