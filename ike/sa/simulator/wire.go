package simulator

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"espalier/ike/sa"
	"espalier/ike/wire"
)

// wireWatch sees every message and knows no key. Of each side of each IKE SA it
// checks that one request at a time is outstanding, that ids follow each other,
// that what is repeated is the same to the octet, that a repeated request gets
// its answer again (RFC 7296 2.1 to 2.3), and that no IV comes twice.
type wireWatch struct {
	flows map[flowKey]*flow
}

// flowKey is a sender on an IKE SA. IKE_SA_INIT has SPIr zero.
type flowKey struct {
	spiI, spiR wire.SPI
	gateway    int
}

// flow is what a gateway has sent on an IKE SA.
type flow struct {
	request, response transmission
	ivs               map[uint64][32]byte
}

// transmission is the last message of a kind.
type transmission struct {
	made     bool
	id       uint32
	parts    map[uint16][32]byte // datagrams by fragment number
	answered bool                // requests: the response was delivered
}

func keyOf(h wire.Header, gateway int) flowKey {
	k := flowKey{h.SPIi, h.SPIr, gateway}
	if h.Exchange == wire.ExchangeIKESAInit {
		k.spiR = 0
	}
	return k
}

func (w *wireWatch) flow(k flowKey) *flow {
	f := w.flows[k]
	if f == nil {
		f = &flow{ivs: map[uint64][32]byte{}}
		w.flows[k] = f
	}
	return f
}

// sent checks a message that a gateway sends.
func (w *wireWatch) sent(g *gateway, x *session, data []byte) {
	s := g.s
	h, err := wire.ParseHeader(data)
	if err != nil {
		s.failf("%s sends what is no message: %v", g.name, err)
	}
	s.tracef("%s#%d sends %s %s %d (%x/%x)", g.name, x.m.ID(), h.Exchange, kindOf(h), h.MessageID, uint64(h.SPIi)>>56, uint64(h.SPIr)>>56)
	f := w.flow(keyOf(h, g.index))
	sum := sha256.Sum256(data)
	part := w.checkIV(g, f, h, data, sum)
	t := &f.request
	if h.IsResponse() {
		t = &f.response
		if q := w.flow(keyOf(h, 1-g.index)).request; !q.made || q.id < h.MessageID {
			s.failf("%s answers request %d, which the peer never made", g.name, h.MessageID)
		}
	}
	init := h.Exchange == wire.ExchangeIKESAInit
	switch {
	case !t.made:
		if !init && !h.IsResponse() && h.MessageID > 1 {
			s.failf("%s begins with request %d", g.name, h.MessageID)
		}
	case t.id == h.MessageID:
		had, ok := t.parts[part]
		if ok && had != sum && !init {
			s.failf("%s repeats %s %s %d with other octets", g.name, h.Exchange, kindOf(h), h.MessageID)
		}
	case h.MessageID < t.id:
		s.failf("%s sends %s %d after %d", g.name, kindOf(h), h.MessageID, t.id)
	case h.MessageID > t.id+1:
		s.failf("%s sends %s %d after %d: ids are left out", g.name, kindOf(h), h.MessageID, t.id)
	case !h.IsResponse() && !t.answered:
		s.failf("%s sends request %d while %d is not answered: the window is one", g.name, h.MessageID, t.id)
	}
	if !t.made || t.id != h.MessageID {
		*t = transmission{made: true, id: h.MessageID, parts: map[uint16][32]byte{}}
	}
	t.parts[part] = sum
}

// checkIV looks at the explicit IV, which with GCM must never come twice under
// one key; it returns the fragment number, 0 for a whole message.
func (w *wireWatch) checkIV(g *gateway, f *flow, h wire.Header, data []byte, sum [32]byte) (part uint16) {
	at := 32
	switch wire.PayloadType(data[16]) {
	case wire.PayloadSKF:
		part, at = binary.BigEndian.Uint16(data[32:]), 36
	case wire.PayloadSK:
	default:
		return 0
	}
	iv := binary.BigEndian.Uint64(data[at:])
	if had, ok := f.ivs[iv]; ok && had != sum {
		g.s.failf("%s uses the IV %d for two messages of one key", g.name, iv)
	}
	f.ivs[iv] = sum
	return part
}

// deliver sees a message that reaches a session.
func (w *wireWatch) deliver(g *gateway, x *session, h wire.Header, data []byte) {
	g.s.tracef("%s#%d gets %s %s %d", g.name, x.m.ID(), h.Exchange, kindOf(h), h.MessageID)
	if !h.IsResponse() || wire.PayloadType(data[16]) == wire.PayloadNotify && h.Exchange != wire.ExchangeIKESAInit {
		return
	}
	if f := w.flows[keyOf(h, g.index)]; f != nil && f.request.made && f.request.id == h.MessageID && !f.request.answered {
		f.request.answered = true
		g.s.res.Exchanges++
	}
}

// step sees the actions of a whole step: a request that was answered before must
// be answered again, at once.
func (w *wireWatch) step(x *session, acts []sa.Action) {
	data := x.delivered
	if data == nil {
		return
	}
	h, err := wire.ParseHeader(data)
	if err != nil || h.IsResponse() || h.Exchange == wire.ExchangeIKESAInit {
		return
	}
	if wire.PayloadType(data[16]) == wire.PayloadSKF && binary.BigEndian.Uint16(data[32:]) != 1 {
		return // of a request in fragments the first asks for the answer (RFC 7383 2.6.1)
	}
	f := w.flows[keyOf(h, x.g.index)]
	if f == nil || !f.response.made || f.response.id != h.MessageID || len(f.response.parts) > 1 {
		return
	}
	if _, whole := f.response.parts[0]; !whole {
		return // a crash came between its fragments
	}
	if q := w.flow(keyOf(h, 1-x.g.index)).request; q.id != h.MessageID {
		return // late: the peer has gone on, so it has the answer
	}
	if !slices.ContainsFunc(acts, func(a sa.Action) bool {
		m, ok := a.(sa.Send)
		return ok && sha256.Sum256(m.Data) == f.response.parts[0]
	}) {
		x.g.s.failf("%s#%d does not answer the repeated request %d", x.g.name, x.m.ID(), h.MessageID)
	}
}

func kindOf(h wire.Header) string {
	if h.IsResponse() {
		return "response"
	}
	return "request"
}
