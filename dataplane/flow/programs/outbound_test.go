package programs

import (
	"fmt"
	"testing"

	"espalier/bpf"
)

// outboundBox has one SA towards each of the addresses that encapsulations send to.
func outboundBox(t *testing.T) *box {
	b := newBox(t)
	b.add("4", bpf.DirOut, us4, 0x1000, bpf.NoCPU)
	b.add("6", bpf.DirOut, us6, 0x1000, bpf.NoCPU)
	b.add("in", bpf.DirIn, us4, 0x3000, bpf.NoCPU)
	return b
}

// outboundCases are payloads that leave, and what they are counted as.
func outboundCases(e encapsulation) []testCase {
	sa := "4"
	if e.six {
		sa = "6"
	}
	unknown := counts{totals: []bpf.Total{bpf.TotalESPOutUnknown}}
	var out []testCase
	add := func(name string, p packet, c counts) {
		if c.sa != "" {
			c.bytes = ipBytes(p)
		}
		out = append(out, testCase{name: name, packet: p.bytes(), action: tcNext, counts: c})
	}
	inUDP := func(sport, dport uint16, inner ...layer) packet {
		return e.wrap(17, append([]layer{udp(sport, dport, inner...)}, inner...)...)
	}
	known, other := []layer{esp(0x1000, 1), data(33)}, []layer{esp(0x7777, 1), data(33)}
	add("ESP", e.wrap(50, known...), counts{sa: sa})
	add("ESP in UDP", inUDP(4500, 4500, known...), counts{sa: sa})
	add("to a peer behind a NAT", inUDP(4500, 31234, known...), counts{sa: sa})
	add("from the port of an SA of a single CPU", inUDP(40000, 4500, known...), counts{sa: sa})
	add("another host's ESP", e.wrap(50, other...), unknown)
	add("another host's ESP from our port", inUDP(4500, 4500, other...), unknown)
	add("another host's, from any port", inUDP(40000, 4500, other...), counts{})
	add("other ports", inUDP(40000, 4501, known...), counts{})
	add("the inbound SA's SPI", e.wrap(50, esp(0x3000, 1)), unknown)
	add("IKE", inUDP(500, 500, ike(ownIKE, 0, 34, 8)), counts{})
	add("IKE on 4500", inUDP(4500, 4500, marker(), ike(ownIKE, peerIKE, 37, 8)), counts{})
	add("IKE of a host behind us", inUDP(40000, 4500, marker(), ike(ownIKE, peerIKE, 37, 8)), counts{})
	add("keepalive", inUDP(4500, 4500, layer{"data", []byte{0xff}}), counts{})
	add("keepalive of a host behind us", inUDP(40000, 4500, layer{"data", []byte{0xff}}), counts{})
	add("TCP", e.wrap(6, tcp(2, nil)), counts{})
	return out
}

// TestOutbound: every payload in every encapsulation, as it leaves; it is counted, and never changed.
func TestOutbound(t *testing.T) {
	here(t)
	b := outboundBox(t)
	for _, e := range encapsulations() {
		for _, c := range outboundCases(e) {
			t.Run(fmt.Sprintf("esp_out/%s/%s", e.name, c.name), func(t *testing.T) {
				c.program = "esp_out"
				b.run(t, c)
			})
			if c.packet[12] == 0x08 || c.packet[12] == 0x86 { // the same on a device without Ethernet
				t.Run(fmt.Sprintf("esp_out_raw/%s/%s", e.name, c.name), func(t *testing.T) {
					c.program, c.packet = "esp_out_raw", c.packet[14:]
					b.run(t, c)
				})
			}
		}
	}
}

// TestOutboundTruncated: cut off in and at each header, nothing is counted, as nothing says whose it is.
func TestOutboundTruncated(t *testing.T) {
	here(t)
	b := outboundBox(t)
	for _, e := range encapsulations() {
		for name, p := range map[string]packet{
			"ESP":                e.wrap(50, esp(0x1000, 1)),
			"ESP in UDP":         e.wrap(17, udp(4500, 4500, esp(0x1000, 1)), esp(0x1000, 1)),
			"ESP from its port":  e.wrap(17, udp(40000, 4500, esp(0x1000, 1)), esp(0x1000, 1)),
			"IKE from that port": e.wrap(17, udp(40000, 4500, marker(), ike(peerIKE, ownIKE, 37, 8)), marker(), ike(peerIKE, ownIKE, 37, 8)),
		} {
			at, least := 0, 34 // the kernel's test run wants an IP header
			if p.bytes()[12] == 0x86 {
				least = 54
			}
			for _, l := range p {
				for _, cut := range []int{0, 1, len(l.b) - 1} {
					if n := at + cut; n >= least {
						t.Run(fmt.Sprintf("%s/%s/%d bytes of %s", e.name, name, cut, l.name), func(t *testing.T) {
							b.run(t, testCase{program: "esp_out", packet: p.bytes()[:n], action: tcNext})
						})
					}
				}
				at += len(l.b)
			}
		}
	}
}
