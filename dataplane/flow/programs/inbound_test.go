package programs

import (
	"fmt"
	"net/netip"
	"testing"

	"espalier/bpf"
)

// Addresses of the tests: ours, a peer's, another's behind us or elsewhere.
const (
	us4, us6     = "192.0.2.1", "2001:db8::1"
	peer4, peer6 = "198.51.100.7", "2001:db8:7::7"
	else4, else6 = "203.0.113.9", "2001:db8:9::9"
)

// IKE SPIs: ours, and a peer's.
const ownIKE, peerIKE = 0x1122334455667788, 0x99aabbccddeeff00

func inboundBox(t *testing.T) *box {
	b := newBox(t)
	for _, a := range []string{us4, us6} {
		b.put("own_addrs", bpf.MakeAddrKey(netip.MustParseAddr(a)), uint32(0))
	}
	b.put("ike_spis", bpf.MakeIKESPI(ownIKE), uint32(0))
	b.put("peers", bpf.MakeLPMKey(netip.MustParsePrefix("198.51.100.0/24")), uint32(0))
	b.put("peers", bpf.MakeLPMKey(netip.MustParsePrefix("2001:db8:7::/48")), uint32(0))
	b.put("cpus", uint32(1), bpf.CPUMapValue{Queue: 64})
	b.add("4", bpf.DirIn, us4, 0x1000, bpf.NoCPU)
	b.add("6", bpf.DirIn, us6, 0x1000, bpf.NoCPU)
	b.add("to1", bpf.DirIn, us4, 0x2000, 1)
	b.add("to0", bpf.DirIn, us4, 0x2001, 0)
	b.add("to63", bpf.DirIn, us4, 0x2002, 63)
	b.add("out", bpf.DirOut, us4, 0x3000, 1)
	c := b.table.Programs()
	c.Steer, c.AliveUntil = uint32(bpf.SteerSlot), later
	return b
}

// A sender's encapsulation: what stands before ESP or IKE.
type encapsulation struct {
	name string
	wrap func(proto uint8, inner ...layer) packet
	six  bool
	frag bool // a first fragment
}

// linked puts link headers before IPv4 and IPv6.
func linked(name string, before func(ip uint16, inner []layer) packet) []encapsulation {
	return []encapsulation{
		{name: name + " IPv4", wrap: func(proto uint8, inner ...layer) packet {
			l := append([]layer{ip4(peer4, us4, proto, inner...)}, inner...)
			return before(ethIP4, l).add(l...)
		}},
		{name: name + " IPv6", six: true, wrap: func(proto uint8, inner ...layer) packet {
			l := append([]layer{ip6(peer6, us6, proto, inner...)}, inner...)
			return before(ethIP6, l).add(l...)
		}},
	}
}

func encapsulations() []encapsulation {
	out := linked("Ethernet", func(ip uint16, _ []layer) packet { return packet{eth(ip)} })
	out = append(out, linked("VLAN", func(ip uint16, _ []layer) packet { return packet{eth(ethVLAN), vlan(5, ip)} })...)
	out = append(out, linked("QinQ", func(ip uint16, _ []layer) packet { return packet{eth(ethQinQ), vlan(5, ethVLAN), vlan(6, ip)} })...)
	out = append(out, linked("PPPoE", func(ip uint16, inner []layer) packet {
		return packet{eth(ethPPPoE), pppoe(0, map[uint16]uint16{ethIP4: 0x21, ethIP6: 0x57}[ip], inner...)}
	})...)
	out = append(out, linked("PPPoE in VLAN", func(ip uint16, inner []layer) packet {
		return packet{eth(ethVLAN), vlan(7, ethPPPoE), pppoe(0, map[uint16]uint16{ethIP4: 0x21, ethIP6: 0x57}[ip], inner...)}
	})...)
	four := func(name string, frag uint16, options []byte) encapsulation {
		return encapsulation{name: name, frag: frag != 0, wrap: func(proto uint8, inner ...layer) packet {
			return packet{eth(ethIP4), ip4opt(peer4, us4, proto, frag, options, inner...)}.add(inner...)
		}}
	}
	out = append(out, four("IPv4 options", 0, make([]byte, 8)), four("all IPv4 options", 0, make([]byte, 40)), four("first fragment", 0x2000, nil))
	six := func(name string, frag bool, next uint8, exts func(proto uint8) []layer) encapsulation {
		return encapsulation{name: name, six: true, frag: frag, wrap: func(proto uint8, inner ...layer) packet {
			l := append(exts(proto), inner...)
			return packet{eth(ethIP6), ip6(peer6, us6, next, l...)}.add(l...)
		}}
	}
	return append(out,
		six("hop-by-hop", false, 0, func(p uint8) []layer { return []layer{ext(p, 0)} }),
		six("routing, destination", false, 43, func(p uint8) []layer { return []layer{ext(60, 1), ext(p, 31)} }),
		six("5 extensions", false, 0, func(p uint8) []layer { return []layer{ext(60, 0), ext(60, 0), ext(43, 2), ext(60, 0), ext(p, 0)} }),
		six("atomic fragment", false, 44, func(p uint8) []layer { return []layer{frag6(p, 0, false)} }),
		six("first IPv6 fragment", true, 44, func(p uint8) []layer { return []layer{frag6(p, 0, true)} }),
	)
}

