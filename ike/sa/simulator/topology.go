package simulator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"espalier/ike/sa"
)

// Classes are kinds of events, as a bitmask. Those that came later than the first
// simulator draw from streams of randomness of their own, so that a seed without
// them is what it was.
type Classes uint16

// The classes.
const (
	Rebinds   Classes = 1 << iota // NATs before either side, which change their mappings
	Moves                         // addresses that come and go, with MOBIKE and without
	Tokens                        // quick crash detection (RFC 6290)
	Holds                         // a child that another session has is held back (reauthentication)
	Fragments                     // IKE fragmentation
	Limits                        // CHILD SAs reach limits of packets
	Traps                         // packets without SA are reported
	CPUs                          // CHILD SAs of single CPUs (RFC 9611)
)

// topology is where the gateways stand, and what changes about that.
type topology struct {
	nat     [2]bool // a NAT stands before the gateway
	forward [2]bool // that lets in what goes to the ports of IKE
	rebinds bool
	moves   bool
	mobike  [2]bool
	// churn: one deed in so many is about addresses; 0: none.
	churn int
}

func newTopology(r *rand.Rand, natted bool, without Classes) (t topology) {
	t.nat[0] = natted
	if without&Rebinds == 0 && natted {
		side := r.IntN(2)
		t.nat, t.rebinds = [2]bool{}, r.IntN(4) != 0
		t.nat[side] = true
		if r.IntN(3) == 0 {
			t.nat[1-side], t.forward[1-side] = true, true
		}
	}
	if without&Moves == 0 && r.IntN(3) == 0 {
		t.moves = true
		switch r.IntN(8) {
		case 0:
		case 1:
			t.mobike[r.IntN(2)] = true
		default:
			t.mobike = [2]bool{true, true}
		}
	}
	if without&Moves == 0 && t.rebinds && !t.moves {
		both := r.IntN(3) == 0
		t.mobike = [2]bool{both, both}
	}
	if t.rebinds || t.moves {
		t.churn = 2 + r.IntN(3)
	}
	return t
}

// privateNet is where gateway i finds addresses behind its NAT.
func privateNet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(66 + i), 0, 0}), 16)
}

// fresh is an address that nobody had before, perhaps behind the gateway's NAT.
func (g *gateway) fresh() netip.Addr {
	g.lastAddr++
	if n := g.s.nats[g.index]; n != nil && !n.forwards && g.s.chance(2) {
		return netip.AddrFrom4([4]byte{10, byte(66 + g.index), 0, g.lastAddr})
	}
	return netip.AddrFrom4([4]byte{198, 51, byte(100 + g.index), g.lastAddr})
}

// targets are the other gateway's addresses that can be asked for a session.
func (g *gateway) targets() (out []netip.Addr) {
	o := g.s.gws[1-g.index]
	for _, a := range o.addrs {
		switch n := g.s.hides(a); {
		case n == nil:
			out = append(out, a)
		case n.forwards:
			out = append(out, n.outer)
		}
	}
	return out
}

// route is the address from which the gateway sends, whereto ever; false: none.
func (g *gateway) route() (netip.Addr, bool) {
	if len(g.addrs) == 0 {
		return netip.Addr{}, false
	}
	return g.addrs[0], true
}

// upheaval changes something about addresses, often in the middle of something
// else.
func (s *sim) upheaval() {
	g, h := s.gws[s.rnd.IntN(2)], s.gws[s.rnd.IntN(2)]
	s.strict = false
	soon := s.between(0, 3*s.latency+s.jitter+s.jobs)
	switch s.rnd.IntN(8) {
	case 0, 1: // both
		s.change(g)
		o := s.gws[1-g.index]
		s.after(s.between(0, s.latency), func() { s.change(o) })
	case 2, 3, 4: // while they negotiate
		w, pick := s.wish(), s.rnd.IntN(8)
		s.tracef("OPERATOR %s: %s", h.name, w)
		h.do(w, pick)
		s.after(soon, func() { s.change(g) })
	case 5:
		if x := h.established(); x != nil {
			s.tracef("OPERATOR %s: reauthenticate", h.name)
			x.step(sa.ReauthenticateNow{})
		}
		s.after(soon+s.between(0, 4*s.latency), func() { s.change(g) })
	case 6:
		if s.crash > 0 {
			h.crash("by the operator")
		}
		s.after(s.between(0, 4*time.Second), func() { s.change(g) })
	default:
		s.change(g)
	}
}

