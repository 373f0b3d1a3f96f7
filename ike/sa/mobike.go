package sa

import (
	"bytes"
	"io"
	"net/netip"
	"slices"

	"espalier/ike/wire"
)

// MOBIKE (RFC 4555): the side that began the first IKE SA decides which
// addresses both use. When its own change, or the path in use seems dead, it
//
//	moves its IKE SA at once, and sends what it waits for by the new path
//	UPDATE_SA_ADDRESSES  ─►  the other side moves its IKE SA, answers,
//	                     ◄─  asks by COOKIE2 whether the peer is really there
//	moves its CHILD SAs      and then moves its CHILD SAs

// The kinds of task of MOBIKE.
const (
	taskUpdate    TaskKind = 33 // UPDATE_SA_ADDRESSES
	taskReachable TaskKind = 34 // return routability check (RFC 4555 3.7)
	taskAddresses TaskKind = 35 // our further addresses have changed
)

// Bounds of MOBIKE: addresses of a peer that are kept, of ours that are told, and
// pairs that a request is tried on.
const (
	maxPeerAddrs  = 16
	maxOwnAddrs   = 8
	maxPaths      = 16
	cookie2Length = 16
)

// Ends is a pair of addresses between which packets may go.
type Ends struct{ Local, Remote netip.Addr }

// Mobility is what MOBIKE keeps beside the addresses in use.
type Mobility struct {
	PeerAddrs []netip.Addr // further addresses of the peer
	Told      []netip.Addr // of ours, as the peer knows them
	Paths     []Ends       // where the peer may be reached, the best first

	// Due: the peer has not confirmed our addresses yet, and CHILD SAs wait.
	Due bool
	// Cookie is the COOKIE2 under way; Local and Remote are the addresses that the
	// request which carries it is about.
	Cookie        []byte
	Local, Remote netip.AddrPort
	// Check: the peer's new address is not proven yet, and CHILD SAs wait, new
	// ones, too, where they are: at Proven.
	Check  bool
	Proven Place
	// Seen is how the peer sees our address behind a NAT, hashed.
	Seen []byte
}

func (c *coder) mobility(p *Mobility) {
	list(c, &p.PeerAddrs, addr)
	list(c, &p.Told, addr)
	list(c, &p.Paths, func(c *coder, e *Ends) { addr(c, &e.Local); addr(c, &e.Remote) })
	boolean(c, &p.Due)
	raw(c, &p.Cookie)
	addrPort(c, &p.Local)
	addrPort(c, &p.Remote)
	boolean(c, &p.Check)
	c.place(&p.Proven)
	raw(c, &p.Seen)
}

// mobike reports whether both sides do MOBIKE.
func (m *Machine) mobike() bool {
	return m.conn != nil && m.conn.MOBIKE && m.s.IKE.Peer.has(CanMOBIKE)
}

// decides reports whether it is up to us which addresses are used.
func (m *Machine) decides() bool { return m.s.Began && m.mobike() && m.s.Phase == Established }

func (m *Machine) mobility() *Mobility {
	if m.s.Mobile == nil {
		m.s.Mobile = new(Mobility)
	}
	m.persist = true
	return m.s.Mobile
}

// childrenWait reports whether CHILD SAs stay where they are for now.
func (m *Machine) childrenWait() bool {
	p := m.s.Mobile
	return p != nil && (p.Due || p.Check)
}

