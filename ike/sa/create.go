package sa

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// A CREATE_CHILD_SA exchange (RFC 7296 1.3) walks, on the side that began it
// and on the other:
//
//	ours:   [generate] → [reserve] → request … response → [decapsulate] → ask → install → done
//	peer's: request → [encapsulate] → reserve → ask → install → response
//
// The rekeying of an IKE SA has no reserve, ask and install.

// exchange is the exchange of a side; nil for OfSession.
func (m *Machine) exchange(s Side) *Create {
	switch s {
	case OfOwn:
		return m.s.Own
	case OfPeer:
		return m.s.Peer
	}
	return nil
}

func (m *Machine) sideOf(c *Create) Side {
	if c == m.s.Own {
		return OfOwn
	}
	return OfPeer
}

// dropExchange forgets an exchange; what it reserved or installed becomes an
// orphan or is removed with the children.
func (m *Machine) dropExchange(p **Create) {
	c := *p
	if c == nil {
		return
	}
	side := m.sideOf(c)
	installing := false
	m.s.Jobs = slices.DeleteFunc(m.s.Jobs, func(j JobRef) bool { return j.Of == side && j.Kind != jobReserve && j.Kind != jobInstall })
	for i := range m.s.Jobs {
		if j := &m.s.Jobs[i]; j.Of == side {
			j.Of = OfSession // its answer still says what has to be taken out
			installing = installing || j.Kind == jobInstall
		}
	}
	m.orphan(SPIs{c.SPI, c.CPI}, dataplane.SPIRequest{Dst: m.reserveDst(c), Mark: m.reserveMark(c.Child)})
	if h := c.Candidate; h != nil {
		if installing {
			h.Status, h.EndReason = ChildInstalling, "not completed"
			m.s.Children = append(m.s.Children, *h)
		} else {
			m.orphan(SPIs{h.SPIIn, h.CPIIn}, dataplane.SPIRequest{Dst: h.Local, Mark: h.keyIn().Mark})
			h.Keys.Wipe() // else the job still needs them
		}
	}
	c.Private.Wipe()
	c.Shared.Wipe()
	*p = nil
	m.persist = true
	if old := m.child(c.Old); side == OfPeer && old != nil && old.OwnNew != 0 {
		m.settleRekey(old) // ours is done and has waited for this
	}
}

// beginCreate starts our exchange; its task said what for.
func (m *Machine) beginCreate(c *Create) {
	k := &m.s.IKE
	c.On = k.LocalSPI()
	c.Ni = m.nonce()
	m.s.Own = c
	m.persist = true
	switch {
	case c.Kind == RekeyIKESA:
		c.NewSPI = NewSPI(BucketOf(c.On), nodeOf(c.On), m.env.Rand)
		c.KE = k.Chosen.KE()
	default:
		c.KE = suite.FirstKE(m.conn.Child(c.Child).Proposals)
	}
	if c.KE != wire.KENone {
		m.jobOf(jobGenerate, OfOwn)
		return
	}
	m.jobOf(jobReserve, OfOwn)
}

func (m *Machine) nonce() []byte {
	n := make([]byte, nonceLen)
	if _, err := io.ReadFull(m.env.Rand, n); err != nil {
		m.fail("no randomness")
	}
	return n
}

// createSpec describes a job of an exchange.
func (m *Machine) createSpec(kind JobKind, c *Create) Spec {
	switch kind {
	case jobGenerate:
		return GenerateKE{c.KE}
	case jobEncapsulate:
		return EncapsulateKE{c.KE, c.PeerPublic}
	case jobDecapsulate:
		return DecapsulateKE{c.KE, c.Private, c.PeerPublic}
	case jobReserve:
		cfg := m.conn.Child(c.Child)
		return ReserveSPI{m.reserveFor(cfg, m.reservePlace(c)), m.wishCPI(cfg, c.Candidate)}
	case jobAsk:
		ask := m.askChild(c.Candidate, m.ikeBySPI(c.On))
		if old := m.child(c.Old); old != nil {
			ask.Keep = old.ReqID
		}
		return ask
	case jobInstall:
		return Kernel{m.installOps(c.Candidate)}
	}
	panic("sa: unknown job kind of an exchange") // unreachable: Decode refuses others
}

