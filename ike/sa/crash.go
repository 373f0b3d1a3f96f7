package sa

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"

	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// Quick crash detection (RFC 6290). Each side gives the other a token for the IKE
// SA, under its protection. A side that has lost its SAs can make the token again,
// and shows it in clear when it is asked something about that IKE SA: the other one
// knows then, and not only after a run of retransmissions, that the SA is gone.
//
// Who shows the token of an SA that lives would have given it away to anybody. So
// the token hangs on the own SPI by which the shell has just looked for the session
// and not found it, in its place: should a stranger turn the initiator flag round,
// so that the shell looks for the peer's SPI, it gets a token that no SA has.

// taskToken tells the peer our token of the current IKE SA.
const taskToken TaskKind = 60

// The bounds of what a peer may use as a token (RFC 6290 5), and of how many are
// looked at in one message: it must be four at least (RFC 6290 4.5).
const (
	minToken  = 16
	maxToken  = 128
	maxTokens = 8
)

// WrongToken is why a message with a token that the peer has not given us is left
// aside.
const WrongToken = "crash detection token that is not the peer's"

// crashToken is our token of the IKE SA with these SPIs (RFC 6290 5.1).
func crashToken(key secret.Bytes, own, peer wire.SPI) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(own)), uint64(peer)))
	return h.Sum(nil)
}

// makesTokens reports whether we give tokens.
func (s *Settings) makesTokens() bool { return s.CrashDetection && len(s.CrashSecret) > 0 }

func tokenNotify(key secret.Bytes, own, peer wire.SPI) *wire.Notify {
	return &wire.Notify{Protocol: wire.ProtoIKE, NotifyType: wire.NotifyQuickCrashDetection, Data: crashToken(key, own, peer)}
}

// appendToken adds our token of an IKE SA to a protected message.
func (m *Machine) appendToken(ps []wire.Payload, k *IKE) []wire.Payload {
	if !m.env.Settings.makesTokens() {
		return ps
	}
	return append(ps, tokenNotify(m.env.Settings.CrashSecret, k.LocalSPI(), k.PeerSPI()))
}

// tokenDigest is the SHA-256 of the first token among payloads; zero when there is
// none of a permitted length.
func tokenDigest(ps []wire.Payload) (d [32]byte) {
	if n, ok := wire.FindNotify(ps, wire.NotifyQuickCrashDetection); ok && len(n.Data) >= minToken && len(n.Data) <= maxToken {
		d = sha256.Sum256(n.Data)
	}
	return d
}

// readToken keeps the peer's token of an IKE SA, which replaces an older one
// (RFC 6290 4.4). Only its digest is kept: our state shall not be enough to end the
// SA in the peer's name.
func (m *Machine) readToken(k *IKE, ps []wire.Payload) {
	if d := tokenDigest(ps); d != [32]byte{} && m.env.Settings.CrashDetection {
		k.PeerToken, m.persist = d, true
	}
}

// tellToken has the peer told our token of the IKE SA that our rekeying made: only
// now do we know the SPIs (RFC 6290 4.3).
func (m *Machine) tellToken() {
	if m.env.Settings.makesTokens() && !m.hasTaskKind(taskToken) {
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskToken})
	}
}

// shows reports whether a message shows the peer's token of the IKE SA; some says
// that there is a token at all.
func (k *IKE) shows(ps []wire.Payload) (right, some bool) {
	n := 0
	for p := range wire.All[*wire.Notify](ps) {
		if p.NotifyType != wire.NotifyQuickCrashDetection {
			continue
		}
		if some = true; n >= maxTokens {
			break
		}
		n++
		d := sha256.Sum256(p.Data)
		right = subtle.ConstantTimeCompare(d[:], k.PeerToken[:]) == 1 || right
	}
	return right && k.PeerToken != [32]byte{}, some
}

// lostByPeer handles a message in clear by which the peer may say that it has lost
// an IKE SA (RFC 6290 4.5); it reports whether that is what the message is. It may
// come in answer to any of our messages, be it an ESP packet.
func (m *Machine) lostByPeer(k *IKE, msg *wire.Message) bool {
	clear := msg.Clear()
	if len(clear) != len(msg.Payloads) || msg.Exchange == wire.ExchangeIKESAInit || m.s.Phase != Established && m.s.Phase != Closing {
		return false
	}
	_, ike := wire.FindNotify(clear, wire.NotifyInvalidIKESPI)
	_, esp := wire.FindNotify(clear, wire.NotifyInvalidSPI)
	right, some := k.shows(clear)
	switch {
	case !some || !ike && !esp:
		return false
	case !right || !m.env.Settings.CrashDetection:
		m.discard(WrongToken)
	default:
		m.lost(k)
	}
	return true
}

// lost follows the proof that the peer does not have an IKE SA any more.
func (m *Machine) lost(k *IKE) {
	if n := m.next(); n != nil && k == &m.s.IKE {
		// It may have moved on to the one that it made, and its delete got lost.
		spi := k.LocalSPI()
		m.promote(n)
		k = m.ikeBySPI(spi)
	}
	switch {
	case k != &m.s.IKE:
		m.dropIKE(k)
		m.check() // whether it has the current one, it says for itself
		m.nextTask()
		return
	case m.s.Phase == Closing:
		m.fail(m.s.EndReason)
		return
	}
	m.failed(event.PeerLostIKE, false, "", "the peer has restarted, or given us up: its log says which; dpd_action says what we do next",
		event.Fact{Name: "detail", Value: "the peer says that it does not have the IKE SA any more, and shows the token that it gave us for that case"},
		event.Fact{Name: "peer", Value: m.s.IKE.Remote.String()})
	m.followDead()
	m.fail("the peer does not have the IKE SA any more")
}

// Refusal is an unprotected response outside of any session: SPIs, exchange and
// message id are the request's (RFC 7296 1.5).
func Refusal(h wire.Header, ns ...wire.Payload) []byte {
	return wire.AppendMessage(nil, wire.Header{
		SPIi: h.SPIi, SPIr: h.SPIr, Exchange: h.Exchange, MessageID: h.MessageID,
		Flags: wire.FlagResponse | wire.FlagInitiator&^h.Flags,
	}, ns)
}

// RefuseUnknown is the answer to a request to an IKE SPI of ours that no session
// owns (RFC 7296 2.21.4), for a shell that has looked for it. Responses and
// IKE_SA_INIT get none. When the request is protected and the SPI one that this node
// of a cluster makes, the answer shows the token of the IKE SA: of other nodes' SPIs
// it cannot know whether they live (RFC 6290 9.2).
func RefuseUnknown(s *Settings, node uint8, h wire.Header) []byte {
	ps := []wire.Payload{&wire.Notify{NotifyType: wire.NotifyInvalidIKESPI}}
	own, peer := OwnSPI(h), h.SPIi
	if !h.IsInitiator() {
		peer = h.SPIr
	}
	protected := h.Next == wire.PayloadSK || h.Next == wire.PayloadSKF
	if s.makesTokens() && protected && own != 0 && peer != 0 && nodeOf(own) == node {
		ps = append(ps, tokenNotify(s.CrashSecret, own, peer))
	}
	return Refusal(h, ps...)
}

// OwnSPI is the SPI that we chose, of a message that the peer sent: the flag says
// that the sender is the original initiator (RFC 7296 3.1).
func OwnSPI(h wire.Header) wire.SPI {
	if h.IsInitiator() {
		return h.SPIr
	}
	return h.SPIi
}
