package wire

import (
	"encoding/binary"
	"strconv"
)

// Bounds of what is parsed; beyond each, parsing ends with a *[SyntaxError]. A peer that keeps to RFC 7296 stays far
// below them: the largest messages seen carry some thirty payloads and a dozen proposals.
const (
	MaxPayloads   = 64   // payloads a chain (clear and decrypted are two chains)
	MaxProposals  = 64   // proposals an SA payload
	MaxTransforms = 255  // transforms a proposal: the count is one octet
	MaxAttributes = 16   // attributes a transform (only Key Length is defined for the transforms of IKE and ESP)
	MaxSelectors  = 255  // traffic selectors a TS payload: the count is one octet
	MaxFragments  = 1024 // fragments a message (RFC 7383)
)

// genericLen is the length of the generic payload header (RFC 7296 3.2).
const genericLen = 4

// maxBody is the longest payload body that the 16-bit payload length can say.
const maxBody = 0xffff - genericLen

// criticalBit is the C bit of the generic payload header.
const criticalBit = 0x80

// Payload is one payload of a message. The implementations are pointers to this package's payload structs.
type Payload interface {
	// Type is the number under which the payload is announced by what stands before it.
	Type() PayloadType
	// AppendBody appends what follows the generic payload header to b.
	AppendBody(b []byte) []byte
}

// sized is a payload that knows the length of its body; all of this package do.
type sized interface{ bodyLen() int }

// Unknown is a payload of a type this codec doesn't know. Parsing yields it only without the critical bit, to be
// skipped (RFC 7296 2.5); Critical is there to build messages that a peer must refuse.
type Unknown struct {
	PayloadType PayloadType
	Critical    bool
	Body        []byte
}

// Type is the number the payload came with.
func (p *Unknown) Type() PayloadType { return p.PayloadType }

// AppendBody appends the body as it came.
func (p *Unknown) AppendBody(b []byte) []byte { return append(b, p.Body...) }

func (p *Unknown) bodyLen() int { return len(p.Body) }

// ParsePayloads parses a chain of payloads, the first of type first, that fills b exactly: what was inside an SK
// payload. SK and SKF are refused in it. See the package comment for aliasing, errors and offsets.
func ParsePayloads(first PayloadType, b []byte) ([]Payload, error) {
	return parseChain(first, b, 0, false)
}

// parser walks one chain.
type parser struct {
	b        []byte
	outer    bool // SK and SKF may come, as the last
	payloads []Payload
	notifies []Notify // room for all Notify payloads of the chain: often five and more
}

// count walks the chain's generic headers as far as they are sound, and says how many payloads and how many of them
// are Notify, so that both are allocated once. Every counted payload has at least four octets of input behind it.
func count(next PayloadType, b []byte, at int) (payloads, notifies int) {
	for next != PayloadNone && payloads < MaxPayloads && len(b)-at >= genericLen {
		n := int(binary.BigEndian.Uint16(b[at+2:]))
		if n < genericLen || n > len(b)-at {
			break
		}
		payloads++
		switch next {
		case PayloadNotify:
			notifies++
		case PayloadSK, PayloadSKF:
			return payloads, notifies
		}
		next = PayloadType(b[at])
		at += n
	}
	return payloads, notifies
}

// parseChain parses the payloads from b[at:] on. With outer, SK or SKF may end the chain.
func parseChain(next PayloadType, b []byte, at int, outer bool) ([]Payload, error) {
	n, notifies := count(next, b, at)
	p := parser{b: b, outer: outer, payloads: make([]Payload, 0, n)}
	if notifies > 0 {
		p.notifies = make([]Notify, notifies)
	}
	for next != PayloadNone {
		if len(p.payloads) == MaxPayloads {
			return nil, &SyntaxError{Payload: PayloadNone, Offset: at,
				Expected: "at most " + strconv.Itoa(MaxPayloads) + " payloads", Got: "one more, of type " + next.String()}
		}
		var err error
		if next, at, err = p.one(next, at); err != nil {
			return nil, err
		}
	}
	if at != len(b) {
		return nil, &SyntaxError{Payload: PayloadNone, Offset: at,
			Expected: "the end of the message after its last payload", Got: octets(len(b)-at) + " more"}
	}
	return p.payloads, nil
}

