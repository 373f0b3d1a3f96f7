package sa

import (
	"slices"
	"time"

	"espalier/ike/auth"
	"espalier/ike/wire"
)

// A peer that reauthenticates asks, on a new IKE SA, for a CHILD SA that another
// session of ours has already. It can't receive with the new one before it has
// our answer, so what we send stays on the old one until the peer moves: until it
// deletes the old IKE SA, and before we confirm that, or after holdTime.

// holdTime is how long the outbound SA of such a child is held back at most: the
// peer has had our answer by then, or sends its request again.
const holdTime = time.Second

// rekeyHoldTime is how long what we send stays on a CHILD SA that the peer has rekeyed,
// when it does not delete it, which would show that it has the new one (RFC 7296 2.8).
// A peer that forgets to would otherwise get nothing any more once it has lost the old
// one: charon 6.0 does, when it rekeys the outcome of a collision. It is longer than
// what a busy peer takes to install what we have answered.
const rekeyHoldTime = 30 * time.Second

// holdBack notes, of a child that the peer asked for, that its outbound SA waits.
func (m *Machine) holdBack(c *Child, ids ChildIDs) {
	if ids.Shared {
		c.InboundOnly, c.TakeOverAt = true, m.env.Now.Add(holdTime)
	}
}

// Holds reports whether an outbound SA is held back, or being installed after
// that.
func (m *Machine) Holds() bool {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; m.awaitsSession(c) && c.Status <= ChildInstalled {
			return true
		}
	}
	return m.s.Peer != nil && m.s.Peer.Candidate != nil && !m.s.Peer.Candidate.TakeOverAt.IsZero()
}

// awaitsSession reports whether a child is held back for one of another session,
// not for one that it has replaced.
func (m *Machine) awaitsSession(c *Child) bool {
	return !c.TakeOverAt.IsZero() && m.replacedBy(c) == nil
}

// replacedBy gives the child in whose place the peer has made c, while it is there.
func (m *Machine) replacedBy(c *Child) *Child {
	if i := slices.IndexFunc(m.s.Children, func(o Child) bool { return o.PeerNew == c.UniqueID }); i >= 0 {
		return &m.s.Children[i]
	}
	return nil
}

// rekeysToo reports whether we have rekeyed a child that the peer has rekeyed, too, or are about it.
func (m *Machine) rekeysToo(old *Child) bool {
	return old.OwnNew != 0 || m.s.Own != nil && m.s.Own.Old == old.UniqueID
}

func (m *Machine) takeOverDeadline() (d time.Time) {
	if m.s.Phase != Established {
		return d
	}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.InboundOnly && c.Status == ChildInstalled && !c.TakeOverAt.IsZero() && (d.IsZero() || c.TakeOverAt.Before(d)) {
			d = c.TakeOverAt
		}
	}
	return d
}

// takeOverDue installs the outbound SAs whose time has come.
func (m *Machine) takeOverDue(now time.Time) {
	if m.s.Phase != Established {
		return
	}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.InboundOnly && !c.TakeOverAt.IsZero() && !now.Before(c.TakeOverAt) && c.Status == ChildInstalled {
			if old := m.replacedBy(c); old != nil && m.rekeysToo(old) {
				c.TakeOverAt = time.Time{} // settleRekey, or the peer's delete, says which of the two new ones stays
				continue
			}
			c.InboundOnly, c.OutboundDue, m.persist = false, true, true
		}
	}
	m.sweep()
}

// takeOver installs all outbound SAs that are held back, now or as soon as the
// child stands.
func (m *Machine) takeOver() {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.InboundOnly && m.awaitsSession(c) {
			c.TakeOverAt = m.env.Now
		}
	}
	if p := m.s.Peer; p != nil && p.Candidate != nil && !p.Candidate.TakeOverAt.IsZero() {
		p.Candidate.TakeOverAt = m.env.Now
	}
	m.takeOverDue(m.env.Now)
}

// Heir describes the sessions that take over from one that the peer deletes.
type Heir struct {
	Self uint64 // unique id of who asks
	Conn string
	Peer auth.ID
}

// Is reports whether m is one that has something to take over.
func (h Heir) Is(m *Machine) bool {
	return m.s.ID != h.Self && m.s.Conn == h.Conn && m.s.Phase == Established && m.s.IKE.RemoteID.Equal(h.Peer) && m.Holds()
}

// Heir describes the session's.
func (m *Machine) Heir() Heir { return Heir{m.s.ID, m.s.Conn, m.s.IKE.RemoteID} }

// handOver lets others take over before the peer's delete of the IKE SA is
// answered, for then the peer no longer receives with our CHILD SAs. It reports
// false when there is nothing to hand over.
func (m *Machine) handOver(k *IKE, id uint32) bool {
	if m.s.Phase != Established || k != &m.s.IKE || len(m.s.Children) == 0 {
		return false
	}
	m.s.Pending = &PendingAnswer{On: k.LocalSPI(), MessageID: id, IKE: true}
	m.job(jobHandOver)
	return true
}

// handedOver answers the delete.
func (m *Machine) handedOver() {
	p := m.s.Pending
	if p == nil || !p.IKE {
		return
	}
	m.s.Pending = nil
	if k := m.ikeBySPI(p.On); k != nil {
		m.respond(k, wire.ExchangeInformational, p.MessageID)
	}
	m.followClosed()
	m.fail("deleted by the peer")
}
