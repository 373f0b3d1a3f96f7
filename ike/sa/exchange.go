package sa

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"iter"
	"math"
	"time"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// ikes yields the session's IKE SAs, the current one first.
func (m *Machine) ikes() iter.Seq[*IKE] {
	return func(yield func(*IKE) bool) {
		if !yield(&m.s.IKE) {
			return
		}
		for _, k := range m.s.Others {
			if !yield(k) {
				return
			}
		}
	}
}

func (k *IKE) header(ex wire.ExchangeType, id uint32, response bool) wire.Header {
	h := wire.Header{SPIi: k.SPIi, SPIr: k.SPIr, Exchange: ex, MessageID: id}
	if k.Initiator {
		h.Flags |= wire.FlagInitiator
	}
	if response {
		h.Flags |= wire.FlagResponse
	}
	return h
}

// request seals and sends our next request. The window is one: the caller made
// sure that none is outstanding.
func (m *Machine) request(k *IKE, ex wire.ExchangeType, payloads ...wire.Payload) []byte {
	return m.requestFor(k, Task{}, ex, payloads...)
}

// requestFor is request with what an INFORMATIONAL is for.
func (m *Machine) requestFor(k *IKE, t Task, ex wire.ExchangeType, payloads ...wire.Payload) []byte {
	if m.s.Phase >= Cleaning {
		return nil // the step failed on its way here
	}
	h := k.header(ex, k.NextOut, false)
	var data []byte
	var err error
	switch {
	case ex == wire.ExchangeIKESAInit:
		data = wire.AppendMessage(nil, h, payloads)
	case t.Kind == taskProbe:
		data, err = k.sealWhole(h, payloads)
	default:
		data, err = m.seal(k, h, payloads)
	}
	if err != nil {
		m.failed(event.InvalidSyntax, false, "", "", event.Fact{Name: "detail", Value: err.Error()})
		m.fail("our message could not be built")
		return nil
	}
	k.Request = &Request{Exchange: ex, MessageID: k.NextOut, Data: data, For: t}
	k.NextOut++
	m.countOut(ex, false)
	m.transmit(k)
	return data
}

// maxWait bounds the wait between two transmissions.
const maxWait = time.Hour

// transmit sends the outstanding request and sets the time of the next try
// (RFC 7296 2.1): each wait grows by the configured base.
func (m *Machine) transmit(k *IKE) {
	r := k.Request
	n := max(int(r.Sent)-r.trials(), 0)
	wait := m.retransmitWait(n)
	local, remote := m.tryPath(k, n)
	if r.For.Kind == taskProbe {
		if r.Sent < probeWhole {
			wait = min(wait, probeWait)
		}
		m.sendProbe(k, local, remote)
	} else {
		m.send(local, remote, r.Data)
	}
	r.Sent++
	r.Again = m.env.Now.Add(wait)
	m.persist = true
	m.s.Live.LastOut = m.env.Now
}

// retransmitWait is the time between a transmission and the next; sent counts
// those before it.
func (m *Machine) retransmitWait(sent int) time.Duration {
	set := m.env.Settings
	limit := maxWait
	if set.RetransmitLimit > 0 {
		limit = min(limit, set.RetransmitLimit)
	}
	wait := time.Duration(min(float64(set.RetransmitTimeout)*math.Pow(set.RetransmitBase, float64(sent)), float64(limit)))
	if set.RetransmitJitter > 0 {
		wait -= time.Duration(m.fraction() * float64(wait) * float64(set.RetransmitJitter) / 100)
	}
	return wait
}