// one parses the payload of type t at offset at and returns the type and offset of the next.
func (p *parser) one(t PayloadType, at int) (PayloadType, int, error) {
	rest := len(p.b) - at
	if rest < genericLen {
		return 0, 0, &SyntaxError{Payload: t, Offset: at, Expected: "a payload header of 4 octets", Got: octets(rest)}
	}
	n := int(binary.BigEndian.Uint16(p.b[at+2:]))
	if n < genericLen || n > rest {
		return 0, 0, &SyntaxError{Payload: t, Offset: at + 2,
			Expected: "a payload length from 4 to the " + strconv.Itoa(rest) + " that are left", Got: strconv.Itoa(n)}
	}
	next, critical := PayloadType(p.b[at]), p.b[at+1]&criticalBit != 0
	body := reader{b: p.b[at+genericLen : at+n : at+n], at: at + genericLen, payload: t}
	pl, err := p.body(t, next, critical, body)
	if err != nil {
		return 0, 0, err
	}
	p.payloads = append(p.payloads, pl)
	if t == PayloadSK || t == PayloadSKF {
		if at+n != len(p.b) {
			return 0, 0, &SyntaxError{Payload: t, Offset: at + n,
				Expected: "the end of the message after it", Got: octets(len(p.b)-at-n) + " more"}
		}
		next = PayloadNone
	}
	return next, at + n, nil
}

// body parses the body r of a payload of type t; next is its generic header's next payload field.
func (p *parser) body(t, next PayloadType, critical bool, r reader) (Payload, error) {
	switch t {
	case PayloadSA:
		return parseSA(r)
	case PayloadKE:
		return parseKE(r)
	case PayloadIDi, PayloadIDr:
		return parseID(r)
	case PayloadCert:
		return parseCert(r)
	case PayloadCertReq:
		return parseCertReq(r)
	case PayloadAuth:
		return parseAuth(r)
	case PayloadNonce:
		return parseNonce(r)
	case PayloadNotify:
		n := &p.notifies[0]
		p.notifies = p.notifies[1:]
		return parseNotify(n, r)
	case PayloadDelete:
		return parseDelete(r)
	case PayloadVendorID:
		return &VendorID{Data: r.b}, nil
	case PayloadTSi, PayloadTSr:
		return parseTS(r)
	case PayloadCP:
		return parseCP(r)
	case PayloadEAP:
		return parseEAP(r)
	case PayloadSK, PayloadSKF:
		if !p.outer {
			return nil, &SyntaxError{Payload: t, Offset: r.at - genericLen,
				Expected: "no encrypted payload inside another", Got: t.String()}
		}
		if t == PayloadSK {
			return &SK{First: next, Body: r.b}, nil
		}
		return parseSKF(next, r)
	}
	if critical {
		return nil, &UnsupportedCriticalPayload{PayloadType: t, Offset: r.at - genericLen}
	}
	return &Unknown{PayloadType: t, Body: r.b}, nil
}

// AppendPayloads appends the chain of payloads to b, without an IKE header: what stands inside an SK payload. The
// last payload's next field is zero, an SK or SKF payload's is its First. It returns nil if a body exceeds the 65531
// octets that a payload length can say; only local data (a certificate, say) can be that long.
func AppendPayloads(b []byte, payloads []Payload) []byte {
	for i, p := range payloads {
		next := PayloadNone
		if i+1 < len(payloads) {
			next = payloads[i+1].Type()
		}
		var flags byte
		switch q := p.(type) {
		case *SK:
			next = q.First
		case *SKF:
			next = q.First
		case *Unknown:
			if q.Critical {
				flags = criticalBit
			}
		}
		at := len(b)
		b = p.AppendBody(append(b, byte(next), flags, 0, 0))
		n := len(b) - at
		if n > genericLen+maxBody {
			return nil
		}
		binary.BigEndian.PutUint16(b[at+2:], uint16(n))
	}
	return b
}

// chainLen is the length that AppendPayloads will add; payloads of foreign types count their header only.
func chainLen(payloads []Payload) int {
	n := 0
	for _, p := range payloads {
		n += genericLen
		if s, ok := p.(sized); ok {
			n += s.bodyLen()
		}
	}
	return n
}

// firstType is the type of the first payload, PayloadNone for an empty chain.
func firstType(payloads []Payload) PayloadType {
	if len(payloads) == 0 {
		return PayloadNone
	}
	return payloads[0].Type()
}