// ipBytes is the packet's size from the IP header on.
func ipBytes(p packet) uint64 {
	n := 0
	for _, l := range p {
		if l.name != "ethernet" && l.name != "vlan" && l.name != "pppoe" {
			n += len(l.b)
		}
	}
	return uint64(n)
}

// payloads of an encapsulation and what they are counted as.
func payloadCases(e encapsulation) []testCase {
	sa := "4"
	if e.six {
		sa = "6"
	}
	var fragment []bpf.Total
	if e.frag {
		fragment = []bpf.Total{bpf.TotalFragment}
	}
	plain := e.wrap(50, esp(0x1000, 1), data(33))
	inUDP := e.wrap(17, udp(4500, 4500, esp(0x1000, 1), data(32)), esp(0x1000, 1), data(32))
	other := e.wrap(17, udp(4500, 4501, esp(0x1000, 1)), esp(0x1000, 1))
	init := e.wrap(17, udp(500, 500, ike(peerIKE, 0, 34, 8)), ike(peerIKE, 0, 34, 8))
	keepalive := e.wrap(17, udp(4500, 4500, layer{"data", []byte{0xff}}), layer{"data", []byte{0xff}})
	return []testCase{
		{name: "ESP", packet: plain.bytes(), counts: counts{sa: sa, bytes: ipBytes(plain), totals: fragment}},
		{name: "ESP in UDP", packet: inUDP.bytes(), counts: counts{sa: sa, bytes: ipBytes(inUDP), totals: fragment}},
		{name: "another port", packet: other.bytes()},
		{name: "IKE", packet: init.bytes(), counts: counts{totals: []bpf.Total{bpf.TotalIKE}}},
		{name: "keepalive", packet: keepalive.bytes(), counts: counts{totals: []bpf.Total{bpf.TotalKeepalive}}},
	}
}

// Every payload in every encapsulation.
func TestInboundEncapsulations(t *testing.T) {
	here(t)
	b := inboundBox(t)
	for _, e := range encapsulations() {
		for _, c := range payloadCases(e) {
			for _, program := range []string{"esp_in", "esp_in_stay"} {
				t.Run(fmt.Sprintf("%s/%s/%s", program, e.name, c.name), func(t *testing.T) {
					c.program, c.action = program, xdpPass
					b.run(t, c)
				})
			}
			if c.packet[12] == 0x08 || c.packet[12] == 0x86 { // the same on a device without Ethernet
				t.Run(fmt.Sprintf("esp_in_raw/%s/%s", e.name, c.name), func(t *testing.T) {
					c.program, c.action, c.packet = "esp_in_raw", tcNext, c.packet[14:]
					if c.packet[12] != 0x81 {
						b.run(t, c)
					}
				})
			}
		}
	}
}