// PeerAddrs are where the peer can be reached, as far as we know, the address in
// use first; nil when it is not up to us to choose.
func (m *Machine) PeerAddrs() []netip.Addr {
	if !m.s.Began || m.s.Phase != Established {
		return nil
	}
	out := []netip.Addr{m.s.IKE.Remote.Addr()}
	if p := m.s.Mobile; p != nil && m.mobike() {
		for _, a := range p.PeerAddrs {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// furtherAddrs are our addresses beside the one in use that the connection
// allows: what the peer may try.
func (m *Machine) furtherAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range m.env.Addrs {
		if a != m.s.IKE.Local.Addr() && len(out) < maxOwnAddrs && m.usable(a) {
			out = append(out, a)
		}
	}
	return out
}

// usable reports whether the connection may use an address of the box.
func (m *Machine) usable(a netip.Addr) bool {
	return a.IsValid() && !slices.Contains(m.leased(false), a) && m.env.Conns.best(m.conn.LocalAddrs, a) > 0
}

// appendMOBIKE announces MOBIKE, and our addresses, in IKE_AUTH. A responder does
// only to a peer that does.
func (m *Machine) appendMOBIKE(ps []wire.Payload) []wire.Payload {
	k := &m.s.IKE
	if !m.conn.MOBIKE || !k.NATT || !k.Initiator && !k.Peer.has(CanMOBIKE) {
		return ps
	}
	return m.appendAddrs(append(ps, &wire.Notify{NotifyType: wire.NotifyMOBIKESupported}))
}

// appendAddrs adds our further addresses (RFC 4555 3.4), and remembers them.
func (m *Machine) appendAddrs(ps []wire.Payload) []wire.Payload {
	addrs := m.furtherAddrs()
	if len(addrs) > 0 || m.s.Mobile != nil {
		m.mobility().Told = addrs
	}
	if len(addrs) == 0 {
		return append(ps, &wire.Notify{NotifyType: wire.NotifyNoAdditionalAddresses})
	}
	for _, a := range addrs {
		t := wire.NotifyAdditionalIP4Address
		if a.Is6() {
			t = wire.NotifyAdditionalIP6Address
		}
		ps = append(ps, &wire.Notify{NotifyType: t, Data: a.AsSlice()})
	}
	return ps
}

// readMOBIKE notes what the peer's IKE_AUTH says.
func (m *Machine) readMOBIKE(ps []wire.Payload) {
	if _, ok := wire.FindNotify(ps, wire.NotifyMOBIKESupported); ok && m.s.IKE.NATT {
		m.s.IKE.Peer |= CanMOBIKE
		m.readAddrs(ps)
	}
}

// readAddrs notes the peer's further addresses, and reports whether the message
// speaks of them: what it says replaces what we knew (RFC 4555 3.6).
func (m *Machine) readAddrs(ps []wire.Payload) bool {
	var addrs []netip.Addr
	said := false
	for n := range wire.All[*wire.Notify](ps) {
		switch n.NotifyType {
		case wire.NotifyNoAdditionalAddresses:
			said = true
		case wire.NotifyAdditionalIP4Address, wire.NotifyAdditionalIP6Address:
			said = true
			a, ok := netip.AddrFromSlice(n.Data)
			if ok && len(addrs) < maxPeerAddrs && a.Is4() == (n.NotifyType == wire.NotifyAdditionalIP4Address) && reachableAddr(a) {
				addrs = append(addrs, a)
			}
		}
	}
	if said && (len(addrs) > 0 || m.s.Mobile != nil) {
		m.mobility().PeerAddrs = addrs
	}
	return said
}

// reachableAddr reports whether a host can have the address.
func reachableAddr(a netip.Addr) bool {
	return !a.Is4In6() && a.IsGlobalUnicast()
}

// natFacts are what NAT detection notifies say (RFC 7296 2.23).
type natFacts struct {
	there         bool // both kinds are there: the peer does NAT traversal
	local, remote bool // a NAT stands before us, before the peer
	seen          []byte
}

// natOf compares NAT detection notifies with the addresses of their message.
func natOf(ps []wire.Payload, spii, spir wire.SPI, local, remote netip.AddrPort) (f natFacts) {
	var sources, matched, dest, destMatched bool
	src, dst := natHash(spii, spir, remote), natHash(spii, spir, local)
	for n := range wire.All[*wire.Notify](ps) {
		switch n.NotifyType {
		case wire.NotifyNATDetectionSourceIP:
			sources, matched = true, matched || bytes.Equal(n.Data, src[:])
		case wire.NotifyNATDetectionDestinationIP:
			dest, destMatched = true, destMatched || bytes.Equal(n.Data, dst[:])
			f.seen = n.Data
		}
	}
	f.there, f.local, f.remote = sources && dest, !destMatched, !matched
	return f
}

// setNAT takes over what NAT detection found.
func (m *Machine) setNAT(f natFacts) {
	if !f.there {
		return
	}
	fake := !f.local && m.conn != nil && m.conn.Encap
	for k := range m.ikes() {
		k.NATT, k.NATRemote, k.NATLocal, k.NATFake = true, f.remote, f.local || fake, fake
	}
	m.persist = true
}

// cookie2 makes the COOKIE2 of a request, and remembers what that is about.
func (m *Machine) cookie2() wire.Payload {
	p, k := m.mobility(), &m.s.IKE
	p.Cookie = make([]byte, cookie2Length)
	if _, err := io.ReadFull(m.env.Rand, p.Cookie); err != nil {
		m.fail("no randomness")
	}
	p.Local, p.Remote = k.Local, k.Remote
	return &wire.Notify{NotifyType: wire.NotifyCookie2, Data: p.Cookie}
}

// cookieReturned checks the answer to cookie2. An answer without it was not made
// from our request (RFC 4555 3.7), so it ends the session.
func (m *Machine) cookieReturned(ps []wire.Payload) bool {
	p := m.mobility()
	n, ok := wire.FindNotify(ps, wire.NotifyCookie2)
	if ok = ok && bytes.Equal(n.Data, p.Cookie); !ok {
		m.followClosed()
		m.fail("the peer's answer has not our COOKIE2: the request did not reach it")
	}
	p.Cookie = nil
	return ok
}

// wait adds a task unless one of its kind waits already; nextTask begins it.
func (m *Machine) wait(kind TaskKind) {
	if !m.hasTaskKind(kind) {
		m.s.Tasks = append(m.s.Tasks, Task{Kind: kind})
		m.persist = true
	}
}
