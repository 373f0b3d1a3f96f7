package sa_test

import (
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// forger lets a test speak in a node's place, with the keys of its sessions.
type forger struct{ sealed uint64 }

// sealer is the sender's, with counters that no machine of a test reaches.
func (f *forger) sealer(k *sa.IKE) suite.Sealer {
	enc, integ := k.Keys.Ei, k.Keys.Ai
	if !k.Initiator {
		enc, integ = k.Keys.Er, k.Keys.Ar
	}
	f.sealed++
	return satest.Must(suite.NewSealer(k.Chosen, enc, integ, 1<<40+f.sealed<<10))
}

// rewrite changes the payloads of a message that a node sends; the message as it
// is when it cannot be read any more.
func (f *forger) rewrite(from *satest.Node, data []byte, change func([]wire.Payload) []wire.Payload) []byte {
	msg := satest.Must(wire.ParseMessage(data))
	if _, ok := msg.SK(); !ok {
		return wire.AppendMessage(nil, msg.Header, change(msg.Payloads))
	}
	k := keysOf(from, msg)
	if k == nil {
		return data
	}
	enc, integ := k.Keys.Ei, k.Keys.Ai
	if !k.Initiator {
		enc, integ = k.Keys.Er, k.Keys.Ar
	}
	opener := satest.Must(suite.NewOpener(k.Chosen, enc, integ))
	first, inner, err := wire.OpenInner(append([]byte(nil), data...), msg, opener)
	if err != nil {
		return data
	}
	ps := satest.Must(wire.ParsePayloads(first, append([]byte(nil), inner...)))
	return satest.Must(wire.AppendEncrypted(nil, msg.Header, change(ps), f.sealer(k)))
}

// say makes a request or response of the node's session.
func (f *forger) say(k *sa.IKE, ex wire.ExchangeType, id uint32, response bool, ps ...wire.Payload) []byte {
	h := wire.Header{SPIi: k.SPIi, SPIr: k.SPIr, Exchange: ex, MessageID: id}
	if k.Initiator {
		h.Flags |= wire.FlagInitiator
	}
	if response {
		h.Flags |= wire.FlagResponse
	}
	return satest.Must(wire.AppendEncrypted(nil, h, ps, f.sealer(k)))
}

// answerOnce replaces a node's first answer of an exchange by payloads.
func (f *forger) answerOnce(w *satest.World, n *satest.Node, ex wire.ExchangeType, change func([]wire.Payload) []wire.Payload) *bool {
	done := new(bool)
	w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		if !*done && p.From.Addr() == n.Addr && h.Exchange == ex && h.IsResponse() {
			*done = true
			p.Data = f.rewrite(n, p.Data, change)
		}
		return []satest.Packet{p}
	}
	return done
}

func notify(t wire.NotifyType, data ...byte) wire.Payload {
	return &wire.Notify{NotifyType: t, Data: data}
}

// only answers with nothing but these.
func only(ps ...wire.Payload) func([]wire.Payload) []wire.Payload {
	return func([]wire.Payload) []wire.Payload { return ps }
}

// refuseChild replaces what an IKE_AUTH answer says of the child by a notify.
func refuseChild(t wire.NotifyType) func([]wire.Payload) []wire.Payload {
	return func(ps []wire.Payload) (out []wire.Payload) {
		for _, p := range ps {
			switch p.(type) {
			case *wire.SA, *wire.TS:
				continue
			}
			out = append(out, p)
		}
		return append(out, notify(t))
	}
}
