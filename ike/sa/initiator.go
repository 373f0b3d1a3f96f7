package sa

import (
	"bytes"
	"encoding/binary"
	"io"

	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// nonceLen is the length of our nonces: at least half the key size of every PRF
// (RFC 7296 2.10).
const nonceLen = 32

// maxHashes bounds what is kept of the peer's SIGNATURE_HASH_ALGORITHMS; eight
// are registered.
const maxHashes = 16

// maxCookies bounds how often a peer may answer IKE_SA_INIT with a COOKIE.
const maxCookies = 4

// start begins as initiator.
func (m *Machine) start(e Start) {
	if m.s.Phase != Fresh || m.conn == nil {
		return
	}
	if m.s.ChildName == "" && !e.Alone && len(m.conn.Children) > 0 {
		m.s.ChildName = m.conn.Children[0].Name
	}
	if m.s.ChildName != "" && m.conn.Child(m.s.ChildName) == nil {
		m.failed(event.NoConnection, false, m.s.ChildName, "name a child that the connection has",
			event.Fact{Name: "detail", Value: "no child of this name"})
		m.fail("no such child")
		return
	}
	if !m.conn.oneRound() {
		m.failed(event.NoConnection, false, m.s.ChildName, "", event.Fact{Name: "detail", Value: severalRounds})
		m.fail(severalRounds)
		return
	}
	m.wantPacket(m.s.ChildName, e.Packet)
	m.s.Setup.KE = suite.FirstKE(m.conn.Proposals)
	m.to(Generating)
	m.job(jobGenerate)
}

// generated continues with our fresh key pair.
func (m *Machine) generated(p KEPair) {
	st := m.s.Setup
	st.Public, st.Private = p.Public, p.Private
	if m.s.Phase == GeneratingMore {
		m.to(MoreSent)
		data := m.request(&m.s.IKE, wire.ExchangeIKEIntermediate, &wire.KE{Method: st.KE, Data: st.Public})
		m.addIntAuth(&st.IntAuthI, true, data, []wire.Payload{&wire.KE{Method: st.KE, Data: st.Public}})
		return
	}
	m.sendInit()
}

// sendInit sends the IKE_SA_INIT request (RFC 7296 1.2), which is message 0
// however often COOKIE or INVALID_KE_PAYLOAD make us send it again.
func (m *Machine) sendInit() {
	st, k := m.s.Setup, &m.s.IKE
	if st.Ni == nil {
		st.Ni = make([]byte, nonceLen)
		if _, err := io.ReadFull(m.env.Rand, st.Ni); err != nil {
			m.fail("no randomness")
			return
		}
	}
	payloads := make([]wire.Payload, 0, 8)
	if st.Cookie != nil {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.NotifyCookie, Data: st.Cookie})
	}
	payloads = append(payloads, suite.Offer(m.conn.Proposals, nil, st.KE), &wire.KE{Method: st.KE, Data: st.Public}, &wire.Nonce{Data: st.Ni})
	payloads = m.appendNATDetection(payloads)
	payloads = m.appendAbilities(append(payloads, signatureHashes()))
	if suite.HasAdditionalKE(m.conn.Proposals) {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.NotifyIntermediateExchangeSupported})
	}
	k.NextOut = 0
	m.to(InitSent)
	st.InitI = m.request(&m.s.IKE, wire.ExchangeIKESAInit, payloads...)
}

// appendNATDetection adds the two notifies of RFC 7296 2.23. Forced
// encapsulation is a source hash that cannot match, as if a NAT stood before us.
func (m *Machine) appendNATDetection(ps []wire.Payload) []wire.Payload {
	return m.appendNATHashes(ps, &m.s.IKE)
}

func (m *Machine) appendNATHashes(ps []wire.Payload, k *IKE) []wire.Payload {
	src, dst := natHash(k.SPIi, k.SPIr, k.Local), natHash(k.SPIi, k.SPIr, k.Remote)
	if m.conn != nil && m.conn.Encap {
		src[0] ^= 0xff
	}
	return append(ps,
		&wire.Notify{NotifyType: wire.NotifyNATDetectionSourceIP, Data: src[:]},
		&wire.Notify{NotifyType: wire.NotifyNATDetectionDestinationIP, Data: dst[:]})
}

// detectNAT evaluates the peer's NAT detection notifies.
func (m *Machine) detectNAT(msg *wire.Message, ev Received) {
	m.setNAT(natOf(msg.Payloads, msg.SPIi, msg.SPIr, ev.Local, ev.Remote))
}

