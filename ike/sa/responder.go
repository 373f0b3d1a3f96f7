package sa

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// Bounds on what an IKE_SA_INIT request may cost: its octets (the largest real
// ones, with a post-quantum key, have some 2,000) and how many different lists
// of proposals it is compared with.
const (
	maxInitLen = 8192
	maxOffers  = 32
)

// initRequest handles the peer's IKE_SA_INIT request (RFC 7296 1.2). Refusals
// are sent in clear and leave nothing behind.
func (m *Machine) initRequest(msg *wire.Message, ev Received) {
	k, st := &m.s.IKE, m.s.Setup
	sa, ok1 := wire.First[*wire.SA](msg.Payloads)
	ke, ok2 := wire.First[*wire.KE](msg.Payloads)
	nonce, ok3 := wire.First[*wire.Nonce](msg.Payloads)
	switch {
	case k.Initiator || msg.Exchange != wire.ExchangeIKESAInit || msg.IsResponse() || !msg.IsInitiator() || msg.MessageID != 0 || msg.SPIi == 0 || msg.SPIr != 0:
		m.discard("not an IKE_SA_INIT request")
		m.end()
		return
	case len(ev.Data) > maxInitLen:
		m.discard("IKE_SA_INIT request longer than " + itoa(maxInitLen) + " octets")
		m.end()
		return
	case !ok1 || !ok2 || !ok3:
		m.discard("IKE_SA_INIT request without SA, KE or Nonce")
		m.refuseInit(msg, &wire.Notify{NotifyType: wire.NotifyInvalidSyntax})
		return
	}
	m.countIn(msg)
	k.SPIi = msg.SPIi
	k.Local, k.Remote = ev.Local, ev.Remote
	if !m.chooseIKE(msg, sa, ke) {
		return
	}
	k.NextIn = 1
	k.AnswerTo, k.AnswerFrom, k.AnswerAt = sha256.Sum256(ev.Data), ev.Local, ev.Remote
	st.Ni, st.PeerPublic, st.InitI = bytes.Clone(nonce.Data), bytes.Clone(ke.Data), bytes.Clone(ev.Data)
	st.Nr = make([]byte, nonceLen)
	if _, err := io.ReadFull(m.env.Rand, st.Nr); err != nil {
		m.fail("no randomness")
		return
	}
	m.detectNAT(msg, ev)
	m.peerAbilities(msg.Payloads)
	m.s.Expires = m.env.Now.Add(m.env.Settings.HalfOpenTimeout)
	m.to(Answering)
	m.job(jobEncapsulate)
}

// chooseIKE picks the connection and the proposal, or refuses. Which connection
// it really is shows in IKE_AUTH, when the identities are known.
func (m *Machine) chooseIKE(msg *wire.Message, sa *wire.SA, ke *wire.KE) bool {
	k := &m.s.IKE
	conns := m.env.Conns.Match(k.Local.Addr(), k.Remote.Addr())
	if len(conns) == 0 {
		m.failed(event.NoConnection, false, "", "add a connection whose local_addrs and remote_addrs take these addresses",
			event.Fact{Name: "peer", Value: suite.JoinWire(sa.Proposals)})
		m.refuseInit(msg, &wire.Notify{NotifyType: wire.NotifyNoProposalChosen})
		return false
	}
	opts := suite.SelectOptions{PreferPeer: m.env.Settings.PreferPeerProposal}
	var first *suite.Mismatch
	tried := map[int]bool{}
	offers := m.env.Conns.offers()
	for _, c := range conns {
		// Many connections share their proposals: each list is looked at once.
		if n := offers[c]; tried[n] || len(tried) >= maxOffers {
			continue
		} else {
			tried[n] = true
		}
		choice, mismatch := suite.Select(c.Proposals, sa.Proposals, opts)
		if mismatch != nil {
			if first == nil {
				first, m.s.Conn = mismatch, c.Name
			}
			continue
		}
		m.conn, m.s.Conn, k.Chosen = c, c.Name, choice
		m.s.Setup.KE = choice.KE()
		if choice.KE() == ke.Method {
			return true
		}
		m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.InvalidKEPayload,
			Facts: []event.Fact{{Name: "peer_sent", Value: keText(ke.Method)}, {Name: "ours", Value: keText(choice.KE())}}})
		m.refuseInit(msg, &wire.Notify{NotifyType: wire.NotifyInvalidKEPayload,
			Data: binary.BigEndian.AppendUint16(nil, uint16(choice.KE()))})
		return false
	}
	m.failed(event.NoProposalChosen, false, "", "give both sides one IKE proposal in common",
		event.Fact{Name: "ours", Value: first.OursText()}, event.Fact{Name: "peer", Value: first.PeerText()}, event.Fact{Name: "part_on", Value: first.PartText()})
	m.refuseInit(msg, &wire.Notify{NotifyType: wire.NotifyNoProposalChosen})
	return false
}