// createJob continues an exchange with a job's result.
func (m *Machine) createJob(kind JobKind, side Side, e JobDone) {
	c := m.exchange(side)
	if e.Err != nil {
		m.createJobFailed(kind, c, e.Err)
		return
	}
	switch kind {
	case jobGenerate:
		p := e.Result.(KEPair)
		c.Public, c.Private = p.Public, p.Private
		if c.Kind != RekeyIKESA && c.SPI == 0 {
			m.jobOf(jobReserve, side)
			return
		}
		m.sendCreate(c)
	case jobEncapsulate:
		a := e.Result.(KEAnswer)
		c.Public, c.Shared = a.Public, a.Shared
		if c.Kind == RekeyIKESA {
			m.answerIKERekey(c)
			return
		}
		m.jobOf(jobReserve, side)
	case jobDecapsulate:
		c.Shared = e.Result.(secret.Bytes)
		c.Private.Wipe()
		if c.Kind == RekeyIKESA {
			m.ownIKERekeyed(c)
			return
		}
		m.jobOf(jobAsk, side)
	case jobReserve:
		got := e.Result.(SPIs)
		if side == OfOwn {
			c.SPI, c.CPI = got.SPI, got.CPI
			m.sendCreate(c)
			return
		}
		c.Candidate.SPIIn = got.SPI
		m.takeCPI(c.Candidate, got.CPI)
		m.jobOf(jobAsk, side)
	case jobAsk:
		m.createNumbered(c, side, e.Result.(ChildIDs))
	case jobInstall:
		m.createInstalled(c, side)
	}
}

// createNumbered continues with the ids of the new child: its keys are derived
// and it is installed.
func (m *Machine) createNumbered(c *Create, side Side, ids ChildIDs) {
	m.identify(c.Candidate, ids)
	if side == OfPeer && c.Old == 0 {
		m.holdBack(c.Candidate, ids)
	}
	k := m.ikeBySPI(c.On)
	keys, err := suite.DeriveChild(k.Chosen.PRF(), k.Keys.D, c.Candidate.Chosen, c.Shared, c.Ni, c.Nr)
	c.Shared.Wipe()
	if err != nil {
		m.createJobFailed(jobAsk, c, err)
		return
	}
	c.Candidate.Keys = keys
	if side == OfOwn && m.loses(c) {
		c.Candidate.InboundOnly = true // nothing is sent on what goes at once
	}
	m.jobOf(jobInstall, side)
}

// createJobFailed ends an exchange for a reason of our own.
func (m *Machine) createJobFailed(kind JobKind, c *Create, err error) {
	m.failed(event.KernelRefused, false, c.Child, "", event.Fact{Name: "step", Value: kernelStep(kind)}, event.Fact{Name: "detail", Value: err.Error()})
	if c == m.s.Peer {
		m.refuseCreate(c, &wire.Notify{NotifyType: wire.NotifyNoProposalChosen})
		return
	}
	m.endOwn(true)
}

// endOwn ends our exchange without success; the old SA is rekeyed again a
// little later when retry is set.
func (m *Machine) endOwn(retry bool) {
	c := m.s.Own
	if cand := c.Candidate; cand != nil && cand.SPIIn != 0 {
		// The peer has installed what we can't use.
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteSPI, Child: uint64(cand.SPIIn)})
	}
	if retry {
		at := m.env.Now.Add(m.retryPause())
		if old := m.child(c.Old); old != nil && old.Status == ChildInstalled && old.PeerNew == 0 {
			old.RekeyAt = at
		}
		if c.Kind == RekeyIKESA {
			m.s.IKE.RekeyAt = at
		}
	}
	m.dropExchange(&m.s.Own)
	m.sweep()
	m.nextTask()
}

// retryLeast is the shortest pause before a retry.
const retryLeast = 2 * time.Second

// retryPause is random so that two sides that refuse each other part.
func (m *Machine) retryPause() time.Duration {
	var b [1]byte
	_, _ = io.ReadFull(m.env.Rand, b[:])
	return retryLeast + time.Duration(b[0])*20*time.Millisecond
}

