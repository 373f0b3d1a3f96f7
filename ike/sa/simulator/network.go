package simulator

import (
	"net/netip"
	"time"
)

// nat translates the first gateway's addresses, when the profile has one.
type nat struct {
	s    *sim
	out  map[netip.AddrPort]netip.AddrPort // inner to outer
	in   map[netip.AddrPort]netip.AddrPort
	port uint16
}

// natAddr is the NAT's outer address.
var natAddr = netip.MustParseAddr("203.0.113.9")

func (n *nat) init(s *sim) {
	n.s, n.port = s, 20000
	n.rebind()
}

// rebind forgets all mappings: the peer sees another port from now on.
func (n *nat) rebind() {
	n.out, n.in = map[netip.AddrPort]netip.AddrPort{}, map[netip.AddrPort]netip.AddrPort{}
}

func (n *nat) outward(a netip.AddrPort) netip.AddrPort {
	if !n.s.profile.nat || a.Addr() != n.s.gws[0].addr {
		return a
	}
	o, ok := n.out[a]
	if !ok {
		n.port++
		o = netip.AddrPortFrom(natAddr, n.port)
		n.out[a], n.in[o] = o, a
	}
	return o
}

// inward is where a packet to the outer address goes; false: nowhere.
func (n *nat) inward(a netip.AddrPort) (netip.AddrPort, bool) {
	if a.Addr() != natAddr {
		// What stands behind a NAT is not reached by its own address.
		return a, !n.s.profile.nat || a.Addr() != n.s.gws[0].addr
	}
	i, ok := n.in[a]
	return i, ok
}

// send puts a datagram on the network.
func (s *sim) send(from, to netip.AddrPort, data []byte) {
	data = append([]byte(nil), data...)
	from = s.nat.outward(from)
	fate := func(copy int) {
		d := s.latency + s.between(0, s.jitter)
		switch {
		case s.now.Before(s.cut), !s.calm && s.chance(s.lose):
			s.tracef("         (copy %d is lost)", copy)
			return
		case !s.calm && s.chance(s.late):
			d += s.between(0, 20*time.Second)
		}
		s.after(d, func() { s.arrive(from, to, data) })
	}
	fate(1)
	for n := 2; n < 5 && !s.calm && s.chance(s.double); n++ {
		fate(n)
	}
}

// arrive delivers a datagram.
func (s *sim) arrive(from, to netip.AddrPort, data []byte) {
	to, ok := s.nat.inward(to)
	if !ok {
		return
	}
	for _, g := range s.gws {
		if g.addr == to.Addr() {
			g.receive(from, to, data)
		}
	}
}
