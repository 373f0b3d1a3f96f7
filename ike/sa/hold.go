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

// notDeleted has the child that the peer made in the place of old carry what we send,
// though old is still there, and stays. Not while we rekey old, too: settleRekey, or
// the peer's delete, then says which of the new ones stays.
func (m *Machine) notDeleted(old *Child) {
	n := m.child(old.PeerNew)
	if n == nil || !n.InboundOnly || n.Status != ChildInstalled || old.OwnNew != 0 {
		return
	}
	if m.s.Own != nil && m.s.Own.Old == old.UniqueID {
		old.RekeyAt = m.env.Now.Add(rekeyHoldTime) // ours may fail yet
		return
	}
	n.InboundOnly, n.OutboundDue = false, true
	m.sweep()
}

// unproven reports whether the peer, whose request made a child in the place of
// another, has not deleted that one yet: our answer may not have arrived.
func (m *Machine) unproven(c *Child) bool {
	return c.InboundOnly || slices.ContainsFunc(m.s.Children, func(o Child) bool { return o.PeerNew == c.UniqueID })
}

// awaitsPeer reports whether the peer may not know of a child yet.
func (m *Machine) awaitsPeer(c *Child) bool { return m.unproven(c) || m.isNews(c) }

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
		if c := &m.s.Children[i]; !c.TakeOverAt.IsZero() && c.Status <= ChildInstalled {
			return true
		}
	}
	return m.s.Peer != nil && m.s.Peer.Candidate != nil && !m.s.Peer.Candidate.TakeOverAt.IsZero()
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
			c.InboundOnly, c.OutboundDue, m.persist = false, true, true
		}
	}
	m.sweep()
}

// takeOver installs all outbound SAs that are held back, now or as soon as the
// child stands.
func (m *Machine) takeOver() {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.InboundOnly && !c.TakeOverAt.IsZero() {
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
