package wire

import "encoding/binary"

// Delete is the Delete payload (RFC 7296 3.11). For the IKE SA itself SPISize is 0 and SPIs empty; for AH and ESP
// SPISize is 4 and SPIs are those under which the sender receives.
type Delete struct {
	Protocol ProtocolID
	SPISize  uint8
	SPIs     []byte // Count() SPIs of SPISize octets each, end to end
}

// NewDelete makes the payload that deletes the child SAs of protocol AH or ESP with the given inbound SPIs (at most
// 16382), or, for ProtoIKE and without SPIs, the IKE SA.
func NewDelete(protocol ProtocolID, spis ...uint32) *Delete {
	d := &Delete{Protocol: protocol}
	if len(spis) > 0 {
		d.SPISize = 4
		d.SPIs = make([]byte, 0, 4*len(spis))
	}
	for _, s := range spis {
		d.SPIs = binary.BigEndian.AppendUint32(d.SPIs, s)
	}
	return d
}

// Count is the number of SPIs.
func (p *Delete) Count() int {
	if p.SPISize == 0 {
		return 0
	}
	return len(p.SPIs) / int(p.SPISize)
}

// SPI is the SPI with index i from 0 to Count()-1, SPISize octets long.
func (p *Delete) SPI(i int) []byte {
	n := int(p.SPISize)
	return p.SPIs[i*n : (i+1)*n : (i+1)*n]
}

// Type is PayloadDelete.
func (p *Delete) Type() PayloadType { return PayloadDelete }

// AppendBody appends protocol, SPI size, count and SPIs.
func (p *Delete) AppendBody(b []byte) []byte {
	b = append(b, byte(p.Protocol), p.SPISize)
	b = binary.BigEndian.AppendUint16(b, uint16(p.Count()))
	return append(b, p.SPIs...)
}

func (p *Delete) bodyLen() int { return 4 + len(p.SPIs) }

func parseDelete(r reader) (*Delete, error) {
	if err := r.need(4, "protocol, SPI size and number of SPIs"); err != nil {
		return nil, err
	}
	h := r.take(4)
	p := &Delete{Protocol: ProtocolID(h[0]), SPISize: h[1], SPIs: r.b}
	want, ok := "", true
	switch p.Protocol {
	case ProtoIKE:
		want, ok = "0", p.SPISize == 0
	case ProtoAH, ProtoESP:
		want, ok = "4", p.SPISize == 4
	}
	if !ok {
		return nil, r.failAt(-3, "an SPI size of "+want+" for "+p.Protocol.String(), itoa(int(p.SPISize)))
	}
	n := int(binary.BigEndian.Uint16(h[2:]))
	if p.SPISize == 0 && n != 0 {
		return nil, r.failAt(-2, "no SPIs where their size is 0", itoa(n))
	}
	if n*int(p.SPISize) != len(r.b) {
		return nil, r.fail(itoa(n)+" SPIs of "+octets(int(p.SPISize)), octets(len(r.b))+" in all")
	}
	return p, nil
}
