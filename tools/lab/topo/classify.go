package topo

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
)

// Numbers of protocols in IP headers.
const (
	protoICMP, protoTCP, protoUDP, protoIPv6Frag = 1, 6, 17, 44
	protoESP, protoICMPv6, protoNone             = 50, 58, 59
)

// add counts one Ethernet frame, of which at least the headers are there.
func (c *Counts) add(frame []byte) {
	if len(frame) < 14 {
		c.Control++
		return
	}
	switch body := frame[14:]; binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		c.addIPv4(body)
	case 0x86dd:
		c.addIPv6(body)
	default:
		c.Control++
	}
}

// sighting is what an ESP packet looked like: a digest of what follows its sequence number, and how many routers it may still pass.
type sighting struct {
	look uint64
	hops byte
}

// sequence notes the SPI and the sequence number of an ESP packet, and what it looks like: a gateway that no longer has the address it
// is sent to routes it back, and the very same packet on the wire again is no second one with its number. A router has taken one off
// its TTL or hop limit; the same octets with as many hops as before are a packet that was made twice, of one plain text.
func (c *Counts) sequence(esp []byte, hops byte) {
	if len(esp) < 8 {
		return
	}
	if c.sequences == nil {
		c.sequences = map[uint64]sighting{}
	}
	id, look := binary.BigEndian.Uint64(esp), fnv.New64a()
	look.Write(esp[8:])
	now := sighting{look.Sum64(), hops}
	before, seen := c.sequences[id]
	switch {
	case seen && before.look == now.look && hops < before.hops:
		c.Reflected++
	case seen:
		c.Repeated++
		if len(c.RepeatedSPIs) < maxSamples {
			c.RepeatedSPIs = append(c.RepeatedSPIs, uint32(id>>32))
		}
	}
	c.sequences[id] = now
}

// packet is what the headers of an IP packet say.
type packet struct {
	src, dst netip.Addr
	length   int  // of the whole IP packet
	hops     byte // TTL or hop limit
	proto    byte // of the payload
	later    bool // a fragment after the first
	payload  []byte
}

func (c *Counts) addIPv4(b []byte) {
	if len(b) < 20 || int(b[0]&15)*4 > len(b) {
		c.Clear++ // nothing that we sent
		return
	}
	c.count(packet{
		src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])),
		length: int(binary.BigEndian.Uint16(b[2:])), hops: b[8], proto: b[9],
		later: binary.BigEndian.Uint16(b[6:])&0x1fff != 0, payload: b[int(b[0]&15)*4:],
	})
}

func (c *Counts) addIPv6(b []byte) {
	if len(b) < 40 {
		c.Clear++
		return
	}
	p := packet{
		src: netip.AddrFrom16([16]byte(b[8:24])), dst: netip.AddrFrom16([16]byte(b[24:40])),
		length: 40 + int(binary.BigEndian.Uint16(b[4:])), hops: b[7], proto: b[6], payload: b[40:],
	}
	for p.proto == 0 || p.proto == protoIPv6Frag || p.proto == 43 || p.proto == 60 {
		if len(p.payload) < 8 {
			break
		}
		n := 8
		if p.proto == protoIPv6Frag {
			p.later = binary.BigEndian.Uint16(p.payload[2:])>>3 != 0
		} else {
			n += int(p.payload[1]) * 8
		}
		if n > len(p.payload) {
			break
		}
		p.proto, p.payload = p.payload[0], p.payload[n:]
	}
	c.count(p)
}

// count puts the packet into one of the classes.
func (c *Counts) count(p packet) {
	switch {
	case p.proto == protoESP:
		c.ESP++
		if !p.later {
			c.sequence(p.payload, p.hops)
		}
		c.Bytes += int64(p.length)
	case p.later:
		c.Fragments++
	case p.proto == protoUDP && c.countUDP(p):
	case p.proto == protoICMP && len(p.payload) > 0 && isError4(p.payload[0]), p.proto == 2, p.proto == protoNone:
		c.Control++
	case p.proto == protoICMPv6 && len(p.payload) > 0 && p.payload[0] != 128 && p.payload[0] != 129:
		c.Control++
	default:
		c.Clear++
		if len(c.ClearSamples) < maxSamples {
			c.ClearSamples = append(c.ClearSamples, fmt.Sprintf("%s > %s protocol %d, %d bytes", p.src, p.dst, p.proto, p.length))
		}
	}
}

// isError4 tells whether an ICMP type is an error about another packet.
func isError4(t byte) bool { return t == 3 || t == 4 || t == 5 || t == 11 || t == 12 }

// countUDP counts what IPsec sends in UDP, and tells whether it was that. RFC 3948 section 2: on port 4500 four bytes of zero begin an IKE message
// and a single 0xff is a keepalive; all else is ESP.
func (c *Counts) countUDP(p packet) bool {
	if len(p.payload) < 9 {
		return false
	}
	src, dst := binary.BigEndian.Uint16(p.payload), binary.BigEndian.Uint16(p.payload[2:])
	length := int(binary.BigEndian.Uint16(p.payload[4:])) - 8
	body := p.payload[8:]
	switch {
	case src != 4500 && dst != 4500:
		if src != 500 && dst != 500 {
			return false
		}
		c.IKE++
	case length == 1 && body[0] == 0xff:
		c.Keepalive++
	case len(body) >= 4 && binary.BigEndian.Uint32(body) == 0:
		c.IKE++
	case len(body) >= 4:
		c.UDPESP++
		c.sequence(body, p.hops)
		c.Bytes += int64(p.length)
	default:
		return false
	}
	return true
}