// retransmit repeats the outstanding request, the same bytes, or gives up.
func (m *Machine) retransmit(k *IKE) {
	r := k.Request
	if int(r.Sent) <= m.env.Settings.RetransmitTries+r.trials() {
		m.transmit(k)
		return
	}
	switch {
	case k != &m.s.IKE:
		m.dropIKE(k) // the peer has forgotten it before us
		m.nextTask()
		return
	case m.s.Phase == Closing:
		m.fail(m.s.EndReason)
		return
	}
	m.failed(event.PeerTimeout, false, "", "check that the peer is up and that UDP ports 500 and 4500 pass in both directions",
		event.Fact{Name: "exchange", Value: r.Exchange.String()},
		event.Fact{Name: "transmissions", Value: itoa(int(r.Sent))},
		event.Fact{Name: "peer", Value: m.s.IKE.Remote.String()})
	m.followDead()
	m.fail("no answer from the peer")
}

// respond seals, remembers and sends the answer to the peer's request.
func (m *Machine) respond(k *IKE, ex wire.ExchangeType, id uint32, payloads ...wire.Payload) {
	if m.s.Phase >= Cleaning {
		return // the step failed on its way here
	}
	data, err := m.seal(k, k.header(ex, id, true), payloads)
	if err != nil {
		m.failed(event.InvalidSyntax, false, "", "", event.Fact{Name: "detail", Value: err.Error()})
		m.fail("our answer could not be built")
		return
	}
	m.answer(k, data)
}

// answer remembers and sends a response.
func (m *Machine) answer(k *IKE, data []byte) {
	k.Answer = data
	if h, err := wire.ParseHeader(data); err == nil {
		m.countOut(h.Exchange, true)
	}
	m.persist = true
	m.s.Live.LastOut = m.env.Now
	m.send(k.AnswerFrom, k.AnswerAt, data) // where the request came from (RFC 7296 2.11)
}

// received is the front door of every datagram.
func (m *Machine) received(ev Received) {
	m.env.at = Received{Local: ev.Local, Remote: ev.Remote}
	msg, err := wire.ParseMessage(ev.Data)
	if err != nil {
		m.discard("cannot be parsed: " + err.Error())
		if m.s.Phase == Fresh {
			m.unparsable(ev, err)
		}
		return
	}
	if m.s.Phase == Fresh {
		m.initRequest(msg, ev)
		return
	}
	k := m.ikeOf(msg)
	switch {
	case k == nil:
		m.discard("SPIs of another IKE SA")
	case msg.IsInitiator() == k.Initiator:
		m.discard("initiator flag says that we sent it")
	case m.lostByPeer(k, msg):
	case msg.IsResponse():
		m.response(k, msg, ev)
	default:
		m.peerRequest(k, msg, ev)
	}
}

// ikeOf finds the IKE SA that a message belongs to.
func (m *Machine) ikeOf(msg *wire.Message) *IKE {
	for k := range m.ikes() {
		if msg.SPIi == k.SPIi && msg.SPIr == k.SPIr {
			return k
		}
	}
	// The peer's SPI is not in IKE_SA_INIT requests, nor known before its answer.
	k := &m.s.IKE
	if msg.SPIi == k.SPIi && (m.s.Phase == InitSent || msg.Exchange == wire.ExchangeIKESAInit) {
		return k
	}
	return nil
}

// response handles the answer to our outstanding request.
func (m *Machine) response(k *IKE, msg *wire.Message, ev Received) {
	r := k.Request
	if r == nil || r.MessageID != msg.MessageID || r.Exchange != msg.Exchange {
		m.discard("response without a request of ours")
		return
	}
	if r.Exchange == wire.ExchangeIKESAInit {
		m.countIn(msg)
		m.initResponse(msg, ev)
		return
	}
	payloads, w, ok := m.open(k, msg, ev, [32]byte{})
	if !ok {
		return
	}
	m.answeredBy(k, r.For.Kind)
	switch r.Exchange {
	case wire.ExchangeIKEIntermediate:
		m.moreResponse(payloads, w)
	case wire.ExchangeIKEAuth:
		m.authResponse(payloads, w.first, w.inner)
	case wire.ExchangeInformational:
		m.informationalResponse(k, payloads)
	case wire.ExchangeCreateChildSA:
		m.createResponse(k, payloads)
	}
}