// sendCreate sends the CREATE_CHILD_SA request.
func (m *Machine) sendCreate(c *Create) {
	k := m.ikeBySPI(c.On)
	var ps []wire.Payload
	if c.Kind == RekeyIKESA {
		spi := binary.BigEndian.AppendUint64(nil, uint64(c.NewSPI))
		ps = append(ps, suite.Offer(m.conn.Proposals, spi, c.KE), &wire.Nonce{Data: c.Ni}, &wire.KE{Method: c.KE, Data: c.Public})
		m.request(k, wire.ExchangeCreateChildSA, ps...)
		return
	}
	cfg := m.conn.Child(c.Child)
	local, remote := m.resolve(cfg)
	local, remote = m.packetFirst(cfg.Name, local, remote)
	if c.Single {
		local, remote = firstPair(local, remote)
	}
	if f := m.child(c.Fallback); f != nil {
		local, remote = f.LocalTS, f.PeerTS
	}
	if old := m.child(c.Old); old != nil {
		local, remote = old.LocalTS, old.PeerTS
		ps = append(ps, &wire.Notify{Protocol: wire.ProtoESP, SPI: binary.BigEndian.AppendUint32(nil, old.SPIIn), NotifyType: wire.NotifyRekeySA})
	}
	ps = m.appendOfferResource(appendTerms(ps, m.wish(cfg), c.CPI), c, cfg)
	spi := binary.BigEndian.AppendUint32(nil, c.SPI)
	proposals := cfg.Proposals
	if c.KE == wire.KENone {
		proposals = suite.WithoutKE(proposals)
	}
	ps = append(ps, suite.Offer(proposals, spi, c.KE), &wire.Nonce{Data: c.Ni})
	if c.KE != wire.KENone {
		ps = append(ps, &wire.KE{Method: c.KE, Data: c.Public})
	}
	ps = append(ps, wireTS(true, local), wireTS(false, remote))
	m.request(k, wire.ExchangeCreateChildSA, ps...)
}

// createResponse handles the answer to our CREATE_CHILD_SA request.
func (m *Machine) createResponse(k *IKE, ps []wire.Payload) {
	c := m.s.Own
	k.Request = nil
	m.persist = true
	if c == nil || c.On != k.LocalSPI() {
		m.nextTask()
		return
	}
	if m.fatalAnswer(wire.ExchangeCreateChildSA, ps) {
		return
	}
	if n, ok := wire.FindError(ps); ok {
		m.createRefused(c, n)
		return
	}
	sa, ok1 := wire.First[*wire.SA](ps)
	nonce, ok2 := wire.First[*wire.Nonce](ps)
	ke, hasKE := wire.First[*wire.KE](ps)
	if !ok1 || !ok2 || c.KE != wire.KENone && (!hasKE || ke.Method != c.KE) {
		m.failed(event.InvalidSyntax, false, c.Child, "", event.Fact{Name: "detail", Value: "CREATE_CHILD_SA response without SA, Nonce or KE"})
		m.endOwn(true)
		return
	}
	c.Nr = bytes.Clone(nonce.Data)
	c.PeerToken = tokenDigest(ps)
	if hasKE {
		c.PeerPublic = bytes.Clone(ke.Data)
	}
	if !m.acceptCreate(c, k, sa, ps) {
		m.endOwn(true)
		return
	}
	if c.KE != wire.KENone {
		m.jobOf(jobDecapsulate, OfOwn)
		return
	}
	m.jobOf(jobAsk, OfOwn)
}

