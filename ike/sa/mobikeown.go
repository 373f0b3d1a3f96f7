package sa

import (
	"bytes"
	"net/netip"
	"slices"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// pathsChanged hears where the peer can be reached now that the box's network
// has changed; none: nowhere, for now.
func (m *Machine) pathsChanged(paths []Ends) {
	if m.s.Phase != Established || m.conn == nil {
		return
	}
	k := &m.s.IKE
	paths = slices.DeleteFunc(slices.Clone(paths), func(e Ends) bool {
		return !m.usable(e.Local) || e.Local.Is4() != e.Remote.Is4()
	})
	paths = paths[:min(len(paths), maxPaths)]
	gone := len(m.env.Addrs) > 0 && !slices.Contains(m.env.Addrs, k.Local.Addr())
	now := Ends{k.Local.Addr(), k.Remote.Addr()}
	switch {
	case m.decides():
		all := m.allPaths(paths)
		if len(all) > 1 || m.s.Mobile != nil {
			m.mobility().Paths = all
		}
		switch {
		case len(paths) > 0 && !slices.Contains(paths, now):
			m.choosePath(best(paths, now.Remote))
		case len(paths) == 0 && gone && len(all) > 0:
			m.choosePath(best(all, now.Remote))
		}
	case m.mobike() && gone:
		// The peer decides, so it is told, from where that can be done.
		if i := slices.IndexFunc(m.env.Addrs, func(a netip.Addr) bool { return m.usable(a) && a.Is4() == now.Remote.Is4() }); i >= 0 {
			m.moveTo(netip.AddrPortFrom(m.env.Addrs[i], k.Local.Port()), k.Remote)
			m.mobility().Due = true
			m.wait(taskAddresses)
		}
	case m.s.Began && gone && len(paths) > 0:
		m.startAgain("our address " + k.Local.Addr().String() + " is gone, and without MOBIKE the IKE SA cannot move")
		return
	}
	if m.mobike() && !slices.Equal(m.furtherAddrs(), m.told()) && !m.hasTaskKind(taskUpdate) {
		m.wait(taskAddresses)
	}
}

// addressesTold follows the peer's answer. One that decides which addresses are used
// updates when it sees us elsewhere, and CHILD SAs wait for that; behind a NAT it sees
// us where we were, and they would wait for ever.
func (m *Machine) addressesTold(k *IKE) {
	if p := m.s.Mobile; p != nil && p.Due && k.NATLocal && !m.decides() {
		p.Due = false
		m.moveChildren()
	}
}

// allPaths are the paths that the box would take, and behind them those from its
// other addresses.
func (m *Machine) allPaths(routed []Ends) []Ends {
	all := slices.Clone(routed)
	for _, remote := range m.PeerAddrs() {
		for _, local := range m.env.Addrs {
			e := Ends{local, remote}
			if len(all) < maxPaths && local.Is4() == remote.Is4() && m.usable(local) && !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	return all
}

func (m *Machine) told() []netip.Addr {
	if p := m.s.Mobile; p != nil {
		return p.Told
	}
	return nil
}

// best is the path to the address in use, or else the first.
func best(paths []Ends, remote netip.Addr) Ends {
	for _, e := range paths {
		if e.Remote == remote {
			return e
		}
	}
	return paths[0]
}

// startAgain ends the session here, and asks for each CHILD SA to be set up anew.
func (m *Machine) startAgain(why string) {
	m.follow(func(c *ChildConfig) FollowUp { return FollowStart })
	m.fail(why)
}

// onPath are the ports that go with a pair of addresses.
func (m *Machine) onPath(e Ends) (local, remote netip.AddrPort) {
	k := &m.s.IKE
	local, remote = netip.AddrPortFrom(e.Local, k.Local.Port()), netip.AddrPortFrom(e.Remote, k.Remote.Port())
	if e.Remote != k.Remote.Addr() && k.NATRemote {
		remote = withPort(remote, nattPort) // the port in use was a NAT's
	}
	return local, remote
}

// choosePath moves the IKE SA to another path, and says so to the peer.
func (m *Machine) choosePath(e Ends) {
	m.moveTo(m.onPath(e))
	m.update()
	if k := &m.s.IKE; k.Request != nil { // it may have been lost, and its time starts anew
		k.Request.Sent = 0
		m.transmit(k)
	}
}

// update has the peer told of the addresses in use.
func (m *Machine) update() {
	m.mobility().Due = true
	m.wait(taskUpdate)
}

// sendUpdate is the UPDATE_SA_ADDRESSES request (RFC 4555 3.5).
func (m *Machine) sendUpdate(k *IKE, t Task) {
	ps := m.appendNATDetection([]wire.Payload{&wire.Notify{NotifyType: wire.NotifyUpdateSAAddresses}})
	if !slices.Equal(m.furtherAddrs(), m.told()) {
		ps = m.appendAddrs(ps)
	}
	m.inform(k, t, append(ps, m.cookie2())...)
}

// updated continues with the answer to UPDATE_SA_ADDRESSES.
func (m *Machine) updated(ps []wire.Payload) {
	k, p := &m.s.IKE, m.mobility()
	if n, ok := wire.FindError(ps); ok {
		m.updateRefused(n)
		return
	}
	if !m.cookieReturned(ps) {
		return
	}
	switch {
	case k.Local != p.Local || k.Remote != p.Remote:
		m.update() // they have changed since: once more
	case slices.Contains(m.otherPaths(), Ends{m.env.at.Local.Addr(), m.env.at.Remote.Addr()}):
		// It went, and was answered, by another path (RFC 4555 3.5).
		m.moveTo(m.env.at.Local, m.env.at.Remote)
		m.update()
	default:
		f := natOf(ps, k.SPIi, k.SPIr, k.Local, k.Remote)
		m.setNAT(f)
		p.Due, p.Seen = false, bytes.Clone(f.seen)
		m.moveChildren()
	}
}

// updateRefused tries the next path, if there is one.
func (m *Machine) updateRefused(n *wire.Notify) {
	k := &m.s.IKE
	m.failed(event.PeerError, true, "", "let the peer accept our new address, or use another", event.Fact{Name: "notify", Value: n.NotifyType.String()},
		event.Fact{Name: "local", Value: k.Local.String()}, event.Fact{Name: "remote", Value: k.Remote.String()})
	p := m.mobility()
	i := slices.Index(p.Paths, Ends{k.Local.Addr(), k.Remote.Addr()})
	if i < 0 || i+1 >= len(p.Paths) {
		m.startAgain("the peer refused our addresses: " + n.NotifyType.String())
		return
	}
	m.choosePath(p.Paths[i+1])
}

// tryPath is where a request goes for the nth time, from 0: when twice no answer
// came by the path in use, the others take turns with it.
func (m *Machine) tryPath(k *IKE, n int) (local, remote netip.AddrPort) {
	if n < 2 || k != &m.s.IKE || !m.decides() {
		return k.Local, k.Remote
	}
	if paths := m.otherPaths(); len(paths) > 0 {
		if i := (n - 2) % (len(paths) + 1); i < len(paths) {
			return m.onPath(paths[i])
		}
	}
	return k.Local, k.Remote
}

// otherPaths are the paths beside the one in use: those that the shell knows a
// route for, and from our address to the peer's others.
func (m *Machine) otherPaths() []Ends {
	p, k := m.s.Mobile, &m.s.IKE
	if p == nil {
		return nil
	}
	now := Ends{k.Local.Addr(), k.Remote.Addr()}
	var out []Ends
	add := func(e Ends) {
		if e != now && !slices.Contains(out, e) && len(out) < maxPaths {
			out = append(out, e)
		}
	}
	for _, e := range p.Paths {
		add(e)
	}
	for _, a := range p.PeerAddrs {
		if a.Is4() == now.Local.Is4() && !slices.ContainsFunc(p.Paths, func(e Ends) bool { return e.Remote == a }) {
			add(Ends{now.Local, a})
		}
	}
	return out
}

// answeredBy follows an answer that came by another path than the one in use:
// that is the one that works (RFC 4555 3.10).
func (m *Machine) answeredBy(k *IKE, purpose TaskKind) {
	if k != &m.s.IKE || !m.decides() || purpose == taskUpdate || m.env.at.Local.Addr() == k.Local.Addr() && m.env.at.Remote.Addr() == k.Remote.Addr() {
		return
	}
	if slices.Contains(m.otherPaths(), Ends{m.env.at.Local.Addr(), m.env.at.Remote.Addr()}) {
		m.moveTo(m.env.at.Local, m.env.at.Remote)
		m.update()
	}
}

// appendPathCheck adds to a peer check, behind a NAT, what shows whether its
// mapping has changed (RFC 4555 3.8).
func (m *Machine) appendPathCheck(ps []wire.Payload) []wire.Payload {
	if k := &m.s.IKE; m.decides() && k.NATLocal && !k.NATFake {
		ps = m.appendNATDetection(ps)
	}
	return ps
}

// pathChecked compares how the peer sees us with how it did before.
func (m *Machine) pathChecked(k *IKE, ps []wire.Payload) {
	if !m.decides() || !k.NATLocal || k.NATFake || m.hasTaskKind(taskUpdate) {
		return
	}
	if f := natOf(ps, k.SPIi, k.SPIr, k.Local, k.Remote); f.there && !bytes.Equal(f.seen, m.mobility().Seen) {
		m.wait(taskUpdate) // our addresses are the same, so CHILD SAs need not wait
	}
}