// change has a NAT of a gateway, or its addresses, change.
func (s *sim) change(g *gateway) {
	if s.calm {
		return
	}
	if s.rebinds && (!s.moves || s.chance(2)) {
		for _, n := range s.nats {
			if n != nil && !n.forwards {
				n.rebind(s.chance(3))
			}
		}
		s.tracef("NAT forgets its mappings")
		s.meetAll(rebinding)
		s.lastRebind = s.now
		for _, g := range s.gws {
			if s.recent(g.lastMove) {
				s.meet(rebinding, moving)
			}
		}
		return
	}
	if s.moves {
		g.move()
	}
}

// move changes the addresses of a gateway.
func (g *gateway) move() {
	s := g.s
	n, hint := len(g.addrs), true
	switch kind := s.rnd.IntN(12); {
	case kind < 4 || n == 0: // another one in the place of all
		g.addrs = []netip.Addr{g.fresh()}
	case kind < 6 && n < 4: // one more, by which packets go from now on
		g.addrs = append([]netip.Addr{g.fresh()}, g.addrs...)
	case kind < 7 && n < 4: // one more
		g.addrs = append(g.addrs, g.fresh())
	case kind < 8 && n > 1: // the best one goes
		g.addrs = g.addrs[1:]
	case kind < 9 && n > 1: // one that is not in use goes
		g.addrs = g.addrs[:n-1]
	case kind < 10 && n > 1: // another route
		g.addrs = append(g.addrs[1:n:n], g.addrs[0])
	case kind < 11 && n > 1: // nobody says so, but nothing gets through
		a := g.addrs[0]
		g.dark[a], hint = true, false
		s.after(s.between(5*time.Second, 90*time.Second), func() { delete(g.dark, a) })
	default: // no network at all for a while
		was := g.addrs
		g.addrs = nil
		s.after(s.between(100*time.Millisecond, 8*time.Second), func() {
			if len(g.addrs) > 0 {
				return
			}
			if g.addrs = was; s.chance(2) {
				g.addrs = []netip.Addr{g.fresh()}
			}
			s.tracef("%s  ADDRESSES %v", g.name, g.addrs)
			g.networkChanged()
		})
	}
	s.tracef("%s  ADDRESSES %v, dark %v", g.name, g.addrs, g.dark)
	s.meetAll(moving)
	if s.recent(s.lastRebind) {
		s.meet(rebinding, moving)
	}
	if s.recent(s.gws[1-g.index].lastMove) {
		s.res.Collisions[bothMove]++
	}
	g.lastMove = s.now
	if hint {
		g.networkChanged()
	}
}

// recent reports whether something happened so lately that hardly a message has
// come about it.
func (s *sim) recent(t time.Time) bool { return !t.IsZero() && s.now.Sub(t) < 2*s.latency }

// networkPause is the engine's.
const networkPause = time.Second

// networkChanged tells the sessions, as the engine does: soon, and not more often
// than every networkPause.
func (g *gateway) networkChanged() {
	if g.hinted || !g.s.moves {
		return
	}
	s, life := g.s, g.life
	g.hinted = true
	s.after(max(s.between(0, 100*time.Millisecond), g.hintFree.Sub(s.now)), func() {
		if g.life != life || !g.up {
			return
		}
		g.hinted, g.hintFree = false, s.now.Add(networkPause)
		g.lookAround()
		for _, x := range slices.Clone(g.sessions) {
			if !x.gone && g.up {
				x.step(sa.NetworkChanged{Paths: g.paths(x.m)})
			}
		}
	})
}

// lookAround reads the gateway's addresses.
func (g *gateway) lookAround() {
	if g.s.moves {
		g.env.Addrs = slices.Clone(g.addrs)
	}
}

