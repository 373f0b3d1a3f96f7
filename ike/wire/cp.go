package wire

import "encoding/binary"

// MaxCfgAttributes is the most attributes a CP payload may have.
const MaxCfgAttributes = 256

// CP is the Configuration payload (RFC 7296 3.15).
type CP struct {
	CfgType    CfgType
	Attributes []CfgAttribute
}

// CfgAttribute is one attribute of a CP payload (RFC 7296 3.15.1). An empty value in a request asks for any.
type CfgAttribute struct {
	Type  CfgAttr // 0 to 32767
	Value []byte
}

// Type is PayloadCP.
func (p *CP) Type() PayloadType { return PayloadCP }

// AppendBody appends type, reserved octets and attributes.
func (p *CP) AppendBody(b []byte) []byte {
	b = append(b, byte(p.CfgType), 0, 0, 0)
	for _, a := range p.Attributes {
		b = binary.BigEndian.AppendUint16(b, uint16(a.Type)&0x7fff)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(b, a.Value...)
	}
	return b
}

func (p *CP) bodyLen() int {
	n := 4
	for _, a := range p.Attributes {
		n += 4 + len(a.Value)
	}
	return n
}

func parseCP(r reader) (*CP, error) {
	if err := r.need(4, "a configuration type and reserved field"); err != nil {
		return nil, err
	}
	p := &CP{CfgType: CfgType(r.take(4)[0])}
	n := 0
	for b := r.b; len(b) >= 4; n++ {
		l := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if l > len(b) {
			break
		}
		b = b[l:]
	}
	if n > MaxCfgAttributes {
		return nil, r.fail("at most "+itoa(MaxCfgAttributes)+" attributes", itoa(n))
	}
	if n > 0 {
		p.Attributes = make([]CfgAttribute, 0, n)
	}
	for len(r.b) > 0 {
		if err := r.need(4, "an attribute header"); err != nil {
			return nil, err
		}
		h := r.take(4)
		// The upper bit is reserved, and ignored when received.
		a := CfgAttribute{Type: CfgAttr(binary.BigEndian.Uint16(h) & 0x7fff)}
		l := int(binary.BigEndian.Uint16(h[2:]))
		if err := r.need(l, "a value of "+a.Type.String()); err != nil {
			return nil, err
		}
		a.Value = r.take(l)
		p.Attributes = append(p.Attributes, a)
	}
	return p, nil
}
