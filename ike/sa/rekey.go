package sa

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"time"

	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// canRekey: installed, not replaced already, and known to the peer. A child that
// the peer's request made is not known to it before our answer arrives.
func (c *Child) canRekey() bool {
	return c.Status == ChildInstalled && c.PeerNew == 0 && c.OwnNew == 0 && !c.InboundOnly
}

// fadeTime is how long a replaced child's inbound SA outlives its delete, for
// packets that are still under way.
const fadeTime = 5 * time.Second

// stopPause is how long the outbound SA of a replaced child outlives its delete, by when
// another has taken over: a packet that the kernel has on its way through the old one
// would be lost with it. A processor that is shared may be away for that long.
const stopPause = 500 * time.Millisecond

// outlasts reports whether a child's outbound SA may stay for that pause: another of
// the same selectors, which is newer, has taken over, so that the kernel chooses that one.
// Of one that is to go in favour of an older one, it would choose this one.
func (m *Machine) outlasts(c *Child) bool {
	return c.Stop == StopNot && slices.ContainsFunc([]uint64{c.OwnNew, c.PeerNew}, func(id uint64) bool {
		n := m.child(id)
		return n != nil && n.Status == ChildInstalled && !n.InboundOnly
	})
}

// schedule is the instant of a rekeying: the time less a random part of the
// margin, so that the two sides, and many tunnels, do not do it at once.
func (m *Machine) schedule(after, margin time.Duration) time.Time {
	if after <= 0 {
		return time.Time{}
	}
	if margin > 0 {
		after -= time.Duration(m.fraction() * float64(min(margin, after)))
	}
	return m.env.Now.Add(after)
}

// fraction is a random number from 0 to below 1.
func (m *Machine) fraction() float64 {
	var b [4]byte
	_, _ = io.ReadFull(m.env.Rand, b[:])
	return float64(binary.BigEndian.Uint32(b[:])) / (1 << 32)
}

func (m *Machine) scheduleChild(c *Child) {
	if cfg := m.conn.Child(c.Name); cfg != nil {
		c.RekeyAt = m.schedule(cfg.RekeyTime, cfg.RandTime)
		m.scheduleIdle(c, cfg)
	}
}

// rekey is the wish to replace the IKE SA (0) or a child.
func (m *Machine) rekey(child uint64) {
	switch {
	case m.s.Phase != Established:
	case child == 0:
		m.s.IKE.RekeyAt = m.env.Now
	default:
		// One that the peer has not moved to yet is rekeyed a little later.
		if c := m.child(child); c != nil && c.Status == ChildInstalled && c.PeerNew == 0 && c.OwnNew == 0 {
			c.RekeyAt = m.env.Now
		}
	}
	m.rekeyDue(m.env.Now)
	m.nextTask()
}

// rekeyDue turns passed deadlines into tasks and ends what has faded.
func (m *Machine) rekeyDue(now time.Time) {
	if m.s.Phase != Established {
		return
	}
	due := func(p *time.Time) bool {
		if p.IsZero() || now.Before(*p) {
			return false
		}
		*p = time.Time{}
		m.persist = true
		return true
	}
	if due(&m.s.IKE.RekeyAt) {
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskRekeyIKE})
	}
	for _, k := range slices.Clone(m.s.Others) {
		switch {
		case k.Role == IKEReplaced && due(&k.RekeyAt):
			m.dropIKE(k)
		case k.Role == IKENext && due(&k.RekeyAt):
			// The peer made it and has not come: whether it is there, it is asked on
			// the new one, for it may have forgotten the old one.
			m.promote(k)
			m.check()
		}
	}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.Status == ChildInstalled && due(&c.RekeyAt) {
			if c.PeerNew != 0 {
				m.notDeleted(c)
				continue
			}
			if m.awaitsPeer(c) {
				c.RekeyAt = now.Add(m.retryPause())
				continue
			}
			m.s.Tasks = append(m.s.Tasks, Task{Kind: taskRekeyChild, Child: c.UniqueID})
		}
		if c.Stop == StopWait && due(&c.RekeyAt) {
			c.Stop = StopDue
		}
		if c.Status == ChildFading && due(&c.FadeAt) {
			c.Status = ChildRemoving
		}
	}
	m.sweep()
}

