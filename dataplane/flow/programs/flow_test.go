package programs

import (
	"encoding/binary"
	"testing"

	"espalier/bpf"
)

// How far a sender has come with the checksum of its packet.
type checksum uint8

const (
	finished checksum = iota
	unfinished
)

// checked is a packet from inside whose transport header, at the end of its layers, has a checksum.
func checked(how checksum, p packet) []byte {
	b := p.bytes()
	ip, l4, payload := -1, 0, 0
	for i, at := 0, 0; i < len(p); at, i = at+len(p[i].b), i+1 {
		switch p[i].name {
		case "ip":
			if ip < 0 {
				ip = at
			}
		case "udp", "tcp":
			l4, payload = at, i
		}
	}
	proto, field := uint32(17), b[l4+6:]
	if p[payload].name == "tcp" {
		proto, field = 6, b[l4+16:]
	}
	addrs := b[ip+12 : ip+20]
	if b[ip]>>4 == 6 {
		addrs = b[ip+8 : ip+40]
	}
	segment := b[l4:]
	pseudo := sum(uint32(len(segment))+proto, addrs)
	if how == unfinished {
		binary.BigEndian.PutUint16(field, fold(pseudo))
	} else {
		binary.BigEndian.PutUint16(field, 0)
		binary.BigEndian.PutUint16(field, ^fold(sum(pseudo, segment)))
	}
	return b
}

// Clear packets from inside go to the CPU of their connection, unless a redirect would break them.
func TestFlowIn(t *testing.T) {
	here(t)
	b := inboundBox(t)
	c := b.table.Programs()
	c.FlowSteer, c.SteerCpus, c.SteerList[0] = 1, 1, 1
	datagram := []layer{udp(4000, 53, data(20)), data(20)}
	segment := []layer{tcp(ack, nil), data(7)}
	six := func(next uint8, l ...layer) packet {
		return packet{eth(ethIP6), ip6(peer6, else6, next, l...)}.add(l...)
	}
	four := func(proto uint8, l ...layer) packet {
		return packet{eth(ethIP4), ip4(peer4, else4, proto, l...)}.add(l...)
	}
	tagged := packet{eth(ethVLAN), vlan(7, ethIP4), ip4(peer4, else4, 17, datagram...)}.add(datagram...)
	options := packet{eth(ethIP4), ip4opt(peer4, else4, 6, 0, []byte{7, 4, 0, 0}, segment...)}.add(segment...)
	extended := six(60, append([]layer{ext(6, 1)}, segment...)...)
	given, stays, whole := []bpf.Total{bpf.TotalFlowRedirected}, []bpf.Total{bpf.TotalFlowUnfinished}, []bpf.Total{bpf.TotalFragment}
	off := func(c *bpf.Config) { c.FlowSteer = 0 }
	here0 := func(c *bpf.Config) { c.SteerList[0] = 0 }
	away := func(c *bpf.Config) { c.SteerList[0] = 63 }
	var cases []testCase
	for name, p := range map[string]packet{
		"UDP IPv4": four(17, datagram...), "TCP IPv4": four(6, segment...), "UDP IPv6": six(17, datagram...), "TCP IPv6": six(6, segment...),
		"VLAN": tagged, "options": options, "extension header": extended,
	} {
		cases = append(cases,
			testCase{name: name, packet: checked(finished, p), action: xdpRedirect, counts: counts{totals: given}},
			testCase{name: name + ", checksum to come", packet: checked(unfinished, p), action: xdpPass, counts: counts{totals: stays}})
	}
	noChecksum := four(17, datagram...).bytes() // as a sender may leave it in IPv4
	fragment := []layer{frag6(17, 0, true)}
	cases = append(cases,
		testCase{name: "UDP without checksum", packet: noChecksum, action: xdpRedirect, counts: counts{totals: given}},
		testCase{name: "TCP padded by the wire", packet: append(checked(unfinished, four(6, segment...)), 0, 0), action: xdpRedirect, counts: counts{totals: given}},
		testCase{name: "ICMP", packet: four(1, data(8)).bytes(), action: xdpRedirect, counts: counts{totals: given}},
		testCase{name: "ESP of a host behind us", packet: four(50, esp(0x9999, 1), data(30)).bytes(), action: xdpRedirect, counts: counts{totals: given}},
		testCase{name: "SCTP", packet: four(132, data(30)).bytes(), action: xdpPass, counts: counts{totals: stays}},
		testCase{name: "first fragment", packet: packet{eth(ethIP4), ip4opt(peer4, else4, 17, 0x2000, nil, datagram...)}.add(datagram...).bytes(), action: xdpPass, counts: counts{totals: whole}},
		testCase{name: "later fragment", packet: packet{eth(ethIP4), ip4opt(peer4, else4, 17, 3, nil, data(30)), data(30)}.bytes(), action: xdpPass, counts: counts{totals: whole}},
		testCase{name: "first fragment IPv6", packet: six(44, append(fragment, datagram...)...).bytes(), action: xdpPass, counts: counts{totals: whole}},
		testCase{name: "ARP", packet: append(eth(0x0806).b, make([]byte, 46)...), action: xdpPass},
		testCase{name: "IP cut off", packet: four(17, datagram...).bytes()[:30], action: xdpPass},
		testCase{name: "UDP cut off", packet: four(17, datagram...).bytes()[:38], action: xdpPass},
		testCase{name: "TCP cut off", packet: four(6, segment...).bytes()[:45], action: xdpRedirect, counts: counts{totals: given}},
		testCase{name: "off", packet: noChecksum, set: off, action: xdpPass},
		testCase{name: "here already", packet: noChecksum, set: here0, action: xdpPass},
		testCase{name: "a CPU without queue", packet: noChecksum, set: away, action: xdpPass, counts: counts{totals: []bpf.Total{bpf.TotalRedirectFailed}}},
	)
	for _, c := range cases {
		c.program = "flow_in"
		t.Run(c.name, func(t *testing.T) { b.run(t, c) })
	}
}
