package wire

// Cert is the Certificate payload (RFC 7296 3.6).
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// Type is PayloadCert.
func (p *Cert) Type() PayloadType { return PayloadCert }

// AppendBody appends encoding and data.
func (p *Cert) AppendBody(b []byte) []byte { return append(append(b, byte(p.Encoding)), p.Data...) }

func (p *Cert) bodyLen() int { return 1 + len(p.Data) }

func parseCert(r reader) (*Cert, error) {
	if err := r.need(1, "a certificate encoding"); err != nil {
		return nil, err
	}
	return &Cert{Encoding: CertEncoding(r.take(1)[0]), Data: r.b}, nil
}
