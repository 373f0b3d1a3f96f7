package wire

// Auth is the Authentication payload (RFC 7296 3.8).
type Auth struct {
	Method AuthMethod
	Data   []byte // for AuthDigitalSignature as RFC 7427 section 3 has it: length octet, AlgorithmIdentifier, signature
}

// Type is PayloadAuth.
func (p *Auth) Type() PayloadType { return PayloadAuth }

// AppendBody appends method, reserved octets and data.
func (p *Auth) AppendBody(b []byte) []byte {
	return append(append(b, byte(p.Method), 0, 0, 0), p.Data...)
}

func (p *Auth) bodyLen() int { return 4 + len(p.Data) }

func parseAuth(r reader) (*Auth, error) {
	if err := r.need(4, "an authentication method and reserved field"); err != nil {
		return nil, err
	}
	return &Auth{Method: AuthMethod(r.take(4)[0]), Data: r.b}, nil
}
