package sa

import (
	"bytes"
	"encoding/binary"

	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// createRequest handles the peer's CREATE_CHILD_SA request (RFC 7296 1.3).
func (m *Machine) createRequest(k *IKE, id uint32, ps []wire.Payload) {
	c := &Create{On: k.LocalSPI(), MessageID: id}
	m.s.Peer = c
	refuse := func(t wire.NotifyType) { m.refuseCreate(c, &wire.Notify{NotifyType: t}) }
	sa, ok1 := wire.First[*wire.SA](ps)
	nonce, ok2 := wire.First[*wire.Nonce](ps)
	switch {
	case !ok1 || !ok2 || len(sa.Proposals) == 0:
		refuse(wire.NotifyInvalidSyntax)
		return
	case m.s.Phase != Established || k.Role == IKEReplaced || k != &m.s.IKE && k.Role != IKENext:
		if k.Role == IKECurrent {
			m.collided(createdBy(sa, ps), nil)
		}
		refuse(wire.NotifyTemporaryFailure) // RFC 7296 2.25.2
		return
	}
	if k.Role == IKENext {
		m.promote(k) // a request on it shows that the peer has moved
		k = &m.s.IKE
	}
	c.Ni, c.Nr = bytes.Clone(nonce.Data), m.nonce()
	ke, _ := wire.First[*wire.KE](ps)
	if sa.Proposals[0].Protocol == wire.ProtoIKE {
		m.peerRekeysIKE(c, k, sa, ke)
		return
	}
	m.peerCreatesChild(c, k, sa, ke, ps)
}

// refuseCreate answers the peer's request with an error.
func (m *Machine) refuseCreate(c *Create, n *wire.Notify) {
	m.respond(m.ikeBySPI(c.On), wire.ExchangeCreateChildSA, c.MessageID, n)
	m.dropExchange(&m.s.Peer) // a delete of ours may wait for this: the peer has our answer first
	m.sweep()
	m.nextTask()
}

// peerKE checks the KE payload against the chosen proposal.
func (m *Machine) peerKE(c *Create, ke *wire.KE) bool {
	want := c.Chosen.KE()
	if want == wire.KENone {
		return true
	}
	if ke == nil || ke.Method != want {
		m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.InvalidKEPayload,
			Facts: []event.Fact{{Name: "peer_sent", Value: keName(ke)}, {Name: "ours", Value: keText(want)}}})
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyInvalidKEPayload, Data: binary.BigEndian.AppendUint16(nil, uint16(want))})
		return false
	}
	c.KE, c.PeerPublic = want, bytes.Clone(ke.Data)
	return true
}

// peerCreatesChild: a further CHILD SA, or the rekeying of one.
func (m *Machine) peerCreatesChild(c *Create, k *IKE, sa *wire.SA, ke *wire.KE, ps []wire.Payload) {
	old, ok := m.peerRekeys(c, ps)
	if !ok {
		return
	}
	if old == nil {
		m.collided(event.CreateChild, nil)
	}
	if own := m.s.Own; own != nil && own.Kind == RekeyIKESA {
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyTemporaryFailure})
		return
	}
	cfg, local, remote, refusal := m.peerChild(old, ps)
	if cfg == nil {
		m.refuseCreate(c, &wire.Notify{NotifyType: refusal})
		return
	}
	c.Child = cfg.Name
	proposals := cfg.Proposals
	choice, mismatch := suite.Select(proposals, sa.Proposals, suite.SelectOptions{PreferPeer: m.env.Settings.PreferPeerProposal})
	if mismatch != nil && ke == nil {
		// A peer without PFS: what the first CHILD SA was allowed (RFC 7296 1.2).
		if old != nil && old.Chosen.KE() == wire.KENone {
			choice, mismatch = suite.Select(suite.WithoutKE(proposals), sa.Proposals, suite.SelectOptions{SkipKE: true})
		}
	}
	if mismatch != nil || !validSPI(choice.SPI) {
		if mismatch != nil {
			m.failed(event.NoProposalChosen, false, cfg.Name, "give both sides one ESP proposal in common",
				event.Fact{Name: "ours", Value: mismatch.OursText()}, event.Fact{Name: "peer", Value: mismatch.PeerText()}, event.Fact{Name: "part_on", Value: mismatch.PartText()})
		}
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyNoProposalChosen})
		return
	}
	c.Chosen = choice
	if !m.peerKE(c, ke) {
		return
	}
	c.Candidate = m.candidate(cfg, m.childPlace(k), choice, local, remote, false)
	c.Candidate.inherit(cfg, old)
	t := m.terms(ps)
	if refusal := m.bindPeer(c, cfg, t); refusal != 0 {
		m.refuseCreate(c, &wire.Notify{NotifyType: refusal})
		return
	}
	m.settleTerms(c.Candidate, cfg, t)
	c.Candidate.InboundOnly = old != nil
	if c.KE != wire.KENone {
		m.jobOf(jobEncapsulate, OfPeer)
		return
	}
	m.jobOf(jobReserve, OfPeer)
}