// refuseInit answers in clear and forgets the peer.
func (m *Machine) refuseInit(msg *wire.Message, n *wire.Notify) {
	k := &m.s.IKE
	m.countOut(wire.ExchangeIKESAInit, true)
	m.act(Send{Local: k.Local, Remote: k.Remote, Data: initReply(msg, 0, n)})
	m.end()
}

// encapsulated continues with our half of a key exchange and the shared secret.
func (m *Machine) encapsulated(a KEAnswer) {
	st := m.s.Setup
	st.Public = a.Public
	if m.s.Phase == AnsweringMore {
		m.answerMore(a)
		return
	}
	payloads := make([]wire.Payload, 0, 8)
	payloads = append(payloads, m.s.IKE.Chosen.Answer(nil),
		&wire.KE{Method: st.KE, Data: a.Public}, &wire.Nonce{Data: st.Nr})
	payloads = m.appendNATDetection(payloads)
	if cr := m.certRequest(); cr != nil {
		payloads = append(payloads, cr)
	}
	if len(st.PeerHashes) > 0 {
		payloads = append(payloads, signatureHashes())
	}
	payloads = m.appendAbilities(payloads)
	if len(m.s.IKE.Chosen.AdditionalKEs()) > 0 {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.NotifyIntermediateExchangeSupported})
	}
	st.InitR = wire.AppendMessage(nil, m.s.IKE.header(wire.ExchangeIKESAInit, 0, true), payloads)
	if !m.agreed(a.Shared) {
		return
	}
	m.to(AwaitAuth)
	m.answer(&m.s.IKE, st.InitR)
}

// moreRequest handles the initiator's half of a further key exchange.
func (m *Machine) moreRequest(ps []wire.Payload, w whole) {
	st := m.s.Setup
	want := m.s.IKE.Chosen.AdditionalKEs()[st.Further]
	ke, ok := wire.First[*wire.KE](ps)
	if !ok || ke.Method != want {
		m.failed(event.InvalidKEPayload, false, "", "", event.Fact{Name: "expected", Value: keText(want)}, event.Fact{Name: "found", Value: keName(ke)})
		m.respond(&m.s.IKE, w.msg.Exchange, w.msg.MessageID, &wire.Notify{NotifyType: wire.NotifyInvalidSyntax})
		m.fail("further key exchange missing")
		return
	}
	m.chainIntAuth(&st.IntAuthI, true, wire.AppendIntAuth(nil, w.raw, w.msg, w.inner))
	st.KE, st.PeerPublic = want, bytes.Clone(ke.Data)
	m.to(AnsweringMore)
	m.job(jobEncapsulate)
}

// answerMore answers with the keys that protected the request, then moves on to
// the new ones (RFC 9370 2.2.2).
func (m *Machine) answerMore(a KEAnswer) {
	st := m.s.Setup
	ps := []wire.Payload{&wire.KE{Method: st.KE, Data: a.Public}}
	m.to(AwaitAuth)
	m.respond(&m.s.IKE, wire.ExchangeIKEIntermediate, m.s.IKE.NextIn-1, ps...)
	if m.s.Phase != AwaitAuth {
		return
	}
	m.addIntAuth(&st.IntAuthR, false, m.s.IKE.Answer, ps)
	m.agreed(a.Shared)
}

// addIntAuth chains one of our own messages. If it was fragmented, fragment 1
// stands for it (RFC 9242 3.3.1).
func (m *Machine) addIntAuth(acc *[]byte, initiator bool, raw []byte, ps []wire.Payload) {
	if raw == nil {
		return
	}
	raw = firstDatagram(raw)
	msg, err := wire.ParseMessage(raw)
	if err != nil {
		m.fail("our own message does not parse: " + err.Error())
		return
	}
	m.chainIntAuth(acc, initiator, wire.AppendIntAuth(nil, raw, msg, wire.AppendPayloads(nil, ps)))
}

// chainIntAuth is IntAuth_N = prf(SK_p, IntAuth_N-1 | A | P) of RFC 9242 3.3.2.
func (m *Machine) chainIntAuth(acc *[]byte, initiator bool, part []byte) {
	k := &m.s.IKE
	key := k.Keys.Pr
	if initiator {
		key = k.Keys.Pi
	}
	*acc = m.s.IKE.Chosen.PRF().Sum(nil, key, *acc, part)
}
