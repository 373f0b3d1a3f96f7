package wire

import "encoding/binary"

// EAP is the Extensible Authentication payload (RFC 7296 3.16): one EAP packet (RFC 3748 section 4). AppendBody gives
// the packet as EAP has it, length included.
type EAP struct {
	Code       EAPCode
	Identifier uint8
	EAPType    EAPType // zero where the packet has none: success and failure
	Data       []byte  // what follows the type
}

// Type is PayloadEAP.
func (p *EAP) Type() PayloadType { return PayloadEAP }

// AppendBody appends the EAP packet.
func (p *EAP) AppendBody(b []byte) []byte {
	b = append(b, byte(p.Code), p.Identifier)
	b = binary.BigEndian.AppendUint16(b, uint16(p.bodyLen()))
	if p.hasType() {
		b = append(append(b, byte(p.EAPType)), p.Data...)
	}
	return b
}

// hasType reports whether type and data follow the packet's length.
func (p *EAP) hasType() bool {
	switch p.Code {
	case EAPSuccess, EAPFailure:
		return false
	case EAPRequest, EAPResponse:
		return true
	}
	return p.EAPType != 0 || len(p.Data) > 0
}

func (p *EAP) bodyLen() int {
	if p.hasType() {
		return 5 + len(p.Data)
	}
	return 4
}

func parseEAP(r reader) (*EAP, error) {
	if err := r.need(4, "an EAP packet header"); err != nil {
		return nil, err
	}
	if n := int(binary.BigEndian.Uint16(r.b[2:])); n != len(r.b) {
		return nil, r.failAt(2, "an EAP length of "+itoa(len(r.b))+", the payload's", itoa(n))
	}
	h := r.take(4)
	p := &EAP{Code: EAPCode(h[0]), Identifier: h[1]}
	switch p.Code {
	case EAPSuccess, EAPFailure:
		if len(r.b) != 0 {
			return nil, r.fail("the end of an EAP "+p.Code.String(), octets(len(r.b))+" more")
		}
		return p, nil
	case EAPRequest, EAPResponse:
		if err := r.need(1, "an EAP type"); err != nil {
			return nil, err
		}
	}
	if len(r.b) > 0 {
		p.EAPType = EAPType(r.take(1)[0])
		p.Data = r.b
	}
	return p, nil
}
