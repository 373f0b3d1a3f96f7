package wire

// CertReq is the Certificate Request payload (RFC 7296 3.7).
type CertReq struct {
	Encoding CertEncoding
	Data     []byte // for CertX509Signature a row of 20-octet SHA-1 hashes of CA public keys; may be empty
}

// Type is PayloadCertReq.
func (p *CertReq) Type() PayloadType { return PayloadCertReq }

// AppendBody appends encoding and data.
func (p *CertReq) AppendBody(b []byte) []byte {
	return append(append(b, byte(p.Encoding)), p.Data...)
}

func (p *CertReq) bodyLen() int { return 1 + len(p.Data) }

func parseCertReq(r reader) (*CertReq, error) {
	if err := r.need(1, "a certificate encoding"); err != nil {
		return nil, err
	}
	return &CertReq{Encoding: CertEncoding(r.take(1)[0]), Data: r.b}, nil
}