// next is the IKE SA that the peer made by rekeying and has not moved to yet.
func (m *Machine) next() *IKE {
	for _, k := range m.s.Others {
		if k.Role == IKENext {
			return k
		}
	}
	return nil
}

// ikeBySPI finds an IKE SA by our SPI; nil when it is gone.
func (m *Machine) ikeBySPI(spi wire.SPI) *IKE {
	for k := range m.ikes() {
		if k.LocalSPI() == spi {
			return k
		}
	}
	return nil
}

// newIKE derives the IKE SA that a rekeying makes (RFC 7296 2.18).
func (m *Machine) newIKE(c *Create, old *IKE, initiator bool) *IKE {
	n := &IKE{
		Initiator: initiator, SPIi: c.NewSPI, SPIr: c.PeerNewSPI, Local: old.Local, Remote: old.Remote, Chosen: c.Chosen,
		LocalID: old.LocalID, RemoteID: old.RemoteID, LocalAuth: old.LocalAuth, RemoteAuth: old.RemoteAuth,
		NATLocal: old.NATLocal, NATRemote: old.NATRemote, NATFake: old.NATFake, NATT: old.NATT, MinNonce: bytes.Clone(lower(c.Ni, c.Nr)), Peer: old.Peer,
	}
	if !initiator {
		n.SPIi, n.SPIr = c.PeerNewSPI, c.NewSPI
	}
	n.Chosen.SPI = nil
	seed, err := suite.RekeySKEYSEED(old.Chosen.PRF(), old.Keys.D, c.Shared, c.Ni, c.Nr)
	if err == nil {
		n.Keys, err = suite.DeriveIKE(n.Chosen, seed, c.Ni, c.Nr, n.SPIi, n.SPIr)
	}
	seed.Wipe()
	c.Shared.Wipe()
	if err == nil {
		err = n.bind()
	}
	if err != nil {
		m.failed(event.KeyExchangeFailed, false, "", "", event.Fact{Name: "detail", Value: err.Error()})
		return nil
	}
	return n
}

// ownIKERekeyed: our rekeying of the IKE SA has its keys. A collision is decided
// by the lowest of the four nonces: who made the SA from it deletes that one
// (RFC 7296 2.8.2).
func (m *Machine) ownIKERekeyed(c *Create) {
	n := m.newIKE(c, m.ikeBySPI(c.On), true)
	if n == nil {
		m.endOwn(true)
		return
	}
	if m.env.Settings.CrashDetection {
		n.PeerToken = c.PeerToken
	}
	on := c.On
	m.dropExchange(&m.s.Own)
	m.s.Others = append(m.s.Others, n)
	m.act(Own{n.LocalSPI()})
	theirs := m.next()
	var nonce []byte
	switch p := m.s.Peer; {
	case theirs != nil:
		nonce = theirs.MinNonce
	case p != nil && p.Kind == RekeyIKESA && p.On == on: // being answered
		nonce = lower(p.Ni, p.Nr)
	}
	// The peer that has deleted the old one already has seen that theirs wins.
	if on != m.s.IKE.LocalSPI() || nonce != nil && bytes.Compare(n.MinNonce, nonce) < 0 {
		n.Role = IKEReplaced
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteOther, Child: uint64(n.LocalSPI())})
		m.nextTask()
		return
	}
	if theirs != nil {
		theirs.Role = IKEReplaced // the peer deletes it
		theirs.RekeyAt = m.env.Now.Add(replacedTime)
	}
	old := m.s.IKE.LocalSPI()
	m.promote(n)
	m.tellToken()
	m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteOther, Child: uint64(old)})
	m.nextTask()
}

// replacedTime is how long an IKE SA waits for the peer to delete it, or to move
// to it: longer than a request is repeated.
const replacedTime = 3 * time.Minute