// peerRekeys finds the child that the peer's request is to replace; nil: none, it
// wants a further one. Not ok: the request was refused.
func (m *Machine) peerRekeys(c *Create, ps []wire.Payload) (old *Child, ok bool) {
	n, ok := wire.FindNotify(ps, wire.NotifyRekeySA)
	if !ok {
		return nil, true
	}
	c.Kind = RekeyChildSA
	if old = m.childByPeerSPI(n.SPI); old == nil {
		if own := m.s.Own; own != nil && own.Kind != RekeyIKESA {
			// It may be the one that our exchange is making: the peer has it before us,
			// and would take it out if we said that there is none.
			m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyTemporaryFailure})
			return nil, false
		}
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyChildSANotFound, Protocol: n.Protocol, SPI: bytes.Clone(n.SPI)})
		return nil, false
	}
	m.collided(event.RekeyChild, old)
	// What we are closing is not rekeyed, nor what the peer has rekeyed before, nor what
	// has just taken over from a child that we are closing.
	if old.Status != ChildInstalled || old.PeerNew != 0 || m.settling(old) {
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyTemporaryFailure})
		return nil, false
	}
	c.Old = old.UniqueID
	return old, true
}

func (m *Machine) childByPeerSPI(spi []byte) *Child {
	if len(spi) != 4 {
		return nil
	}
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.SPIOut == binary.BigEndian.Uint32(spi) && c.Status != ChildFading {
			return c
		}
	}
	return nil
}

// answerChild tells the peer of the CHILD SA that its request made.
func (m *Machine) answerChild(c *Create, h *Child) {
	k := m.ikeBySPI(c.On)
	var ps []wire.Payload
	ps = appendAnswerResource(appendTerms(ps, h.Mode, h.CPIIn), h)
	ps = append(ps, h.Chosen.Answer(binary.BigEndian.AppendUint32(nil, h.SPIIn)), &wire.Nonce{Data: c.Nr})
	if c.KE != wire.KENone {
		ps = append(ps, &wire.KE{Method: c.KE, Data: c.Public})
	}
	ps = append(ps, wireTS(true, h.PeerTS), wireTS(false, h.LocalTS))
	m.tell(k, h)
	m.respond(k, wire.ExchangeCreateChildSA, c.MessageID, ps...)
	m.dropExchange(&m.s.Peer) // a delete of ours may wait for this: the peer has our answer first
	m.nextTask()
}

// peerRekeysIKE answers the rekeying of the IKE SA (RFC 7296 1.3.2, 2.18).
func (m *Machine) peerRekeysIKE(c *Create, k *IKE, sa *wire.SA, ke *wire.KE) {
	c.Kind = RekeyIKESA
	m.collided(event.RekeyIKE, nil)
	own := m.s.Own
	// RFC 7296 2.25.2: not while something of ours is under way on it, but for
	// the same rekeying from our side.
	if m.next() != nil || k.Request != nil && (own == nil || own.Kind != RekeyIKESA) || own != nil && own.Kind != RekeyIKESA {
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyTemporaryFailure})
		return
	}
	choice, mismatch := suite.Select(m.conn.Proposals, sa.Proposals, suite.SelectOptions{PreferPeer: m.env.Settings.PreferPeerProposal})
	if mismatch != nil || len(choice.SPI) != 8 || binary.BigEndian.Uint64(choice.SPI) == 0 {
		if mismatch != nil {
			m.failed(event.NoProposalChosen, false, "", "give both sides one IKE proposal in common",
				event.Fact{Name: "ours", Value: mismatch.OursText()}, event.Fact{Name: "peer", Value: mismatch.PeerText()}, event.Fact{Name: "part_on", Value: mismatch.PartText()})
		}
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyNoProposalChosen})
		return
	}
	c.Chosen = choice
	c.PeerNewSPI = wire.SPI(binary.BigEndian.Uint64(choice.SPI))
	if !m.peerKE(c, ke) {
		return
	}
	c.NewSPI = NewSPI(BucketOf(c.On), nodeOf(c.On), m.env.Rand)
	m.jobOf(jobEncapsulate, OfPeer)
}

// answerIKERekey makes the new IKE SA and tells the peer. It becomes the
// current one when the peer deletes the old one or speaks on the new one.
func (m *Machine) answerIKERekey(c *Create) {
	k := m.ikeBySPI(c.On)
	n := m.newIKE(c, k, false)
	if n == nil {
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyNoProposalChosen})
		return
	}
	n.Role, n.RekeyAt = IKENext, m.env.Now.Add(replacedTime)
	if k.Role == IKEReplaced {
		n.Role = IKEReplaced // ours has won meanwhile; the peer deletes this one
	}
	m.s.Others = append(m.s.Others, n)
	m.act(Own{n.LocalSPI()})
	ps := []wire.Payload{c.Chosen.Answer(binary.BigEndian.AppendUint64(nil, uint64(c.NewSPI))), &wire.Nonce{Data: c.Nr}, &wire.KE{Method: c.KE, Data: c.Public}}
	ps = m.appendToken(ps, n)
	id := c.MessageID
	m.dropExchange(&m.s.Peer)
	m.respond(k, wire.ExchangeCreateChildSA, id, ps...)
}
