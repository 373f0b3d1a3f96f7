package wire

import "encoding/binary"

// KE is the Key Exchange payload (RFC 7296 3.4; RFC 9370 for further exchanges).
type KE struct {
	Method KEMethod
	Data   []byte // public value, or KEM public key or ciphertext; its length is the method's to check
}

// Type is PayloadKE.
func (p *KE) Type() PayloadType { return PayloadKE }

// AppendBody appends method, reserved octets and data.
func (p *KE) AppendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(p.Method))
	return append(append(b, 0, 0), p.Data...)
}

func (p *KE) bodyLen() int { return 4 + len(p.Data) }

func parseKE(r reader) (*KE, error) {
	if err := r.need(4, "a key exchange method and reserved field"); err != nil {
		return nil, err
	}
	return &KE{Method: KEMethod(binary.BigEndian.Uint16(r.take(4))), Data: r.b}, nil
}
