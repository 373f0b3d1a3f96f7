package sa

import (
	"bytes"
	"encoding/binary"

	"espalier/ike/auth"
	"espalier/ike/pki"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// signed continues with our AUTH payload: the initiator sends IKE_AUTH, the
// responder installs what was agreed and then answers.
func (m *Machine) signed(r auth.SignResult) {
	st := m.s.Setup
	st.OwnAuth, st.OwnCerts = &r.Auth, r.Certs
	m.s.IKE.LocalAuth = r.Describe
	if m.s.IKE.Initiator {
		if st.Expected != nil {
			m.job(jobExpect)
			return
		}
		if !m.askContact() {
			m.sendAuth()
		}
		return
	}
	if c := m.negotiated(); c != nil {
		m.to(Installing)
		m.job(jobInstall)
		return
	}
	m.finishResponder()
}

// sendAuth sends the initiator's IKE_AUTH.
func (m *Machine) sendAuth() {
	m.to(AuthSent)
	m.request(&m.s.IKE, wire.ExchangeIKEAuth, m.authPayloads()...)
}

// authPayloads is what either side says in IKE_AUTH (RFC 7296 1.2), the child
// included.
func (m *Machine) authPayloads() []wire.Payload {
	st, k := m.s.Setup, &m.s.IKE
	ps := make([]wire.Payload, 0, 10)
	ps = append(ps, k.LocalID.Wire(k.Initiator))
	for i := range st.OwnCerts {
		ps = append(ps, &st.OwnCerts[i])
	}
	if k.Initiator {
		if cr := m.certRequest(); cr != nil {
			ps = append(ps, cr)
		}
		if id := m.conn.Remote[0].ID; isConcrete(id) {
			ps = append(ps, id.Wire(false))
		}
	}
	ps = m.appendAuthExtras(append(ps, st.OwnAuth))
	if k.Initiator {
		return m.appendChildOffer(ps)
	}
	return m.appendChildAnswer(ps)
}

// maxCertReqConns bounds how many connections a responder's CERTREQ speaks for.
const maxCertReqConns = 64

// certRequest asks for certificates of the authorities we trust for this peer;
// nil when we need none.
func (m *Machine) certRequest() wire.Payload {
	conns := []*Connection{m.conn}
	if !m.s.IKE.Initiator {
		// Who the peer is shows later: ask for what any connection may need.
		conns = m.env.Conns.Match(m.s.IKE.Local.Addr(), m.s.IKE.Remote.Addr())
	}
	var only []pki.Fingerprint
	asked, all := false, false
	for _, c := range conns[:min(len(conns), maxCertReqConns)] {
		if !c.SendCertReq || !c.oneRound() || c.Remote[0].Method == auth.MethodPSK {
			continue
		}
		asked, all = true, all || len(c.Remote[0].CACerts) == 0
		only = append(only, c.Remote[0].CACerts...)
	}
	if !asked {
		return nil
	}
	if all {
		only = nil
	}
	ids := m.env.Creds.CAKeyIDs(only)
	if len(ids) == 0 {
		return nil
	}
	return &wire.CertReq{Encoding: wire.CertX509Signature, Data: bytes.Join(ids, nil)}
}

// isConcrete reports whether an identity can be sent as the one we want to talk
// to: neither %any nor a pattern.
func isConcrete(id auth.ID) bool { return !id.IsAny() && !id.IsPattern() }

// takes reports whether a configured method fits the AUTH payload's.
func takes(m auth.Method, a wire.AuthMethod) bool {
	return m == auth.MethodAny || (m == auth.MethodPSK) == (a == wire.AuthSharedKey)
}

// allowedBy reports whether what was chosen is part of the proposals.
func allowedBy(c suite.Choice, ps []suite.Proposal) bool {
	_, err := suite.Accept(ps, []wire.Proposal{c.Wire(nil)})
	return err == nil
}

// octets are what a side's AUTH covers (RFC 7296 2.15, RFC 9242 3.3.2).
func (m *Machine) octets(ofInitiator bool, id *wire.ID) []byte {
	st, k := m.s.Setup, &m.s.IKE
	msg, nonce, key := st.InitI, st.Nr, k.Keys.Pi
	if !ofInitiator {
		msg, nonce, key = st.InitR, st.Ni, k.Keys.Pr
	}
	var intAuth []byte
	if st.Further > 0 {
		intAuth = append(append(intAuth, st.IntAuthI...), st.IntAuthR...)
		intAuth = binary.BigEndian.AppendUint32(intAuth, st.AuthID)
	}
	mac := m.s.IKE.Chosen.PRF().Sum(nil, key, id.RestOfID())
	return auth.SignedOctets(nil, msg, nonce, mac, intAuth)
}

// signJob describes our own authentication.
func (m *Machine) signJob() SignAuth {
	st, k := m.s.Setup, &m.s.IKE
	peer := k.RemoteID
	if peer.IsAny() && isConcrete(m.conn.Remote[0].ID) {
		peer = m.conn.Remote[0].ID // an initiator signs before it knows whom it meets
	}
	return SignAuth{auth.SignJob{
		Local: m.conn.Local[0], LocalID: k.LocalID, RemoteID: peer, PRF: k.Chosen.PRF().ID(),
		Octets:     m.octets(k.Initiator, k.LocalID.Wire(k.Initiator)),
		PeerHashes: st.PeerHashes, CertReqs: st.CertReqs, CertReq: st.CertReq,
	}}
}

// verifyJob describes the check of the peer's authentication.
func (m *Machine) verifyJob() VerifyAuth {
	k := &m.s.IKE
	ps := m.kept()
	id, _ := wire.FindID(ps, !k.Initiator)
	a, _ := wire.First[*wire.Auth](ps)
	var certs [][]byte
	for c := range wire.All[*wire.Cert](ps) {
		if c.Encoding == wire.CertX509Signature {
			certs = append(certs, c.Data)
		}
	}
	return VerifyAuth{auth.VerifyJob{
		Remote: m.conn.Remote[0], LocalID: k.LocalID, PeerID: k.RemoteID, PRF: k.Chosen.PRF().ID(),
		Octets: m.octets(!k.Initiator, id), Auth: *a, Certs: certs, Now: m.env.Now, PeerHashes: m.s.Setup.PeerHashes,
	}}
}

// ownIdentity settles who we say we are.
func (m *Machine) ownIdentity() bool {
	id, err := auth.Identity(m.env.Creds, m.conn.Local[0], m.s.IKE.Local.Addr())
	if err != nil {
		m.failed(event.CredentialMissing, false, "", "configure local.id, or the certificate that holds it", event.Fact{Name: "detail", Value: err.Error()})
		return false
	}
	m.s.IKE.LocalID = id
	return true
}

// authRequest handles the initiator's IKE_AUTH.
func (m *Machine) authRequest(msg *wire.Message, ps []wire.Payload, first wire.PayloadType, inner []byte) {
	st, k := m.s.Setup, &m.s.IKE
	st.AuthID = msg.MessageID
	idi, ok := wire.FindID(ps, true)
	a, hasAuth := wire.First[*wire.Auth](ps)
	if !ok || !hasAuth {
		detail := "IKE_AUTH without IDi"
		if ok {
			detail = "IKE_AUTH without AUTH: the peer wants EAP, which no connection of ours offers"
		}
		m.authFailed("message", detail, nil)
		return
	}
	peer, err := auth.IDFromWire(idi)
	if err != nil {
		m.authFailed("identity", err.Error(), nil)
		return
	}
	k.RemoteID = peer
	var wanted auth.ID
	if idr, ok := wire.FindID(ps, false); ok {
		if wanted, err = auth.IDFromWire(idr); err != nil {
			m.authFailed("identity", err.Error(), nil)
			return
		}
	}
	if !m.chooseConn(peer, wanted, a.Method) {
		return
	}
	m.certRequests(ps)
	m.keep(first, inner, ps)
	m.to(Verifying)
	m.job(jobVerify)
}

// chooseConn finds the connection that the identities name, among those that
// would have chosen the same IKE proposal.
func (m *Machine) chooseConn(peer, wanted auth.ID, method wire.AuthMethod) bool {
	k := &m.s.IKE
	var best *Connection
	var bestID auth.ID
	bestScore := -1
	conns := m.env.Conns.Match(k.Local.Addr(), k.Remote.Addr())
	for _, c := range conns {
		if !c.oneRound() {
			continue
		}
		score, ok := peer.Matches(c.Remote[0].ID)
		if !ok || score*4+3 <= bestScore || !allowedBy(k.Chosen, c.Proposals) {
			continue
		}
		own, err := auth.Identity(m.env.Creds, c.Local[0], k.Local.Addr())
		if err != nil {
			continue
		}
		score *= 4
		if !wanted.IsAny() {
			if _, ok := own.Matches(wanted); !ok {
				continue
			}
			score += 2
		}
		if takes(c.Remote[0].Method, method) {
			score++
		}
		if score > bestScore {
			best, bestID, bestScore = c, own, score
		}
	}
	if best == nil {
		m.authFailed("identity", "no connection takes the peer's identity", []event.Fact{
			{Name: "peer_id", Value: peer.String()}, {Name: "wanted_id", Value: wanted.String()}, {Name: "connections", Value: triedText(conns)}})
		return false
	}
	m.conn, m.s.Conn, k.LocalID = best, best.Name, bestID
	return true
}

// triedText names connections that did not take a peer: enough to see what is
// meant, however many there are.
func triedText(conns []*Connection) string {
	text, n := "", 0
	for _, c := range conns {
		if !c.oneRound() {
			continue
		}
		if n++; n > 8 {
			break
		}
		text += c.Name + " (remote " + c.Remote[0].ID.String() + "); "
	}
	return text
}

// authFailed refuses the peer: a responder answers AUTHENTICATION_FAILED, an
// initiator says so in an INFORMATIONAL (RFC 7296 2.21.2), and the session ends.
func (m *Machine) authFailed(check, detail string, facts []event.Fact) {
	k := &m.s.IKE
	facts = append([]event.Fact{{Name: "check", Value: check}, {Name: "detail", Value: detail}}, facts...)
	m.failed(event.AuthenticationFailed, false, "", authFix(check), facts...)
	m.s.EndReason = "the peer failed to authenticate"
	if k.Initiator {
		m.s.IKE.Request = nil
		m.to(Closing)
		m.request(&m.s.IKE, wire.ExchangeInformational, &wire.Notify{NotifyType: wire.NotifyAuthenticationFailed})
		return
	}
	m.respond(&m.s.IKE, wire.ExchangeIKEAuth, k.NextIn-1, &wire.Notify{NotifyType: wire.NotifyAuthenticationFailed})
	m.fail(m.s.EndReason)
}

// verified continues when the peer's authentication has been checked.
func (m *Machine) verified(r auth.VerifyResult) {
	k := &m.s.IKE
	k.RemoteAuth = r.Describe
	m.readAuthExtras(m.kept())
	if m.conn.Unique == UniquenessKeep {
		m.job(jobUnique)
		return
	}
	m.unique()
}

// unique continues when the IKE SA may be.
func (m *Machine) unique() {
	if !m.s.IKE.Initiator {
		if _, hasChild := wire.First[*wire.SA](m.kept()); m.childlessRefused(hasChild) {
			return
		}
		m.authorised()
		return
	}
	if m.redirectedAuth() {
		return
	}
	if m.acceptChild() {
		m.to(Asking)
		m.job(jobAsk)
		return
	}
	m.finishInitiator()
}

// authResponse handles the answer to our IKE_AUTH.
func (m *Machine) authResponse(ps []wire.Payload, first wire.PayloadType, inner []byte) {
	k := &m.s.IKE
	if m.s.Phase != AuthSent {
		return
	}
	k.Request = nil
	_, hasAuth := wire.First[*wire.Auth](ps)
	idr, hasID := wire.FindID(ps, false)
	if n, ok := wire.FindError(ps); ok && !hasAuth {
		m.authRefused(n)
		return
	}
	if !hasAuth || !hasID {
		m.authFailed("message", "IKE_AUTH response without IDr or AUTH", nil)
		return
	}
	peer, err := auth.IDFromWire(idr)
	if err != nil {
		m.authFailed("identity", err.Error(), nil)
		return
	}
	k.RemoteID = peer
	m.keep(first, inner, ps)
	m.to(Verifying)
	m.job(jobVerify)
}

// authRefused explains an error notify in place of the peer's authentication.
func (m *Machine) authRefused(n *wire.Notify) {
	cause, fix := event.PeerError, ""
	if n.NotifyType == wire.NotifyAuthenticationFailed {
		cause = event.AuthenticationFailed
		fix = "the peer did not accept us: compare the pre-shared key or our certificate's authority, and our identity, with its configuration; its log names the check"
	}
	m.failed(cause, true, "", fix, event.Fact{Name: "notify", Value: n.NotifyType.String()},
		event.Fact{Name: "our_auth", Value: m.s.IKE.LocalAuth})
	m.fail("the peer refused IKE_AUTH: " + n.NotifyType.String())
}

// finishResponder answers IKE_AUTH: what the answer promises is installed.
func (m *Machine) finishResponder() {
	id := m.s.Setup.AuthID
	ps := m.authPayloads()
	m.establish()
	m.respond(&m.s.IKE, wire.ExchangeIKEAuth, id, ps...)
	m.network()
	m.nextTask()
}

// finishInitiator ends the set-up on the initiator's side.
func (m *Machine) finishInitiator() {
	m.orphan(SPIs{m.s.Setup.ReservedSPI, m.s.Setup.ReservedCPI}, m.reserveRequest())
	m.establish()
	m.sweep()
	m.network()
	m.nextTask()
}

// establish is the moment from which the IKE SA counts.
func (m *Machine) establish() {
	m.to(Established)
	m.s.Since, m.s.Expires = m.env.Now, noTime
	m.scheduleIKE()
	m.scheduleReauth()
	k := &m.s.IKE
	m.act(Authenticated{})
	m.publish(event.IKEUp{IKE: m.eventIKE(), Proposal: k.Chosen.String(), NATLocal: k.NATLocal, NATPeer: k.NATRemote,
		LocalAuth: k.LocalAuth, PeerAuth: k.RemoteAuth})
	for i := range m.s.Children {
		m.childUp(&m.s.Children[i], nil)
		m.sayFallback(&m.s.Children[i])
	}
	m.displace()
	m.wipe()
}

func authFix(check string) string {
	switch check {
	case "shared key mismatch":
		return "the two sides hold different pre-shared keys: compare the secrets and the identities they are bound to"
	case "shared key missing":
		return "add a secret for these identities to the secrets section"
	case "chain":
		return "put the authority that issued the peer's certificate into x509ca"
	case "validity":
		return "renew the certificate, or mend the clock of the box"
	case "identity", "certificate does not hold the identity":
		return "set remote.id to what the peer sends, or give its certificate the identity as subjectAltName"
	}
	return ""
}
