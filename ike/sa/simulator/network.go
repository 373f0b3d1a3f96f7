package simulator

import (
	"net/netip"
	"slices"
	"time"

	"espalier/ike/wire"
)

// nat stands before one gateway and translates the addresses of its inside.
type nat struct {
	inside func(netip.Addr) bool
	// forwards: it lets in, on its outer address, what goes to the ports of IKE, and
	// never changes a mapping. One that does not lets in what its inside has asked for.
	forwards bool
	outer    netip.Addr
	out, in  map[netip.AddrPort]netip.AddrPort // inner to outer, and back
	port     uint16
}

// natAddr is the first outer address of a NAT; others follow.
var natAddr = netip.MustParseAddr("203.0.113.9")

// newNAT puts a NAT before gateway i.
func newNAT(i int, forwards bool) *nat {
	base, private := [2]netip.Addr{moonAddr, sunAddr}[i], privateNet(i)
	n := &nat{forwards: forwards, outer: natAddr, port: 20000, inside: func(a netip.Addr) bool { return a == base || private.Contains(a) }}
	if forwards {
		n.outer = netip.MustParseAddr("203.0.113.200")
	}
	n.rebind(false)
	return n
}

// rebind forgets all mappings: the peer sees another port from now on, perhaps
// another address.
func (n *nat) rebind(elsewhere bool) {
	n.out, n.in = map[netip.AddrPort]netip.AddrPort{}, map[netip.AddrPort]netip.AddrPort{}
	if elsewhere {
		n.outer = n.outer.Next()
	}
}

// mapping is where the world sees an inner address; false: nowhere yet.
func (n *nat) mapping(a netip.AddrPort) (netip.AddrPort, bool) {
	if n.forwards {
		return netip.AddrPortFrom(n.outer, a.Port()), true
	}
	o, ok := n.out[a]
	return o, ok
}

// hides is the NAT that an address stands behind; nil: none.
func (s *sim) hides(a netip.Addr) *nat {
	for _, n := range s.nats {
		if n != nil && n.inside(a) {
			return n
		}
	}
	return nil
}

// outward is how the world sees a packet from an address.
func (s *sim) outward(a netip.AddrPort) netip.AddrPort {
	n := s.hides(a.Addr())
	if n == nil {
		return a
	}
	o, ok := n.mapping(a)
	if !ok {
		n.port++
		o = netip.AddrPortFrom(n.outer, n.port)
		n.out[a], n.in[o] = o, a
	}
	return o
}

// inward is where a packet goes that the world sends to an address; false:
// nowhere. What stands behind a NAT is not reached by its own address.
func (s *sim) inward(a netip.AddrPort) (netip.AddrPort, bool) {
	for i, n := range s.nats {
		if n == nil {
			continue
		}
		if in, ok := n.in[a]; ok {
			return in, true
		}
		if n.forwards && a.Addr() == n.outer {
			for _, to := range slices.Backward(s.gws[i].addrs) {
				if n.inside(to) {
					return netip.AddrPortFrom(to, a.Port()), true
				}
			}
			return a, false
		}
	}
	return a, s.hides(a.Addr()) == nil
}

// has reports whether packets reach and leave a gateway by an address.
func (g *gateway) has(a netip.Addr) bool { return slices.Contains(g.addrs, a) && !g.dark[a] }

// holder is the gateway that has an address; nil: none.
func (s *sim) holder(a netip.Addr) *gateway {
	for _, g := range s.gws {
		if g.has(a) {
			return g
		}
	}
	return nil
}

// send puts a datagram of a gateway on the network. purpose names it for the
// counters; empty: nothing that is counted.
func (s *sim) send(g *gateway, from, to netip.AddrPort, data []byte, purpose string) {
	data = append([]byte(nil), data...)
	lost := func() {
		if purpose != "" {
			s.meet(purpose, "loss")
		}
	}
	if !g.has(from.Addr()) {
		s.tracef("         (not sent: %s has not %s now)", g.name, from.Addr())
		lost()
		return
	}
	from = s.outward(from)
	fate := func(copy int) {
		d := s.latency + s.between(0, s.jitter)
		switch {
		case s.now.Before(s.cut), !s.calm && s.chance(s.lose):
			s.tracef("         (copy %d is lost)", copy)
			lost()
			return
		case !s.calm && s.chance(s.late):
			d += s.between(0, 20*time.Second)
		}
		s.after(d, func() { s.arrive(from, to, data) })
	}
	fate(1)
	for n := 2; n < 5 && !s.calm && s.chance(s.double); n++ {
		fate(n)
		if purpose != "" {
			s.meet(purpose, "doubling")
		}
	}
}

// arrive delivers a datagram.
func (s *sim) arrive(from, to netip.AddrPort, data []byte) {
	to, ok := s.inward(to)
	if !ok {
		return
	}
	if g := s.holder(to.Addr()); g != nil {
		g.notice(from, data)
		g.receive(from, to, data)
	}
}

// notice remembers from where answers came: who answers is really there.
func (g *gateway) notice(from netip.AddrPort, data []byte) {
	if h, err := wire.ParseHeader(data); err == nil && h.IsResponse() {
		g.answered[from.Addr()] = true
	}
}
