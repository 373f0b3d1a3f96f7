package flow

import (
	"fmt"

	"espalier/dataplane"
)

// Sizes of headers in bytes.
const (
	ip4Header  = 20
	ip6Header  = 40
	udpHeader  = 8
	tcpHeader  = 20
	espHeader  = 8 // SPI and sequence number (RFC 4303 2)
	espTrailer = 2 // pad length and next header
	ahHeader   = 12
	// iptfsHeader stands before the inner packets of IPTFS (RFC 9347 6.1).
	iptfsHeader = 4
	// minMSS: a route whose MTU asks for less is broken in another way.
	minMSS = 48
)

// Overhead is what an SA adds to a packet.
type Overhead struct {
	Proto     dataplane.Proto // ESP or AH
	Mode      dataplane.Mode
	OuterIPv6 bool
	UDP       bool // UDP encapsulated (RFC 3948)
	Block     int  // what the encrypted part is padded to a multiple of, at least 4 (RFC 4303 2.4)
	IV        int  // bytes of the IV that is sent
	ICV       int  // bytes
	// Unbounded: packets of any size pass, since the SA spreads them over several
	// of its own (IPTFS).
	Unbounded bool
}

// cipher is what the kernel's algorithm adds: block size and length of the IV.
type cipher struct{ block, iv int }

// ciphers by the kernel's name. An AEAD with a counter has blocks of one byte,
// which ESP makes four.
var ciphers = map[string]cipher{
	"ecb(cipher_null)":              {1, 0},
	"cipher_null":                   {1, 0},
	"cbc(aes)":                      {16, 16},
	"cbc(camellia)":                 {16, 16},
	"cbc(serpent)":                  {16, 16},
	"cbc(twofish)":                  {16, 16},
	"cbc(sm4)":                      {16, 16},
	"cbc(des3_ede)":                 {8, 8},
	"cbc(des)":                      {8, 8},
	"cbc(blowfish)":                 {8, 8},
	"cbc(cast5)":                    {8, 8},
	"rfc3686(ctr(aes))":             {1, 8},
	"rfc3686(ctr(camellia))":        {1, 8},
	"rfc3686(ctr(sm4))":             {1, 8},
	"rfc4106(gcm(aes))":             {1, 8},
	"rfc4309(ccm(aes))":             {1, 8},
	"rfc4543(gcm(aes))":             {1, 8},
	"rfc7539esp(chacha20,poly1305)": {1, 8},
}

// OverheadOf is the overhead of an SA. Errors: an algorithm that it does not
// know, a protocol other than ESP and AH.
func OverheadOf(sa *dataplane.SA) (Overhead, error) {
	o := Overhead{
		Proto: sa.Proto, Mode: sa.Mode, OuterIPv6: !sa.Dst.Unmap().Is4(), UDP: sa.Encap != nil,
		Unbounded: sa.Mode == dataplane.IPTFS && !sa.NoFragment,
	}
	name, icv := sa.AEAD.Name, sa.AEAD.ICVBits
	if name == "" {
		name, icv = sa.Crypt.Name, sa.Auth.ICVBits
	}
	if icv < 0 || icv%8 != 0 {
		return o, fmt.Errorf("ICV of %d bits: expected a multiple of 8", icv)
	}
	o.ICV = icv / 8
	switch sa.Proto {
	case dataplane.AH:
		o.Block = 4
		return o, nil
	case dataplane.ESP:
	default:
		return o, fmt.Errorf("overhead of %s: expected ESP or AH", sa.Proto)
	}
	c, ok := ciphers[name]
	if !ok {
		return o, fmt.Errorf("overhead of cipher %q: not known", name)
	}
	o.Block, o.IV = max(c.block, 4), c.iv
	return o, nil
}

// payload is the most that fits behind the outer headers into mtu bytes, before
// padding and trailer: an inner packet in tunnel mode, its transport header and
// data in transport and BEET mode.
func (o Overhead) payload(mtu int) int {
	room := mtu - ip4Header
	if o.OuterIPv6 {
		room = mtu - ip6Header
	}
	if o.UDP {
		room -= udpHeader
	}
	if o.Proto == dataplane.AH {
		return room - (ahHeader+o.ICV+7)&^7 // the kernel pads the header to 8 bytes
	}
	room -= espHeader + o.IV + o.ICV
	room -= room%max(o.Block, 4) + espTrailer
	if o.Mode == dataplane.IPTFS {
		room -= iptfsHeader
	}
	return room
}

// Inner is the largest inner packet, of IPv6 or IPv4, that the SA makes an outer
// packet of at most mtu bytes of. Its IP header has no options or extensions.
// At most 65535; 0 when nothing fits.
func (o Overhead) Inner(mtu int, ipv6 bool) int {
	if o.Unbounded {
		return 65535
	}
	n := o.payload(mtu)
	if o.Mode == dataplane.Transport || o.Mode == dataplane.BEET { // the inner IP header is not carried
		n += ipHeader(ipv6)
	}
	return min(max(n, 0), 65535)
}

func ipHeader(ipv6 bool) int {
	if ipv6 {
		return ip6Header
	}
	return ip4Header
}

// MSS is the largest segment that TCP over IPv4 and over IPv6 may send through
// the SA, as the MSS option has it (RFC 9293 3.7.1: without IP and TCP options),
// when outer packets may have mtu bytes. Zero: no limit, or none that makes sense.
func (o Overhead) MSS(mtu int) (ipv4, ipv6 uint16) {
	if o.Unbounded {
		return 0, 0
	}
	of := func(v6 bool) uint16 {
		n := o.Inner(mtu, v6) - ipHeader(v6) - tcpHeader
		if n < minMSS {
			return 0
		}
		return uint16(n)
	}
	return of(false), of(true)
}
