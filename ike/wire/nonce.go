package wire

// Bounds of a nonce in octets (RFC 7296 3.9).
const (
	MinNonce = 16
	MaxNonce = 256
)

// Nonce is the Nonce payload (RFC 7296 3.9). Parsing wants MinNonce to MaxNonce octets; that a nonce has at least half
// the PRF's key size (2.10) is for the suite to check.
type Nonce struct {
	Data []byte
}

// Type is PayloadNonce.
func (p *Nonce) Type() PayloadType { return PayloadNonce }

// AppendBody appends the nonce; its length is the caller's duty.
func (p *Nonce) AppendBody(b []byte) []byte { return append(b, p.Data...) }

func (p *Nonce) bodyLen() int { return len(p.Data) }

func parseNonce(r reader) (*Nonce, error) {
	if n := len(r.b); n < MinNonce || n > MaxNonce {
		return nil, r.fail("a nonce of 16 to 256 octets", octets(n))
	}
	return &Nonce{Data: r.b}, nil
}