// promote makes n, one of Others, the current IKE SA; the children are its now.
func (m *Machine) promote(n *IKE) {
	old := new(IKE)
	*old = m.s.IKE
	old.Role, old.EndsAt = IKEReplaced, time.Time{}
	// The peer deletes it, or we do; should neither happen, it is forgotten.
	old.RekeyAt = m.env.Now.Add(replacedTime)
	m.s.Others = slices.DeleteFunc(m.s.Others, func(k *IKE) bool { return k == n })
	m.s.Others = append(m.s.Others, old)
	m.s.IKE = *n
	m.s.IKE.Role = IKECurrent
	m.scheduleIKE()
	m.s.IKE.MinNonce = nil
	if c := m.s.Own; c != nil && c.On == old.LocalSPI() && c.Nr == nil {
		m.dropOwn(c) // its request dies with the old SA
	}
	if r := old.Request; r != nil && r.Exchange == wire.ExchangeInformational && r.For.Kind != 0 && r.For.Kind != taskDeleteIKE {
		// The answer may not come any more, and a second time does no harm.
		m.s.Tasks = append([]Task{r.For}, m.s.Tasks...)
	}
	if m.s.Phase == Closing {
		m.inform(&m.s.IKE, Task{Kind: taskDeleteIKE}, wire.NewDelete(wire.ProtoIKE)) // what has the children now goes
	}
	m.persist = true
	if m.s.IKE.Initiator {
		m.env.Traffic.IKERekeysOurs++
	} else {
		m.env.Traffic.IKERekeysPeer++
	}
	m.publish(event.IKERekeyed{IKE: m.eventIKE(), OldSPIi: uint64(old.SPIi), OldSPIr: uint64(old.SPIr), Proposal: m.s.IKE.Chosen.String()})
}

// dropOwn forgets our exchange, with the IKE SA that it runs on, and plans what
// it was for once more.
func (m *Machine) dropOwn(c *Create) {
	if cand := c.Candidate; cand != nil && cand.SPIIn != 0 {
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteSPI, Child: uint64(cand.SPIIn)})
	}
	if c.Kind != RekeyIKESA {
		m.later(c.task(), m.retryPause())
	}
	m.dropExchange(&m.s.Own)
}

// dropIKE forgets one of Others.
func (m *Machine) dropIKE(k *IKE) {
	m.s.Others = slices.DeleteFunc(m.s.Others, func(o *IKE) bool { return o == k })
	if m.s.Peer != nil && m.s.Peer.On == k.LocalSPI() {
		m.dropExchange(&m.s.Peer) // nobody is left to be answered
		m.sweep()
	}
	if c := m.s.Own; c != nil && c.On == k.LocalSPI() && m.s.Phase == Established {
		m.dropOwn(c)
		m.sweep()
	}
	m.dropFragments(k.LocalSPI(), false)
	m.dropFragments(k.LocalSPI(), true)
	k.forgetKeys()
	m.act(Disown{k.LocalSPI()})
	m.persist = true
}

func (m *Machine) dropOthers() {
	for _, k := range slices.Clone(m.s.Others) {
		m.dropIKE(k)
	}
}

// peerDeletesIKE answers the delete of an IKE SA and reports whether the session
// goes on.
func (m *Machine) peerDeletesIKE(k *IKE, id uint32) bool {
	if k == &m.s.IKE {
		n := m.next()
		if n == nil {
			return false
		}
		spi := k.LocalSPI()
		m.promote(n)
		k = m.ikeBySPI(spi)
	}
	k.Role, k.Request = IKEReplaced, nil
	k.RekeyAt = m.env.Now.Add(lingerTime)
	m.respond(k, wire.ExchangeInformational, id)
	m.nextTask()
	return true
}

// settling reports whether a child is the outcome of a rekeying of which we have yet to
// delete what it has replaced: the old one, or the one that lost a collision with it, as
// long as the old one is known. charon 6.0 loses track when it rekeys such a one: it
// takes the old one for what stays, and the inbound SA that we send to out of its kernel.
func (m *Machine) settling(c *Child) bool {
	deleting := func(id uint64) bool {
		o := m.child(id)
		return o != nil && o.Status == ChildDeleting
	}
	return slices.ContainsFunc(m.s.Children, func(o Child) bool {
		return (o.OwnNew == c.UniqueID || o.PeerNew == c.UniqueID) && (o.Status == ChildDeleting || deleting(o.OwnNew) || deleting(o.PeerNew))
	})
}

// finishReplaced follows the peer's delete of a child that it has rekeyed: now
// it surely has the new one, and we send on it.
func (m *Machine) finishReplaced(old *Child) {
	n := m.child(old.PeerNew)
	if n == nil || !n.InboundOnly || n.Status != ChildInstalled {
		return
	}
	if old.OwnNew != 0 && bytes.Compare(old.OwnNonce, old.PeerNonce) >= 0 {
		return // ours has won, theirs goes
	}
	n.InboundOnly, n.OutboundDue = false, true
}