// paths are the ways from here to a session's peer.
func (g *gateway) paths(m *sa.Machine) (out []sa.Ends) {
	local, ok := g.route()
	for _, a := range m.PeerAddrs() {
		if ok {
			out = append(out, sa.Ends{Local: local, Remote: a})
		}
	}
	return out
}

// What addresses meet with.
const (
	rebinding = "NAT rebinding"
	moving    = "address change"
)

const (
	bothMove      = "address change at moon / address change at sun"
	rebindAndMove = "NAT rebinding / address change"
)

// meet counts two things that met.
func (s *sim) meet(a, b string) { s.res.Collisions[a+" / "+b]++ }

// meetAll counts what is under way at either side while something happens to
// addresses.
func (s *sim) meetAll(what string) {
	s.res.Features[what]++
	for _, g := range s.gws {
		if !g.up {
			s.meet(what, "restart")
		}
		for _, x := range g.sessions {
			st := x.m.State()
			for _, c := range []*sa.Create{st.Own, st.Peer} {
				if c != nil {
					s.meet(what, createNames[c.Kind])
				}
			}
			if x.m.Replaces() != 0 && st.Phase < sa.Established {
				s.meet(what, "reauthentication")
			}
			if p := st.Mobile; p != nil && (p.Due || p.Check) && what == moving {
				s.meet(what, moving)
			}
		}
	}
}

var createNames = map[sa.CreateKind]string{sa.CreateChild: "create CHILD SA", sa.RekeyChildSA: "rekey CHILD SA", sa.RekeyIKESA: "rekey IKE SA"}

// The kinds of task of MOBIKE; their numbers are part of the encoding.
const (
	taskUpdate    sa.TaskKind = 33
	taskReachable sa.TaskKind = 34
	taskAddresses sa.TaskKind = 35
)

// crosses counts a message of MOBIKE that crosses a rekeying of the peer's.
func (x *session) crosses(purpose string) {
	if purpose == "" {
		return
	}
	k := &x.m.State().IKE
	for _, y := range x.g.s.gws[1-x.g.index].sessions {
		if st := y.m.State(); st.IKE.SPIi == k.SPIi && st.Own != nil && st.IKE.Request != nil {
			x.g.s.meet(purpose, createNames[st.Own.Kind])
		}
	}
}

// purpose names a message of MOBIKE that a session is about to send.
func (x *session) purpose(data []byte) string {
	k := &x.m.State().IKE
	if r := k.Request; r != nil && len(r.Data) > 0 && len(data) > 0 && &r.Data[0] == &data[0] {
		switch r.For.Kind {
		case taskUpdate:
			return "UPDATE_SA_ADDRESSES"
		case taskReachable:
			return "COOKIE2"
		case taskAddresses:
			return "ADDITIONAL_IP4_ADDRESS"
		}
	}
	return ""
}

// settled looks at the sessions that have nothing under way: addresses have
// changed no more for settleTime.
func (s *sim) settled() {
	s.sameAddresses()
	all := true
	for _, g := range s.gws {
		quiet := g.up && len(g.sessions) == 1 && !slices.ContainsFunc(g.sessions, func(x *session) bool { return !x.m.Quiet() })
		if all = all && quiet; quiet {
			s.res.Features["settled gateway"]++
			g.checkKernel()
		}
	}
	if all {
		s.probe()
	}
}

// probe has something renewed that may have moved, under traffic: no packet is
// lost over that.
func (s *sim) probe() {
	g, pick := s.gws[s.rnd.IntN(2)], s.rnd.IntN(8)
	what := rekeyChild
	step, n := (s.latency+s.jitter+s.jobs)/8+time.Millisecond, 64
	if s.holds {
		switch n := s.rnd.IntN(4); {
		case n == 0:
			what = rekeyIKE
		case n < 3 && s.unique == sa.UniquenessNo && !s.limits:
			// Else the peer may end the old one early, or a rekeying on it be newer.
			what = reauthenticate
		}
	}
	if what == reauthenticate {
		n = 200
	}
	s.tracef("OPERATOR %s: %s, without loss", g.name, what)
	s.res.Features["without loss: "+string(what)]++
	s.strict, s.probing = true, true
	for _, g := range s.gws {
		clear(g.kernel.works)
		for _, t := range g.kernel.ways() {
			g.kernel.works[t.ReqID] = g.kernel.newest(t) != nil
		}
	}
	g.do(what, pick)
	for i := range n {
		s.after(time.Duration(i)*step, func() {
			for _, g := range s.gws {
				g.kernel.packets()
			}
		})
	}
	s.after(time.Duration(n+16)*step, func() { s.strict, s.probing = false, false })
}