// peerRequest handles a request of the peer's: the next one, or one that it
// repeats because our answer got lost (RFC 7296 2.1 to 2.3).
func (m *Machine) peerRequest(k *IKE, msg *wire.Message, ev Received) {
	digest := sha256.Sum256(ev.Data) // now: opening decrypts in place
	if msg.MessageID+1 == k.NextIn {
		// The same bytes get the same answer, without opening them: keys may
		// have moved on since (RFC 9370), and the peer cannot tell us apart.
		if k.Answer != nil && digest == k.AnswerTo || m.repeatedFragment(k, msg, ev.Data) {
			m.send(ev.Local, ev.Remote, k.Answer)
			m.retell(k)
			return
		}
		m.discard("repeated request, its answer not ready or its bytes not the same")
		return
	}
	if msg.MessageID != k.NextIn {
		m.discard("message id " + itoa(int(msg.MessageID)) + " outside the window, expected " + itoa(int(k.NextIn)))
		return
	}
	if !m.expects(k, msg.Exchange) {
		m.discard(msg.Exchange.String() + " request not expected in phase " + m.s.Phase.String())
		return
	}
	payloads, w, ok := m.open(k, msg, ev, digest)
	if !ok {
		return
	}
	m.take(k, ev, w.digest)
	m.heardFrom(k, ev.Remote)
	switch msg.Exchange {
	case wire.ExchangeIKEIntermediate:
		m.moreRequest(payloads, w)
	case wire.ExchangeIKEAuth:
		m.authRequest(msg, payloads, w.first, w.inner)
	case wire.ExchangeInformational:
		m.informationalRequest(k, msg.MessageID, payloads)
	case wire.ExchangeCreateChildSA:
		m.createRequest(k, msg.MessageID, payloads)
	}
}

// expects says which requests of the peer a phase takes.
func (m *Machine) expects(k *IKE, ex wire.ExchangeType) bool {
	switch m.s.Phase {
	case AwaitAuth:
		more := int(m.s.Setup.Further) < len(m.s.IKE.Chosen.AdditionalKEs())
		return more && ex == wire.ExchangeIKEIntermediate || !more && ex == wire.ExchangeIKEAuth
	case Established, Closing:
		return m.s.Pending == nil && m.s.Peer == nil && (ex == wire.ExchangeInformational || ex == wire.ExchangeCreateChildSA)
	}
	return false
}

// take accepts a request: its message id is used up, its answer is due, and
// until the session is established the peer's address is where it came from.
func (m *Machine) take(k *IKE, ev Received, digest [32]byte) {
	k.NextIn++
	k.Answer, k.News = nil, nil
	k.AnswerTo, k.AnswerFrom, k.AnswerAt = digest, ev.Local, ev.Remote
	if m.s.Phase < Established {
		k.Local, k.Remote = ev.Local, ev.Remote
	}
	m.persist = true
}

// open authenticates and decrypts. What is not authentic changes nothing; what
// is authentic but wrong is answered (requests) and, being the peer's own
// error, ends a session that is not established (RFC 7296 2.21).
func (m *Machine) open(k *IKE, msg *wire.Message, ev Received, digest [32]byte) ([]wire.Payload, whole, bool) {
	w, ok := m.decrypt(k, msg, ev.Data, digest)
	if !ok {
		return nil, w, false
	}
	m.alive()
	m.countIn(msg)
	if msg.Exchange == wire.ExchangeIKEAuth {
		w.inner = bytes.Clone(w.inner) // what keep keeps
	}
	payloads, err := wire.ParsePayloads(w.first, w.inner)
	if err == nil {
		for _, p := range payloads {
			if !wire.Allowed(msg.Exchange, msg.IsResponse(), true, p.Type()) {
				err = errors.New(p.Type().String() + " payload does not belong into " + msg.Exchange.String())
			}
		}
	}
	if err == nil {
		return payloads, w, true
	}
	m.badContent(k, msg, ev, w.digest, err)
	return nil, w, false
}

