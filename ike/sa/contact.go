package sa

import (
	"net/netip"
	"time"

	"espalier/ike/auth"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// Uniqueness is what becomes of several IKE SAs between the same two authenticated
// identities.
type Uniqueness uint8

// The policies.
const (
	// UniquenessNo: they stand beside each other, unless the peer says by
	// INITIAL_CONTACT that it knows only the new one (RFC 7296 2.4).
	UniquenessNo Uniqueness = iota
	// UniquenessNever: INITIAL_CONTACT is neither sent nor heeded. Only of two that
	// both sides of one peer begin at once one ends.
	UniquenessNever
	UniquenessKeep    // a further one is refused, see Refuses
	UniquenessReplace // the new one replaces the others
)

const (
	jobContact JobKind = 21 // initiator, before IKE_AUTH: is there another IKE SA with the peer?
	jobUnique  JobKind = 22 // after the peer's authentication: may there be one more?
)

// Contact is an IKE SA as far as its uniqueness goes.
type Contact struct {
	ID            uint64 // of the session
	Local, Remote auth.ID
	Peer          netip.AddrPort // where the peer is
	Initiator     bool           // we began the first one
	SPIi          wire.SPI
	Created       time.Time // when its set-up began
	Since         time.Time // established at; zero: not yet
	// Replacement: it takes the place of another one, which goes when it can
	// (reauthentication): nothing else is to be decided.
	Replacement bool
}

// Fate is what an IKE SA that is now established means for one and another.
type Fate uint8

// The fates.
const (
	BothStay   Fate = iota
	OtherDies       // the peer does not have the other one any more
	OtherEnds       // the other one is deleted
	NewOneEnds      // the new one is deleted
)

// MayEnd reports whether the new IKE SA can be the end of another one, or another
// one its.
func (d Displace) MayEnd() bool { return !d.Replacement }

// EndsAll reports whether every other IKE SA is concerned. Else it is only those
// that cross the new one.
func (d Displace) EndsAll() bool {
	return d.MayEnd() && d.Policy != UniquenessNever && (d.Initial || d.Policy == UniquenessReplace)
}

// Against decides what the new IKE SA means for another one, established, that
// has the same identities. Two that cross are decided alike by both sides: the
// lower SPI of the initiator stays.
func (d Displace) Against(o Contact) Fate {
	switch {
	case !d.MayEnd() || o.ID == d.ID:
		return BothStay
	case d.Policy == UniquenessNever && (!d.Crosses(o) || d.Peer.Addr() != o.Peer.Addr()):
		return BothStay // several peers may share an identity
	case d.Crosses(o):
		if d.SPIi < o.SPIi {
			return OtherEnds
		}
		return NewOneEnds
	case d.Initial:
		return OtherDies
	case d.Policy == UniquenessReplace:
		return OtherEnds
	}
	return BothStay
}

// Crosses reports whether a new IKE SA and another one, established, were begun
// by either side before the other was up.
func (c Contact) Crosses(o Contact) bool {
	return o.Initiator != c.Initiator && !c.Replacement && !o.Replacement && !c.Created.After(o.Since)
}

// Refuses reports whether another IKE SA, established, with the same identities
// keeps a new one from being, when unique = keep. One that the peer begins from the
// same address and port may be its reauthentication, make-before-break, and cannot
// be told from it; strongSwan has the same rule.
func (o Contact) Refuses(c Contact) bool {
	again := c.Again() && c.Peer == o.Peer
	return o.ID != c.ID && !c.Replacement && !again && !c.Crosses(o) // of those that cross one ends later
}

// Again reports whether the new IKE SA may be the reauthentication of others from
// its address and port.
func (c Contact) Again() bool { return !c.Initiator && c.Peer.IsValid() }

// contact is this IKE SA's.
func (m *Machine) contact() Contact {
	k := &m.s.IKE
	return Contact{ID: m.s.ID, Local: k.LocalID, Remote: k.RemoteID, Peer: k.Remote, Initiator: m.s.Began, SPIi: k.SPIi, Created: m.s.Created, Since: m.s.Since,
		Replacement: m.Replaces() != 0}
}

// askContact asks whether we have another IKE SA with the peer that we expect,
// and reports whether it did. Without a certain peer there is no first contact.
func (m *Machine) askContact() bool {
	if m.conn.Unique == UniquenessNever || !isConcrete(m.conn.Remote[0].ID) {
		return false
	}
	m.job(jobContact)
	return true
}

// expected is the contact that our IKE_AUTH is going to make.
func (m *Machine) expected() Contact {
	c := m.contact()
	c.Remote = m.conn.Remote[0].ID
	return c
}

// contacted continues with whether there is another IKE SA with the peer.
func (m *Machine) contacted(other bool) {
	m.s.Setup.FirstContact = !other
	m.sendAuth()
}

// appendInitialContact says that we have no other IKE SA with the peer.
func (m *Machine) appendInitialContact(ps []wire.Payload) []wire.Payload {
	if m.s.Setup.FirstContact {
		ps = append(ps, &wire.Notify{NotifyType: wire.NotifyInitialContact})
	}
	return ps
}

// admitted continues with whether there may be one more IKE SA with the peer,
// which is authenticated by now.
func (m *Machine) admitted(ok bool) {
	if ok {
		m.unique()
		return
	}
	m.failed(event.NotUnique, false, "", "end the IKE SA that stands, or set unique to replace or no",
		event.Fact{Name: "peer_id", Value: m.s.IKE.RemoteID.String()})
	if m.s.IKE.Initiator {
		// The peer has an SA by now: it is told once we are done.
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteIKE})
		m.s.EndReason = notUnique
		m.unique()
		return
	}
	m.respond(&m.s.IKE, wire.ExchangeIKEAuth, m.s.Setup.AuthID, &wire.Notify{NotifyType: wire.NotifyAuthenticationFailed})
	m.fail(notUnique)
}

const notUnique = "unique = keep, and there is an IKE SA with the peer"

// displace has the others between our identities decided upon, now that this one
// is established.
func (m *Machine) displace() {
	initial := false
	if !m.s.IKE.Initiator {
		_, initial = wire.FindNotify(m.kept(), wire.NotifyInitialContact)
	}
	m.act(Displace{Contact: m.contact(), Policy: m.conn.Unique, Initial: initial})
}

// displaced ends the session in favour of another one.
func (m *Machine) displaced(e Displaced) {
	switch {
	case m.s.Phase >= Closing:
	case e.Dead:
		m.fail("the peer has started anew")
	default:
		if m.s.EndReason == "" {
			m.s.EndReason = "replaced by another IKE SA with the peer"
		}
		m.terminate(Terminate{})
	}
}
