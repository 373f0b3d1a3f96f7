package wire

import "encoding/binary"

// Notify is the Notify payload (RFC 7296 3.10).
type Notify struct {
	Protocol   ProtocolID // of the SA that SPI names; zero when SPI is empty
	SPI        []byte     // at most 255 octets; parsing takes any length
	NotifyType NotifyType
	Data       []byte
}

// Type is PayloadNotify.
func (p *Notify) Type() PayloadType { return PayloadNotify }

// AppendBody appends protocol, SPI size, type, SPI and data.
func (p *Notify) AppendBody(b []byte) []byte {
	b = append(b, byte(p.Protocol), byte(len(p.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.NotifyType))
	return append(append(b, p.SPI...), p.Data...)
}

func (p *Notify) bodyLen() int { return 4 + len(p.SPI) + len(p.Data) }

func parseNotify(p *Notify, r reader) (*Notify, error) {
	if err := r.need(4, "protocol, SPI size and notification type"); err != nil {
		return nil, err
	}
	h := r.take(4)
	p.Protocol, p.NotifyType = ProtocolID(h[0]), NotifyType(binary.BigEndian.Uint16(h[2:]))
	if n := int(h[1]); n > 0 {
		if err := r.need(n, "a "+p.NotifyType.String()+" SPI"); err != nil {
			return nil, err
		}
		p.SPI = r.take(n)
	}
	p.Data = r.b
	return p, nil
}