// decrypt opens a message, or a fragment, which may complete one.
func (m *Machine) decrypt(k *IKE, msg *wire.Message, data []byte, digest [32]byte) (w whole, ok bool) {
	if !k.keyed() {
		m.discard("encrypted message before keys")
		return w, false
	}
	if skf, ok := msg.SKF(); ok {
		return m.gather(k, msg, skf, data, digest)
	}
	if _, ok := msg.SK(); !ok {
		m.discard(msg.Exchange.String() + " without an SK payload")
		return w, false
	}
	first, inner, err := wire.OpenInner(data, msg, k.opener())
	if err != nil {
		m.discard(err.Error())
		return w, false
	}
	m.dropFragments(k.LocalSPI(), msg.IsResponse()) // they were of the same message
	return whole{first, inner, data, msg, digest}, true
}

// badContent answers an authentic message whose content is wrong.
func (m *Machine) badContent(k *IKE, msg *wire.Message, ev Received, digest [32]byte, err error) {
	if msg.IsResponse() {
		m.discard(err.Error())
		if m.s.Phase < Established {
			m.failed(event.InvalidSyntax, false, "", "", event.Fact{Name: "detail", Value: err.Error()})
			m.fail("malformed answer")
		}
		return
	}
	m.take(k, ev, digest)
	n := &wire.Notify{NotifyType: wire.NotifyInvalidSyntax}
	cause := event.InvalidSyntax
	var crit *wire.UnsupportedCriticalPayload
	if errors.As(err, &crit) {
		n.NotifyType, n.Data = wire.NotifyUnsupportedCriticalPayload, []byte{byte(crit.PayloadType)}
		cause = event.UnsupportedCritical
	}
	m.failed(cause, false, "", "", event.Fact{Name: "exchange", Value: msg.Exchange.String()}, event.Fact{Name: "detail", Value: err.Error()})
	m.respond(k, msg.Exchange, msg.MessageID, n)
	// RFC 7296 2.21.3: INVALID_SYNTAX ends the IKE SA; an unknown critical
	// payload only this exchange, which is the end of a set-up, too.
	if crit == nil || m.s.Phase < Established {
		m.followClosed()
		m.fail("malformed request")
	}
}

// keep takes a peer's decrypted payloads into the set-up, for the steps that
// follow their jobs. They are those of IKE_AUTH, of which open has made a copy.
func (m *Machine) keep(first wire.PayloadType, inner []byte, ps []wire.Payload) {
	st := m.s.Setup
	st.Inner, st.InnerFirst = inner, first
	m.inner = ps
}

// kept are the payloads that keep stored.
func (m *Machine) kept() []wire.Payload {
	if m.inner == nil && m.s.Setup != nil && m.s.Setup.Inner != nil {
		// They parsed before they were stored.
		m.inner, _ = wire.ParsePayloads(m.s.Setup.InnerFirst, m.s.Setup.Inner)
	}
	return m.inner
}

// unparsable ends a responder whose first message is none. One that is whole but
// for a critical payload we don't know is told so (RFC 7296 2.5).
func (m *Machine) unparsable(ev Received, err error) {
	var crit *wire.UnsupportedCriticalPayload
	h, bad := wire.ParseHeader(ev.Data)
	if errors.As(err, &crit) && bad == nil && h.Exchange == wire.ExchangeIKESAInit && !h.IsResponse() {
		n := &wire.Notify{NotifyType: wire.NotifyUnsupportedCriticalPayload, Data: []byte{byte(crit.PayloadType)}}
		m.act(Send{Local: ev.Local, Remote: ev.Remote, Data: initReply(&wire.Message{Header: h}, 0, n)})
	}
	m.end()
}