// acceptCreate checks what the peer chose.
func (m *Machine) acceptCreate(c *Create, k *IKE, sa *wire.SA, ps []wire.Payload) bool {
	cfg := m.conn.Child(c.Child)
	ours := m.conn.Proposals
	if c.Kind != RekeyIKESA {
		ours = cfg.Proposals
		if c.KE == wire.KENone {
			ours = suite.WithoutKE(ours)
		}
	}
	choice, err := suite.Accept(ours, sa.Proposals)
	good := err == nil && choice.KE() == c.KE
	if c.Kind == RekeyIKESA {
		good = good && len(choice.SPI) == 8 && binary.BigEndian.Uint64(choice.SPI) != 0
	} else {
		good = good && validSPI(choice.SPI)
	}
	if !good {
		m.failed(event.NoProposalChosen, false, c.Child, "the peer answered with something we did not offer",
			event.Fact{Name: "ours", Value: suite.Join(ours)}, event.Fact{Name: "peer", Value: suite.JoinWire(sa.Proposals)}, event.Fact{Name: "detail", Value: errText(err, "SPI or key exchange method")})
		return false
	}
	c.Chosen = choice
	if c.Kind == RekeyIKESA {
		c.PeerNewSPI = wire.SPI(binary.BigEndian.Uint64(choice.SPI))
		return true
	}
	local, remote, ok := m.acceptTS(c, cfg, ps)
	if !ok {
		return false
	}
	c.Candidate = m.candidate(cfg, m.createAt(c), choice, local, remote, true)
	c.Candidate.inherit(cfg, m.child(c.Old))
	c.Candidate.SPIIn, c.SPI = c.SPI, 0
	if c.Fallback != 0 && !m.bindOwn(c, cfg) {
		return false
	}
	if !m.settleTerms(c.Candidate, cfg, m.terms(ps)) {
		return false
	}
	m.takeCPI(c.Candidate, c.CPI)
	c.CPI = 0
	return true
}

// createRefused handles an error notify in answer to our request (RFC 7296 2.25).
func (m *Machine) createRefused(c *Create, n *wire.Notify) {
	switch n.NotifyType {
	case wire.NotifyTemporaryFailure:
		if c.Kind == CreateChild {
			m.later(c.task(), m.retryPause())
		}
		m.endOwn(true)
	case wire.NotifyTSMaxQueue, wire.NotifyNoAdditionalSAs:
		if c.Fallback != 0 {
			m.maxQueue(c)
			m.endOwn(false)
			return
		}
		m.noAdditionalSAs(c, n)
	case wire.NotifySinglePairRequired:
		if c.Kind != CreateChild || c.Single || c.Fallback != 0 {
			m.createRefusal(c, n)
			return
		}
		m.retrySinglePair(c.Child)
		m.endOwn(false)
	case wire.NotifyChildSANotFound:
		// The peer has deleted it and its delete is on its way, or got lost with
		// the peer's memory: ours is of no use.
		if old := m.child(c.Old); old != nil && old.Status == ChildInstalled {
			old.Status, old.EndReason = ChildRemoving, "the peer no longer has it"
			if !old.bound() && !m.hasOther(old) {
				m.s.Tasks = append(m.s.Tasks, Task{Kind: taskCreateChild, Name: old.Name})
			}
		}
		m.endOwn(false)
	case wire.NotifyInvalidKEPayload:
		want := wire.KENone
		if len(n.Data) == 2 {
			want = wire.KEMethod(binary.BigEndian.Uint16(n.Data))
		}
		ours := m.conn.Proposals
		if cfg := m.conn.Child(c.Child); cfg != nil && c.Kind != RekeyIKESA {
			ours = cfg.Proposals
		}
		if c.FixedKE || want == wire.KENone || !suite.OffersKE(ours, want) {
			m.failed(event.InvalidKEPayload, true, c.Child, "configure a key exchange method that both sides accept",
				event.Fact{Name: "sent", Value: keText(c.KE)}, event.Fact{Name: "peer_wants", Value: keText(want)})
			m.endOwn(true)
			return
		}
		c.FixedKE, c.KE = true, want
		c.Private.Wipe()
		m.jobOf(jobGenerate, OfOwn)
	default:
		m.createRefusal(c, n)
	}
}

// hasOther reports whether another CHILD SA does what c does.
func (m *Machine) hasOther(c *Child) bool {
	for i := range m.s.Children {
		o := &m.s.Children[i]
		if o.UniqueID != c.UniqueID && o.Status == ChildInstalled && sameIdentity(o, c) {
			return true
		}
	}
	return false
}

