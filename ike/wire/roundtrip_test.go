package wire

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
)

// gen makes random payloads in the form that parsing gives them.
type gen struct{ *rand.Rand }

func (g gen) bytes(least, most int) []byte {
	b := make([]byte, least+g.IntN(most-least+1))
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// spi is nil where empty, as parsing has it.
func (g gen) spi(n int) []byte {
	if n == 0 {
		return nil
	}
	return g.bytes(n, n)
}

func (g gen) transform() Transform {
	t := Transform{Type: TransformType(g.IntN(15)), ID: uint16(g.Uint32())}
	for range g.IntN(3) {
		a := Attribute{Type: AttributeType(g.IntN(1 << 15))}
		if g.IntN(4) == 0 {
			a.Data = g.bytes(0, 9)
		} else {
			a.Value = uint16(g.Uint32())
		}
		t.Attributes = append(t.Attributes, a)
	}
	return t
}

func (g gen) sa() *SA {
	sa := &SA{}
	for i := range 1 + g.IntN(4) {
		p := Proposal{Number: uint8(i + 1), Protocol: ProtocolID(1 + g.IntN(6))}
		switch p.Protocol {
		case ProtoAH, ProtoESP:
			p.SPI = g.spi(4)
		case ProtoIKE:
			p.SPI = g.spi(8 * g.IntN(2))
		default:
			p.SPI = g.spi(g.IntN(9))
		}
		for range g.IntN(8) {
			p.Transforms = append(p.Transforms, g.transform())
		}
		sa.Proposals = append(sa.Proposals, p)
	}
	return sa
}

func (g gen) id() *ID {
	p := &ID{Initiator: g.IntN(2) == 0, IDType: IDType(g.IntN(15)), Data: g.bytes(0, 30)}
	copy(p.Reserved[:], g.bytes(3, 3))
	switch p.IDType {
	case IDIPv4Addr:
		p.Data = g.bytes(4, 4)
	case IDIPv6Addr:
		p.Data = g.bytes(16, 16)
	case IDNull:
		p.Data = []byte{}
	}
	return p
}

func (g gen) selector() TrafficSelector {
	n := 4
	switch g.IntN(5) {
	case 0:
		return TrafficSelector{TSType: TSType(9 + g.IntN(200)), Protocol: uint8(g.Uint32()), Raw: g.bytes(0, 20)}
	case 1, 2:
		n = 16
	}
	a, _ := netip.AddrFromSlice(g.bytes(n, n))
	b, _ := netip.AddrFromSlice(g.bytes(n, n))
	if b.Less(a) {
		a, b = b, a
	}
	p, q := uint16(g.Uint32()), uint16(g.Uint32())
	p, q = min(p, q), max(p, q)
	if g.IntN(4) == 0 {
		p, q = 0xffff, 0
	}
	return NewTrafficSelector(uint8(g.Uint32()), a, b, p, q)
}

func (g gen) payload() Payload {
	switch g.IntN(15) {
	case 0:
		return g.sa()
	case 1:
		return &KE{Method: KEMethod(g.Uint32()), Data: g.bytes(0, 300)}
	case 2:
		return g.id()
	case 3:
		return &Cert{Encoding: CertEncoding(g.Uint32()), Data: g.bytes(0, 400)}
	case 4:
		return &CertReq{Encoding: CertEncoding(g.Uint32()), Data: g.bytes(0, 60)}
	case 5:
		return &Auth{Method: AuthMethod(g.Uint32()), Data: g.bytes(0, 100)}
	case 6:
		return &Nonce{Data: g.bytes(MinNonce, MaxNonce)}
	case 7:
		return &Notify{Protocol: ProtocolID(g.Uint32()), SPI: g.spi(g.IntN(9)), NotifyType: NotifyType(g.Uint32()), Data: g.bytes(0, 40)}
	case 8:
		n := g.IntN(5)
		return &Delete{Protocol: ProtoESP, SPISize: 4, SPIs: g.bytes(4*n, 4*n)}
	case 9:
		return &VendorID{Data: g.bytes(0, 20)}
	case 10:
		ts := &TS{Initiator: g.IntN(2) == 0}
		for range 1 + g.IntN(6) {
			ts.Selectors = append(ts.Selectors, g.selector())
		}
		return ts
	case 11:
		cp := &CP{CfgType: CfgType(g.Uint32())}
		for range g.IntN(6) {
			cp.Attributes = append(cp.Attributes, CfgAttribute{Type: CfgAttr(g.IntN(1 << 15)), Value: g.bytes(0, 20)})
		}
		return cp
	case 12:
		if code := EAPCode(1 + g.IntN(4)); code == EAPSuccess || code == EAPFailure {
			return &EAP{Code: code, Identifier: uint8(g.Uint32())}
		}
		return &EAP{Code: EAPResponse, Identifier: uint8(g.Uint32()), EAPType: EAPType(g.Uint32()), Data: g.bytes(0, 50)}
	case 13:
		return &Delete{Protocol: ProtoIKE, SPIs: []byte{}}
	}
	return &Unknown{PayloadType: PayloadType(60 + g.IntN(196)), Body: g.bytes(0, 30)}
}

func (g gen) header() Header {
	return Header{SPIi: SPI(g.Uint64()), SPIr: SPI(g.Uint64()), Version: Version2 | uint8(g.IntN(16)),
		Exchange: ExchangeType(g.Uint32()), Flags: Flags(g.Uint32()), MessageID: g.Uint32()}
}

// TestRoundTrip appends random messages and wants parsing to give back what was written.
func TestRoundTrip(t *testing.T) {
	g := gen{rand.New(rand.NewPCG(7296, 1))}
	kinds := map[PayloadType]int{}
	for i := range 5000 {
		ps := make([]Payload, g.IntN(12))
		for i := range ps {
			ps[i] = g.payload()
			kinds[ps[i].Type()]++
			if n := len(ps[i].AppendBody(nil)); n != ps[i].(sized).bodyLen() {
				t.Fatalf("%s: bodyLen %d, body of %d octets", ps[i].Type(), ps[i].(sized).bodyLen(), n)
			}
		}
		switch g.IntN(4) {
		case 0:
			ps = append(ps, &SK{First: PayloadType(g.Uint32()), Body: g.bytes(0, 100)})
		case 1:
			total := 1 + g.IntN(MaxFragments)
			ps = append(ps, &SKF{First: PayloadType(g.Uint32()), FragmentNumber: uint16(1 + g.IntN(total)),
				TotalFragments: uint16(total), Body: g.bytes(0, 100)})
		}
		h := g.header()
		b := AppendMessage(nil, h, ps)
		if len(b) != HeaderLen+chainLen(ps) {
			t.Fatalf("message %d: %d octets, foreseen %d", i, len(b), HeaderLen+chainLen(ps))
		}
		m, err := ParseMessage(b)
		if err != nil {
			t.Fatalf("message %d: %v\n%x", i, err, b)
		}
		h.Next, h.Length = firstType(ps), uint32(len(b))
		if m.Header != h {
			t.Fatalf("message %d: header %+v, want %+v", i, m.Header, h)
		}
		if !reflect.DeepEqual(m.Payloads, ps) {
			t.Fatalf("message %d: got %+v, want %+v", i, m.Payloads, ps)
		}
	}
	for _, p := range []PayloadType{PayloadSA, PayloadKE, PayloadIDi, PayloadIDr, PayloadCert, PayloadCertReq, PayloadAuth,
		PayloadNonce, PayloadNotify, PayloadDelete, PayloadVendorID, PayloadTSi, PayloadTSr, PayloadCP, PayloadEAP} {
		if kinds[p] < 100 {
			t.Errorf("only %d %s payloads", kinds[p], p)
		}
	}
}

// TestMutations changes, doubles and cuts octets of random messages: parsing ends without panic, and what parses is
// written and read again to the same.
func TestMutations(t *testing.T) {
	g := gen{rand.New(rand.NewPCG(7296, 2))}
	parsed := 0
	for range 20000 {
		ps := make([]Payload, 1+g.IntN(5))
		for i := range ps {
			ps[i] = g.payload()
		}
		b := AppendMessage(nil, g.header(), ps)
		for range 1 + g.IntN(4) {
			i := HeaderLen + g.IntN(len(b)-HeaderLen+1)
			switch g.IntN(3) {
			case 0:
				if i < len(b) {
					b[i] ^= 1 << g.IntN(8)
				}
			case 1:
				j := i + g.IntN(len(b)-i+1)
				b = append(b[:i:i], append(bytes.Clone(b[i:j]), b[i:]...)...)
			case 2:
				b = append(b[:i:i], b[i+g.IntN(len(b)-i+1):]...)
			}
		}
		b[26], b[27] = byte(len(b)>>8), byte(len(b))
		if checkMessage(t, b) {
			parsed++
		}
	}
	if parsed < 500 {
		t.Errorf("only %d mutated messages parsed: the test checks too little", parsed)
	}
}

// checkMessage wants a message that parses to be written and read again to the same; it reports whether it parses.
func checkMessage(t *testing.T, b []byte) bool {
	t.Helper()
	m, err := ParseMessage(b)
	if err != nil {
		if m != nil || err.Error() == "" {
			t.Fatalf("got %v and error %q", m, err)
		}
		return false
	}
	again := AppendMessage(nil, m.Header, m.Payloads)
	if len(again) != len(b) {
		t.Fatalf("%d octets written, %d read", len(again), len(b))
	}
	m2, err := ParseMessage(again)
	if err != nil {
		t.Fatalf("what was written does not parse: %v", err)
	}
	if !reflect.DeepEqual(m, m2) {
		t.Fatalf("first read %+v, then %+v", m, m2)
	}
	return true
}

// checkChain is checkMessage for a decrypted chain.
func checkChain(t *testing.T, first PayloadType, b []byte) {
	t.Helper()
	ps, err := ParsePayloads(first, b)
	if err != nil {
		if ps != nil || err.Error() == "" {
			t.Fatalf("got %v and error %q", ps, err)
		}
		return
	}
	again := AppendPayloads(nil, ps)
	if len(again) != len(b) {
		t.Fatalf("%d octets written, %d read", len(again), len(b))
	}
	ps2, err := ParsePayloads(first, again)
	if err != nil {
		t.Fatalf("what was written does not parse: %v", err)
	}
	if !reflect.DeepEqual(ps, ps2) {
		t.Fatalf("first read %+v, then %+v", ps, ps2)
	}
}
