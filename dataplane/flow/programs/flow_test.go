package programs

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
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

// Connections are counted in groups, each always in the same one, and go where that is steered to; what a redirect would break is no group's.
func TestFlowGroups(t *testing.T) {
	here(t)
	b := inboundBox(t)
	b.table.Programs().FlowSteer = uint32(bpf.FlowGroup)
	connection := func(port uint16, n int) []byte {
		l := []layer{udp(port, 53, data(n)), data(n)}
		return checked(finished, packet{eth(ethIP4), ip4(peer4, else4, 17, l...)}.add(l...))
	}
	b.run(t, testCase{program: "flow_in", packet: connection(4000, 20), action: xdpPass}) // no group is known
	slots := map[int]uint32{}
	for n := range bpf.FlowGroups {
		slot, err := b.table.Insert(bpf.FlowKey(n), table.Attr{CPU: bpf.NoCPU})
		if err != nil {
			t.Fatal(err)
		}
		slots[n] = slot
	}
	groups := map[int]uint16{} // a port of each
	for port := range uint16(4 * bpf.FlowGroups) {
		was := -1
		for i, n := range []int{20, 60} { // in the same one, whatever its packets are
			before := map[int]uint64{}
			for g, slot := range slots {
				before[g] = b.table.Counters(slot).Bytes
			}
			b.run(t, testCase{program: "flow_in", packet: connection(4000+port, n), action: xdpPass})
			for g, slot := range slots {
				switch grown := b.table.Counters(slot).Bytes - before[g]; {
				case grown == 0:
				case grown != uint64(28+n) || i > 0 && g != was:
					t.Errorf("port %d: group %d counts %d octets, group %d before", port, g, grown, was)
				default:
					was = g
				}
			}
		}
		if was < 0 {
			t.Fatalf("port %d: in no group", port)
		}
		groups[was] = 4000 + port
	}
	if len(groups) < bpf.FlowGroups*9/10 {
		t.Errorf("%d connections are in %d groups only", 4*bpf.FlowGroups, len(groups))
	}

	numbers := slices.Collect(maps.Keys(groups))
	p, other, group := connection(groups[numbers[0]], 20), connection(groups[numbers[1]], 20), slots[numbers[0]]
	b.slots["group"] = group
	sa, _ := b.table.Slot(group)
	one := counts{sa: "group", bytes: 48}
	run := func(what string, packet []byte, action uint32, c counts) {
		t.Helper()
		t.Run(what, func(t *testing.T) { b.run(t, testCase{program: "flow_in", packet: packet, action: action, counts: c}) })
	}
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	given := counts{sa: "group", bytes: 48, totals: []bpf.Total{bpf.TotalFlowRedirected}}
	run("stays", p, xdpPass, one)
	try(b.table.SetCPU(group, 0))
	run("here already", p, xdpPass, one)
	try(b.table.Depart(group, sa.Generation, 1))
	run("departed", p, xdpPass, one)
	try(b.table.Seen(group, sa.Generation, 1))
	run("goes over", p, xdpRedirect, given)
	try(b.table.Arrive(group, sa.Generation, false))
	run("arrived", p, xdpRedirect, given)
	run("another one's packet", other, xdpPass, counts{})
	l := []layer{udp(groups[numbers[0]], 53, data(20)), data(20)}
	datagram := packet{eth(ethIP4), ip4(peer4, else4, 17, l...)}.add(l...)
	run("checksum to come", checked(unfinished, datagram), xdpPass, counts{totals: []bpf.Total{bpf.TotalFlowUnfinished}})
	run("fragment", packet{eth(ethIP4), ip4opt(peer4, else4, 17, 0x2000, nil, l...)}.add(l...).bytes(), xdpPass, counts{totals: []bpf.Total{bpf.TotalFragment}})
	try(b.table.Depart(group, sa.Generation, bpf.NoCPU))
	try(b.table.Shed(group, sa.Generation, 1<<62))
	run("shed", p, xdpDrop, counts{sa: "group", bytes: 48, totals: []bpf.Total{bpf.TotalShed}})
}