// createInstalled: the candidate is in the kernel.
func (m *Machine) createInstalled(c *Create, side Side) {
	cand := c.Candidate
	cand.Status, cand.InstalledAt = ChildInstalled, m.env.Now
	defer m.moveChildren() // the session may have moved meanwhile
	if !cand.InboundOnly {
		cand.Keys.Wipe()
	}
	m.scheduleChild(cand)
	m.s.Children = append(m.s.Children, *cand)
	c.Candidate = nil
	old := m.child(c.Old)
	m.childUp(cand, m.replacedInfo(old, side))
	m.network()
	if old != nil {
		m.env.Traffic.ChildRekey++
	}
	if c.Old == 0 {
		m.sayFallback(cand)
	}
	low := lower(c.Ni, c.Nr)
	if side == OfPeer {
		if old != nil {
			old.PeerNew, old.PeerNonce, old.RekeyAt = cand.UniqueID, low, m.env.Now.Add(rekeyHoldTime)
		}
		if h := m.child(cand.UniqueID); h.InboundOnly && c.Old != 0 && (old == nil || old.Status == ChildRemoving || old.Status == ChildFading) {
			h.InboundOnly, h.OutboundDue = false, true // the old one went meanwhile: no delete of it comes any more
			m.sweep()
		}
		m.dropTwin(m.child(cand.UniqueID))
		m.answerChild(c, m.child(cand.UniqueID))
		return
	}
	lost := c.Lost
	if f := m.fallback(c.Fallback); f != nil {
		f.RearmAt = time.Time{} // it has come of it
	}
	m.dropExchange(&m.s.Own)
	switch {
	case lost:
		m.deleteRekeyed(cand.UniqueID)
	case old != nil:
		old.OwnNew, old.OwnNonce, old.RekeyAt = cand.UniqueID, low, time.Time{}
		if p := m.s.Peer; p == nil || p.Old != old.UniqueID { // else when the peer's is done
			m.settleRekey(old)
		}
	}
	if h := m.child(cand.UniqueID); slices.Contains(c.Deleted, h.SPIOut) {
		h.Status, h.EndReason = ChildRemoving, "deleted by the peer"
		m.sweep()
	}
	m.dropTwin(m.child(cand.UniqueID))
	m.nextTask()
}

// settleRekey decides, when our exchange is done, what is deleted by us: the old
// child, or, when a collision made two new ones and ours came of the lowest
// nonce, our own new one (RFC 7296 2.8.1).
func (m *Machine) settleRekey(old *Child) {
	gone := old.UniqueID
	if old.PeerNew != 0 && bytes.Compare(old.OwnNonce, old.PeerNonce) < 0 {
		gone = old.OwnNew
	} else if n := m.child(old.OwnNew); n != nil && n.Status == ChildInstalled && n.InboundOnly {
		n.InboundOnly, n.OutboundDue = false, true // it had been held back for the peer's, which did not come
		m.sweep()
	}
	m.deleteRekeyed(gone)
}

// loses reports whether our new child is already known to be the one that goes.
func (m *Machine) loses(c *Create) bool {
	old, low := m.child(c.Old), lower(c.Ni, c.Nr)
	switch p := m.s.Peer; {
	case c.Lost:
		return true
	case old == nil:
		return false
	case old.PeerNew != 0:
		return bytes.Compare(low, old.PeerNonce) < 0
	case p != nil && p.Old == old.UniqueID:
		return bytes.Compare(low, lower(p.Ni, p.Nr)) < 0
	}
	return false
}

func (m *Machine) deleteRekeyed(id uint64) {
	c := m.child(id)
	if c == nil || c.Status != ChildInstalled {
		return
	}
	c.Status, c.EndReason = ChildDeleting, "rekeyed"
	if n := m.child(c.OwnNew); m.outlasts(c) && (n == nil || !n.OutboundDue) {
		// The kernel sends on the new one. What it has on its way through this one leaves
		// within microseconds, before the peer has read our delete; it would be dropped here
		// if this one went now, while most peers take it for some seconds more.
		m.s.Tasks = slices.Insert(m.s.Tasks, 0, Task{Kind: taskDeleteChild, Child: c.UniqueID})
		m.persist = true
		m.nextTask()
		return
	}
	// First we stop sending on it: the peer drops what arrives after our delete.
	c.Stop = StopDue
	m.sweep()
}

// lower is the lower of two nonces.
func lower(a, b []byte) []byte {
	if bytes.Compare(a, b) < 0 {
		return a
	}
	return b
}