// Every packet cut off in and at each of its headers, with the guard on: it passes
// when it is not known to be ESP or IKE, and is dropped when it claims to be.
func TestInboundTruncated(t *testing.T) {
	here(t)
	b := inboundBox(t)
	for _, e := range encapsulations() {
		whole := map[string]packet{
			"ESP":        e.wrap(50, esp(0x1000, 1)),
			"ESP in UDP": e.wrap(17, udp(4500, 4500, esp(0x1000, 1)), esp(0x1000, 1)),
			"IKE":        e.wrap(17, udp(500, 500, ike(peerIKE, ownIKE, 37, 8)), ike(peerIKE, ownIKE, 37, 8)),
			"IKE on 4500": e.wrap(17, udp(4500, 4500, marker(), ike(peerIKE, ownIKE, 37, 8)), marker(),
				ike(peerIKE, ownIKE, 37, 8)),
		}
		for name, p := range whole {
			at := 0
			for _, l := range p {
				for _, cut := range []int{0, 1, len(l.b) - 1} {
					n := at + cut
					if n < 14 {
						continue // the kernel's test run wants an Ethernet header
					}
					c := testCase{program: "esp_in", packet: p.bytes()[:n], action: xdpPass, counts: counts{totals: []bpf.Total{bpf.TotalMalformed}},
						set: func(c *bpf.Config) { c.Guard, c.TailKnown = uint32(bpf.GuardOn), 1 }}
					if l.name == "esp" || l.name == "ike" || l.name == "marker" {
						c.action, c.totals = xdpDrop, []bpf.Total{bpf.TotalGuardMalformed}
					}
					t.Run(fmt.Sprintf("%s/%s/%d bytes of %s", e.name, name, cut, l.name), func(t *testing.T) { b.run(t, c) })
				}
				at += len(l.b)
			}
		}
	}
}

// Where a known SPI's packets go.
func TestSteering(t *testing.T) {
	here(t)
	b := inboundBox(t)
	to := func(spi uint32) packet {
		return packet{eth(ethIP4), ip4(peer4, us4, 50, esp(spi, 1), data(20)), esp(spi, 1), data(20)}
	}
	first := packet{eth(ethIP4), ip4opt(peer4, us4, 50, 0x2000, nil, esp(0x2000, 1), data(24)), esp(0x2000, 1), data(24)}
	later := packet{eth(ethIP4), ip4opt(peer4, us4, 50, 3, nil, data(24)), data(24)}
	last6 := packet{eth(ethIP6), ip6(peer6, us6, 44, frag6(50, 24, false), data(24)), frag6(50, 24, false), data(24)}
	hashTo := func(cpu uint32) func(*bpf.Config) {
		return func(c *bpf.Config) { c.Steer, c.SteerCpus, c.SteerList[0] = uint32(bpf.SteerHash), 1, cpu }
	}
	redirected, failed := []bpf.Total{bpf.TotalRedirected}, []bpf.Total{bpf.TotalRedirectFailed}
	off := func(c *bpf.Config) { c.Steer = uint32(bpf.SteerOff) }
	for _, c := range []testCase{
		{name: "to another CPU", packet: to(0x2000).bytes(), action: xdpRedirect, counts: counts{sa: "to1", bytes: 48, totals: redirected}},
		{name: "to the same CPU", packet: to(0x2001).bytes(), action: xdpPass, counts: counts{sa: "to0", bytes: 48}},
		{name: "to a CPU without entry", packet: to(0x2002).bytes(), action: xdpPass, counts: counts{sa: "to63", bytes: 48, totals: failed}},
		{name: "to none", packet: to(0x1000).bytes(), action: xdpPass, counts: counts{sa: "4", bytes: 48}},
		{name: "off", packet: to(0x2000).bytes(), set: off, action: xdpPass, counts: counts{sa: "to1", bytes: 48}},
		{name: "hash", packet: to(0x1000).bytes(), set: hashTo(1), action: xdpRedirect, counts: counts{sa: "4", bytes: 48, totals: redirected}},
		{name: "hash to the same CPU", packet: to(0x2000).bytes(), set: hashTo(0), action: xdpPass, counts: counts{sa: "to1", bytes: 48}},
		{name: "hash over none", packet: to(0x2000).bytes(), set: func(c *bpf.Config) { c.Steer = uint32(bpf.SteerHash) }, action: xdpPass,
			counts: counts{sa: "to1", bytes: 48}},
		{name: "hash over too many", packet: to(0x2000).bytes(), set: func(c *bpf.Config) { c.Steer, c.SteerCpus = uint32(bpf.SteerHash), 1000 },
			action: xdpPass, counts: counts{sa: "to1", bytes: 48}},
		{name: "first fragment", packet: first.bytes(), action: xdpPass, counts: counts{sa: "to1", bytes: 52, totals: []bpf.Total{bpf.TotalFragment}}},
		{name: "later fragment", packet: later.bytes(), action: xdpPass, counts: counts{totals: []bpf.Total{bpf.TotalFragment}}},
		{name: "last fragment, IPv6", packet: last6.bytes(), action: xdpPass, counts: counts{totals: []bpf.Total{bpf.TotalFragment}}},
		{name: "an outbound SA's SPI", packet: to(0x3000).bytes(), action: xdpPass, counts: counts{totals: []bpf.Total{bpf.TotalESPUnknown}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.program = "esp_in"
			b.run(t, c)
			if c.action == xdpRedirect { // and where redirects lose the VLAN tag
				c.program, c.action, c.totals = "esp_in_stay", xdpPass, nil
				b.run(t, c)
			}
		})
	}
}