// initResponse handles the answer to IKE_SA_INIT. It is not authenticated: what
// does not look like an answer to our request is ignored.
func (m *Machine) initResponse(msg *wire.Message, ev Received) {
	st, k := m.s.Setup, &m.s.IKE
	if m.s.Phase != InitSent {
		m.discard("IKE_SA_INIT answered already")
		return
	}
	if n, ok := wire.FindNotify(msg.Payloads, wire.NotifyCookie); ok {
		m.cookieDemanded(n.Data)
		return
	}
	if found, why := m.redirect(msg.Payloads, st.Ni); found {
		m.fail(why)
		return
	}
	if n, ok := wire.FindNotify(msg.Payloads, wire.NotifyInvalidKEPayload); ok {
		m.otherKE(n)
		return
	}
	if n, ok := wire.FindError(msg.Payloads); ok {
		m.initRefused(n)
		return
	}
	sa, ok1 := wire.First[*wire.SA](msg.Payloads)
	ke, ok2 := wire.First[*wire.KE](msg.Payloads)
	nonce, ok3 := wire.First[*wire.Nonce](msg.Payloads)
	if !ok1 || !ok2 || !ok3 || msg.SPIr == 0 {
		m.discard("IKE_SA_INIT response without SA, KE, Nonce or SPI")
		return
	}
	chosen, err := suite.Accept(m.conn.Proposals, sa.Proposals)
	if err == nil && (chosen.KE() != st.KE || ke.Method != st.KE) {
		err = errKE{st.KE, ke.Method}
	}
	if err != nil {
		m.failed(event.NoProposalChosen, false, "", "the peer answered with something we did not offer: it is broken or configured for another peer",
			event.Fact{Name: "ours", Value: suite.Join(m.conn.Proposals)}, event.Fact{Name: "peer", Value: suite.JoinWire(sa.Proposals)}, event.Fact{Name: "detail", Value: err.Error()})
		m.fail("unacceptable answer to IKE_SA_INIT")
		return
	}
	k.SPIr, k.Chosen = msg.SPIr, chosen
	k.Request = nil
	st.Nr, st.PeerPublic, st.InitR = bytes.Clone(nonce.Data), bytes.Clone(ke.Data), bytes.Clone(ev.Data)
	m.detectNAT(msg, ev)
	m.peerAbilities(msg.Payloads)
	if !m.decideChildless() {
		return
	}
	if k.encap() || k.NATT && m.conn.MOBIKE { // RFC 4555 3.3
		m.floatPorts()
	}
	m.to(Agreeing)
	m.job(jobDecapsulate)
}

// cookieDemanded repeats IKE_SA_INIT with the peer's cookie (RFC 7296 2.6).
func (m *Machine) cookieDemanded(cookie []byte) {
	st := m.s.Setup
	switch {
	case len(cookie) == 0 || len(cookie) > 64 || st.Cookies >= maxCookies:
		m.discard("COOKIE empty, longer than 64 octets, or once too often")
	case bytes.Equal(cookie, st.Cookie):
		m.discard("the same COOKIE once more")
	default:
		st.Cookies++
		st.Cookie = bytes.Clone(cookie)
		m.sendInit()
	}
}

type errKE struct{ want, got wire.KEMethod }

func (e errKE) Error() string {
	return "key exchange method: expected " + keText(e.want) + ", got " + keText(e.got)
}

// floatPorts moves to the NAT-T port after a NAT was found (RFC 7296 2.23).
func (m *Machine) floatPorts() {
	k, set := &m.s.IKE, m.env.Settings
	if k.Local.Port() == set.Port {
		k.Local = withPort(k.Local, set.NATTPort)
	}
	if k.Remote.Port() == ikePort {
		k.Remote = withPort(k.Remote, nattPort)
	}
}

// The registered ports of IKE, which a peer has however ours are set.
const (
	ikePort  = 500
	nattPort = 4500
)

// peerAbilities notes what the peer's IKE_SA_INIT says of it.
func (m *Machine) peerAbilities(ps []wire.Payload) {
	st := m.s.Setup
	if n, ok := wire.FindNotify(ps, wire.NotifySignatureHashAlgorithms); ok {
		for d := n.Data; len(d) >= 2 && len(st.PeerHashes) < maxHashes; d = d[2:] {
			st.PeerHashes = append(st.PeerHashes, wire.HashAlgorithm(binary.BigEndian.Uint16(d)))
		}
	}
	m.certRequests(ps)
	m.readAbilities(ps)
}

// certRequests notes the certification authorities that the peer trusts.
func (m *Machine) certRequests(ps []wire.Payload) {
	st := m.s.Setup
	for c := range wire.All[*wire.CertReq](ps) {
		if c.Encoding != wire.CertX509Signature {
			continue
		}
		st.CertReq = true
		for d := c.Data; len(d) >= 20 && len(st.CertReqs) < 256; d = d[20:] {
			st.CertReqs = append(st.CertReqs, bytes.Clone(d[:20]))
		}
	}
}

// signatureHashes announces RFC 7427 with what our verifier can do.
func signatureHashes() wire.Payload {
	d := make([]byte, 0, 8)
	for _, h := range []wire.HashAlgorithm{wire.HashSHA2_256, wire.HashSHA2_384, wire.HashSHA2_512, wire.HashIdentity} {
		d = binary.BigEndian.AppendUint16(d, uint16(h))
	}
	return &wire.Notify{NotifyType: wire.NotifySignatureHashAlgorithms, Data: d}
}

