package sa

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"espalier/ike/wire"
)

// appendMobileAnswer does what the peer's INFORMATIONAL says of addresses, and
// adds what the answer has to (RFC 4555 3.5 to 3.9).
func (m *Machine) appendMobileAnswer(k *IKE, ps, answer []wire.Payload) []wire.Payload {
	if !m.mobike() || k.Role == IKEReplaced || m.s.Phase != Established {
		return answer
	}
	if n, ok := wire.FindNotify(ps, wire.NotifyCookie2); ok {
		answer = append(answer, &wire.Notify{NotifyType: wire.NotifyCookie2, Data: bytes.Clone(n.Data)})
	}
	if n, ok := wire.FindNotify(ps, wire.NotifyNoNATsAllowed); ok && !bytes.Equal(n.Data, noNATs(m.env.at.Remote, m.env.at.Local)) {
		return append(answer, &wire.Notify{NotifyType: wire.NotifyUnexpectedNATDetected})
	}
	said := m.readAddrs(ps)
	f := natOf(ps, k.SPIi, k.SPIr, m.env.at.Local, m.env.at.Remote)
	_, update := wire.FindNotify(ps, wire.NotifyUpdateSAAddresses)
	switch {
	case update && m.s.Began: // it is up to us
	case update && !reachableAddr(m.env.at.Remote.Addr()):
		return append(answer, &wire.Notify{NotifyType: wire.NotifyUnacceptableAddresses})
	case update:
		m.peerUpdates(f)
	case said && m.s.Began:
		m.peerHas(m.env.at.Remote.Addr())
	}
	if f.there {
		at := *k
		at.Local, at.Remote = m.env.at.Local, m.env.at.Remote
		answer = m.appendNATHashes(answer, &at)
	}
	return answer
}

// noNATs is the data of NO_NATS_ALLOWED (RFC 4555 3.9): addresses, then ports.
func noNATs(src, dst netip.AddrPort) []byte {
	b := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, src.Port()), dst.Port())
}

// peerUpdates moves to where the peer's UPDATE_SA_ADDRESSES came from. CHILD SAs
// follow when the peer has shown that it receives there, for else it could have
// us flood somebody else.
func (m *Machine) peerUpdates(f natFacts) {
	proven := m.s.IKE.place()
	if p := m.s.Mobile; p != nil && p.Check {
		proven = p.Proven
	}
	m.setNAT(f)
	m.moveTo(m.env.at.Local, m.env.at.Remote)
	if p := m.s.Mobile; p != nil {
		p.Due = false // if we moved, the peer has followed
	}
	if m.env.at.Remote.Addr() != proven.Remote.Addr() || m.s.Mobile != nil && m.s.Mobile.Check {
		p := m.mobility()
		p.Check, p.Proven = true, proven
		m.wait(taskReachable)
		return
	}
	m.moveChildren()
}

// reachable continues with the answer to the return routability check.
func (m *Machine) reachable(ps []wire.Payload) {
	k, p := &m.s.IKE, m.mobility()
	if !m.cookieReturned(ps) {
		return
	}
	if p.Remote.Addr() != k.Remote.Addr() {
		m.wait(taskReachable) // it has moved on
		return
	}
	p.Check = false
	m.moveChildren()
}

// peerHas hears of all addresses of the peer, of which it speaks from one: when
// the one in use is not among them, that one takes its place.
func (m *Machine) peerHas(from netip.Addr) {
	k := &m.s.IKE
	if now := k.Remote.Addr(); from == now {
		return
	}
	for _, a := range m.mobility().PeerAddrs {
		if a == k.Remote.Addr() {
			return
		}
	}
	m.moveTo(k.Local, m.env.at.Remote)
	m.update()
}