// sameAddresses: each side has the other where that is, and all CHILD SAs are
// where their IKE SA is, in the kernel, too.
func (s *sim) sameAddresses() {
	for _, x := range s.gws[0].sessions {
		for _, y := range s.gws[1].sessions {
			if x.m.State().IKE.SPIi != y.m.State().IKE.SPIi || !x.m.Quiet() || !y.m.Quiet() {
				continue
			}
			x.standsFor(y)
			y.standsFor(x)
			if a, b := encapsulated(x), encapsulated(y); a != b {
				s.failf("IKE SA %x: encapsulation at moon %v, at sun %v", uint64(x.m.State().IKE.SPIi), a, b)
			}
		}
	}
	for _, g := range s.gws {
		for _, x := range g.sessions {
			if x.m.Quiet() {
				x.stands()
			}
		}
	}
}

func encapsulated(x *session) bool {
	k := &x.m.State().IKE
	return k.NATLocal || k.NATRemote
}

// standsFor: y has x where x is.
func (x *session) standsFor(y *session) {
	s, here := x.g.s, x.m.Local()
	if !x.g.has(here.Addr()) {
		s.failf("%s#%d is at %s, which it has not: %v", x.g.name, x.m.ID(), here, x.g.addrs)
	}
	seen, ok := here, true
	if n := s.hides(here.Addr()); n != nil {
		seen, ok = n.mapping(here)
	}
	if ok && seen == y.m.Remote() {
		return
	}
	if k := &y.m.State().IKE; k.NATLocal && !k.NATFake && !(x.m.State().Began && s.mobike[0] && s.mobike[1]) {
		s.res.Features["not followed, as it stands behind a NAT itself"]++ // RFC 7296 2.23
		return
	}
	s.failf("%s#%d is at %s, which the world sees as %s (%v), but %s#%d has it at %s", x.g.name, x.m.ID(), here, seen, ok, y.g.name, y.m.ID(), y.m.Remote())
}

// stands: the kernel has the CHILD SAs where their IKE SA is.
func (x *session) stands() {
	g, st := x.g, x.m.State()
	local, remote, encap := st.IKE.Local, st.IKE.Remote, encapsulated(x)
	for i := range st.Children {
		c := &st.Children[i]
		for _, o := range g.kernel.sas {
			src, dst := local, remote
			switch {
			case o.sa.SPI == c.SPIIn && o.sa.Dir == dirIn:
				src, dst = remote, local
				// From any port: that of SAs of single CPUs and of their fallback, and of one that a
				// reauthentication installed before it was known whether it would be one.
				if c.Options&(sa.ChildPerCPU|sa.ChildBound) != 0 || o.sa.Encap != nil && o.sa.Encap.SrcPort == 0 && x.m.Replaces() != 0 {
					src = netip.AddrPortFrom(remote.Addr(), 0)
				}
			case o.sa.SPI == c.SPIOut && o.sa.Dir == dirOut:
			default:
				continue
			}
			have := fmt.Sprintf("%s %s", o.sa.Src, o.sa.Dst)
			want := fmt.Sprintf("%s %s", src.Addr(), dst.Addr())
			if o.sa.Encap != nil {
				have = fmt.Sprintf("%s:%d %s:%d", o.sa.Src, o.sa.Encap.SrcPort, o.sa.Dst, o.sa.Encap.DstPort)
			}
			if encap {
				want = fmt.Sprintf("%s %s", src, dst)
			}
			if have != want {
				g.s.failf("%s#%d: SA %s of child %d is at %s, expected %s", g.name, x.m.ID(), o.sa.SAKey, c.UniqueID, have, want)
			}
		}
	}
}