// otherKE handles INVALID_KE_PAYLOAD: once, and only for a method we offered
// (RFC 7296 1.2: the whole offer is sent again, so that nobody can downgrade).
func (m *Machine) otherKE(n *wire.Notify) {
	st := m.s.Setup
	if len(n.Data) != 2 {
		m.discard("INVALID_KE_PAYLOAD without a method")
		return
	}
	want := wire.KEMethod(binary.BigEndian.Uint16(n.Data))
	if st.FixedKE && want == st.KE {
		m.discard("INVALID_KE_PAYLOAD once more, as we do what it asks")
		return
	}
	if st.FixedKE || want == st.KE || !suite.OffersKE(m.conn.Proposals, want) {
		m.failed(event.InvalidKEPayload, true, "", "configure a key exchange method that both sides accept",
			event.Fact{Name: "sent", Value: keText(st.KE)}, event.Fact{Name: "peer_wants", Value: keText(want)},
			event.Fact{Name: "ours", Value: suite.Join(m.conn.Proposals)})
		m.fail("no common key exchange method")
		return
	}
	m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.InvalidKEPayload,
		Facts: []event.Fact{{Name: "sent", Value: keText(st.KE)}, {Name: "peer_wants", Value: keText(want)}}})
	st.FixedKE, st.KE = true, want
	st.Private.Wipe()
	m.s.IKE.Request = nil
	m.to(Generating)
	m.job(jobGenerate)
}

// initRefused explains an error notify in answer to IKE_SA_INIT.
func (m *Machine) initRefused(n *wire.Notify) {
	cause, fix := event.PeerError, ""
	if n.NotifyType == wire.NotifyNoProposalChosen {
		cause = event.NoProposalChosen
		fix = "compare with the peer's IKE proposals, or the addresses it expects: it answers the same way when no connection of its matches"
	}
	m.failed(cause, true, "", fix, event.Fact{Name: "notify", Value: n.NotifyType.String()},
		event.Fact{Name: "ours", Value: suite.Join(m.conn.Proposals)})
	m.fail("the peer refused IKE_SA_INIT: " + n.NotifyType.String())
}

// agreed derives keys from the shared secret of a finished key exchange, the
// first or a further one (RFC 7296 2.14, RFC 9370 2.2.2).
func (m *Machine) agreed(shared secret.Bytes) bool {
	st, k := m.s.Setup, &m.s.IKE
	prf := m.s.IKE.Chosen.PRF()
	var seed secret.Bytes
	var err error
	if len(k.Keys.D) == 0 {
		seed, err = suite.SKEYSEED(prf, st.Ni, st.Nr, shared)
	} else {
		seed, err = suite.UpdateSKEYSEED(prf, k.Keys.D, shared, st.Ni, st.Nr)
		st.Further++
	}
	if err == nil {
		old := k.Keys
		k.Keys, err = suite.DeriveIKE(k.Chosen, seed, st.Ni, st.Nr, k.SPIi, k.SPIr)
		old.Wipe()
	}
	seed.Wipe()
	shared.Wipe()
	st.Private.Wipe()
	st.Private, st.Public, st.PeerPublic = nil, nil, nil
	if err == nil {
		k.SealCounter = 0
		err = k.bind()
	}
	if err != nil {
		m.failed(event.KeyExchangeFailed, false, "", "", event.Fact{Name: "detail", Value: err.Error()})
		m.fail("key derivation failed")
		return false
	}
	return true
}

// moreOrAuth continues the initiator after a key exchange: with the next
// further one, or towards IKE_AUTH.
func (m *Machine) moreOrAuth() {
	st := m.s.Setup
	if more := m.s.IKE.Chosen.AdditionalKEs(); int(st.Further) < len(more) {
		st.KE = more[st.Further]
		m.to(GeneratingMore)
		m.job(jobGenerate)
		return
	}
	st.AuthID = m.s.IKE.NextOut
	if st.Childless {
		m.to(Signing)
		m.job(jobSign)
		return
	}
	m.to(Reserving)
	m.job(jobReserve)
}

// moreResponse handles the peer's half of a further key exchange.
func (m *Machine) moreResponse(ps []wire.Payload, w whole) {
	st := m.s.Setup
	ke, ok := wire.First[*wire.KE](ps)
	if !ok || ke.Method != st.KE || m.s.Phase != MoreSent {
		m.failed(event.InvalidKEPayload, false, "", "", event.Fact{Name: "expected", Value: keText(st.KE)}, event.Fact{Name: "found", Value: keName(ke)})
		m.fail("further key exchange not answered")
		return
	}
	m.chainIntAuth(&st.IntAuthR, false, wire.AppendIntAuth(nil, w.raw, w.msg, w.inner))
	m.s.IKE.Request = nil
	st.PeerPublic = bytes.Clone(ke.Data)
	m.to(AgreeingMore)
	m.job(jobDecapsulate)
}

func keName(ke *wire.KE) string {
	if ke == nil {
		return "no KE payload"
	}
	return keText(ke.Method)
}
