package wire

// ID is the Identification payload (RFC 7296 3.5): IDi with Initiator set, else IDr.
type ID struct {
	Initiator bool
	IDType    IDType
	Reserved  [3]byte // zero when sent; kept when received, since AUTH covers it (RFC 7296 2.15)
	Data      []byte  // by IDType: 4 octets, a name without terminator, 16 octets, DER, or opaque
}

// Type is PayloadIDi or PayloadIDr.
func (p *ID) Type() PayloadType {
	if p.Initiator {
		return PayloadIDi
	}
	return PayloadIDr
}

// AppendBody appends type, reserved octets and data.
func (p *ID) AppendBody(b []byte) []byte {
	return append(append(append(b, byte(p.IDType)), p.Reserved[:]...), p.Data...)
}

// RestOfID returns a fresh copy of the payload without its generic header, as it was sent: the RestOfInitIDPayload or
// RestOfRespIDPayload over which AUTH is computed (RFC 7296 2.15).
func (p *ID) RestOfID() []byte { return p.AppendBody(make([]byte, 0, p.bodyLen())) }

func (p *ID) bodyLen() int { return 4 + len(p.Data) }

func parseID(r reader) (*ID, error) {
	if err := r.need(4, "an identification type and reserved field"); err != nil {
		return nil, err
	}
	p := &ID{Initiator: r.payload == PayloadIDi}
	h := r.take(4)
	p.IDType = IDType(h[0])
	copy(p.Reserved[:], h[1:])
	p.Data = r.b
	want := -1
	switch p.IDType {
	case IDIPv4Addr:
		want = 4
	case IDIPv6Addr:
		want = 16
	case IDNull:
		want = 0
	}
	if want >= 0 && len(p.Data) != want {
		return nil, r.fail(p.IDType.String()+" data of "+octets(want), octets(len(p.Data)))
	}
	return p, nil
}
