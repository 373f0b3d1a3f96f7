package wire

import (
	"encoding/binary"
	"iter"
	"slices"
)

// Message is a parsed IKE message: its header and its clear payloads, of which the last may be an *SK or *SKF.
type Message struct {
	Header
	Payloads []Payload
}

// ParseMessage parses one datagram (without the four zero octets of the non-ESP marker). Errors are
// *[InvalidMajorVersion] for a major version other than 2, *[UnsupportedCriticalPayload], and *[SyntaxError] for all
// else: a length field that is not len(b), and payloads that break the format. An SK or SKF payload must be the last
// (RFC 7296 3.14) and is not opened here.
func ParseMessage(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if h.MajorVersion() != 2 {
		return nil, &InvalidMajorVersion{Major: h.Version >> 4, Minor: h.Version & 15}
	}
	if uint64(h.Length) != uint64(len(b)) {
		return nil, &SyntaxError{Payload: PayloadNone, Offset: 24,
			Expected: "a length of " + itoa(len(b)) + " as received", Got: utoa(h.Length)}
	}
	ps, err := parseChain(h.Next, b, HeaderLen, true)
	if err != nil {
		return nil, err
	}
	return &Message{Header: h, Payloads: ps}, nil
}

// SK returns the message's Encrypted payload, if it has one.
func (m *Message) SK() (*SK, bool) { return First[*SK](m.lastOnly()) }

// SKF returns the message's Encrypted Fragment payload, if it has one.
func (m *Message) SKF() (*SKF, bool) { return First[*SKF](m.lastOnly()) }

// Clear returns the payloads that come unprotected: all but a final SK or SKF.
func (m *Message) Clear() []Payload {
	n := len(m.Payloads)
	if n > 0 {
		if t := m.Payloads[n-1].Type(); t == PayloadSK || t == PayloadSKF {
			n--
		}
	}
	return m.Payloads[:n]
}

func (m *Message) lastOnly() []Payload {
	if n := len(m.Payloads); n > 0 {
		return m.Payloads[n-1:]
	}
	return nil
}

// AppendMessage appends a whole message to b: the header h, with Next and Length set from the payloads, then the
// payloads. It returns nil if a payload is longer than 65535 octets, which only local data can be.
func AppendMessage(b []byte, h Header, payloads []Payload) []byte {
	start := len(b)
	h.Next = firstType(payloads)
	b = slices.Grow(b, HeaderLen+chainLen(payloads))
	b = AppendPayloads(h.Append(b), payloads)
	if b == nil {
		return nil
	}
	binary.BigEndian.PutUint32(b[start+24:], uint32(len(b)-start))
	return b
}

// First returns the first payload of the Go type T: First[*Nonce](ps). For ID and TS, which each serve two payload
// types, see [FindID] and [FindTS].
func First[T Payload](ps []Payload) (T, bool) {
	for _, p := range ps {
		if t, ok := p.(T); ok {
			return t, true
		}
	}
	var none T
	return none, false
}

// All yields the payloads of the Go type T in the order they came: All[*Cert](ps).
func All[T Payload](ps []Payload) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, p := range ps {
			if t, ok := p.(T); ok && !yield(t) {
				return
			}
		}
	}
}

// FindNotify returns the first Notify payload of the given type.
func FindNotify(ps []Payload, t NotifyType) (*Notify, bool) {
	for n := range All[*Notify](ps) {
		if n.NotifyType == t {
			return n, true
		}
	}
	return nil, false
}

// FindError returns the first Notify payload that is an error (type below 16384).
func FindError(ps []Payload) (*Notify, bool) {
	for n := range All[*Notify](ps) {
		if n.NotifyType.IsError() {
			return n, true
		}
	}
	return nil, false
}

// FindID returns the first IDi (initiator) or IDr payload.
func FindID(ps []Payload, initiator bool) (*ID, bool) {
	for p := range All[*ID](ps) {
		if p.Initiator == initiator {
			return p, true
		}
	}
	return nil, false
}

// FindTS returns the first TSi (initiator) or TSr payload.
func FindTS(ps []Payload, initiator bool) (*TS, bool) {
	for p := range All[*TS](ps) {
		if p.Initiator == initiator {
			return p, true
		}
	}
	return nil, false
}