// What is not as it should be, and what is none of our business.
func TestInboundOdd(t *testing.T) {
	here(t)
	b := inboundBox(t)
	patch := func(p packet, at int, v ...byte) []byte {
		out := p.bytes()
		copy(out[at:], v)
		return out
	}
	four := packet{eth(ethIP4), ip4(peer4, us4, 50, esp(0x1000, 1), data(20)), esp(0x1000, 1), data(20)}
	six := packet{eth(ethIP6), ip6(peer6, us6, 50, esp(0x1000, 1), data(20)), esp(0x1000, 1), data(20)}
	malformed, nothing := counts{totals: []bpf.Total{bpf.TotalMalformed}}, counts{}
	exts := []layer{ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(50, 0), esp(0x1000, 1)}
	padded := append(four.bytes(), make([]byte, 18)...)
	for _, c := range []testCase{
		{name: "ARP", packet: packet{eth(0x806), data(28)}.bytes(), counts: nothing},
		{name: "three VLAN tags", packet: packet{eth(ethVLAN), vlan(1, ethVLAN), vlan(2, ethVLAN), vlan(3, ethIP4), data(40)}.bytes(), counts: nothing},
		{name: "IPv4 with version 6", packet: patch(four, 14, 0x65), counts: malformed},
		{name: "IPv4 header of 16 bytes", packet: patch(four, 14, 0x44), counts: malformed},
		{name: "IPv4 length below its header", packet: patch(four, 16, 0, 19), counts: malformed},
		{name: "IPv4 checksum wrong", packet: patch(four, 24, 1, 2), counts: counts{sa: "4", bytes: 48}},
		{name: "IPv6 with version 4", packet: patch(six, 14, 0x40), counts: malformed},
		{name: "6 extensions", packet: packet{eth(ethIP6), ip6(peer6, us6, 60, exts...)}.add(exts...).bytes(), counts: malformed},
		{name: "Ethernet's padding is not counted", packet: padded, counts: counts{sa: "4", bytes: 48}},
		{name: "PPPoE discovery", packet: packet{eth(ethPPPoE), pppoe(9, 0x21, four[1:]...)}.add(four[1:]...).bytes(), counts: nothing},
		{name: "PPPoE's LCP", packet: packet{eth(ethPPPoE), pppoe(0, 0xc021, data(20)), data(20)}.bytes(), counts: nothing},
		{name: "AH", packet: packet{eth(ethIP4), ip4(peer4, us4, 51, data(24)), data(24)}.bytes(), counts: nothing},
		{name: "TCP of four bytes", packet: packet{eth(ethIP4), ip4(peer4, us4, 6, data(4)), data(4)}.bytes(), counts: nothing},
		{name: "ESP of others, IPv4", packet: packet{eth(ethIP4), ip4(peer4, else4, 50, esp(0x1000, 1)), esp(0x1000, 1)}.bytes(),
			counts: counts{totals: []bpf.Total{bpf.TotalESPTransit}}},
		{name: "ESP of others, IPv6", packet: packet{eth(ethIP6), ip6(peer6, else6, 50, esp(0x1000, 1)), esp(0x1000, 1)}.bytes(),
			counts: counts{totals: []bpf.Total{bpf.TotalESPTransit}}},
		{name: "SPI 255", packet: packet{eth(ethIP4), ip4(peer4, us4, 50, esp(255, 1)), esp(255, 1)}.bytes(), counts: nothing},
		{name: "SPI 0", packet: packet{eth(ethIP4), ip4(peer4, us4, 50, esp(0, 1)), esp(0, 1)}.bytes(), counts: nothing},
		{name: "UDP length below its header", packet: patch(packet{eth(ethIP4), ip4(peer4, us4, 17, udp(1, 4500), esp(0x1000, 1)),
			udp(1, 4500), esp(0x1000, 1)}, 38, 0, 3), counts: nothing},
		{name: "a keepalive of two bytes", packet: packet{eth(ethIP4), ip4(peer4, us4, 17, udp(1, 4500, data(2)), data(2)), udp(1, 4500, data(2)), data(2)}.bytes(),
			counts: nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.program, c.action = "esp_in", xdpPass
			b.run(t, c)
		})
	}
}
