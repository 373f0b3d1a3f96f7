package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// SK is the Encrypted and Authenticated payload (RFC 7296 3.14), still sealed.
type SK struct {
	First PayloadType // type of the first payload inside
	Body  []byte      // IV, ciphertext and ICV
}

// Type is PayloadSK.
func (p *SK) Type() PayloadType { return PayloadSK }

// AppendBody appends the sealed body.
func (p *SK) AppendBody(b []byte) []byte { return append(b, p.Body...) }

func (p *SK) bodyLen() int { return len(p.Body) }

// Sealer encrypts and authenticates a message with one direction's keys of an IKE SA.
type Sealer interface {
	IVLen() int    // octets of IV before the ciphertext, 0 and more
	ICVLen() int   // octets of ICV behind it, 0 and more
	BlockLen() int // plaintext, padding and pad length are a multiple of it; 1 for none
	// Seal works in place on one whole IKE message: msg[:aadLen] is the associated data (IKE header, clear payloads
	// and the header of the SK payload, or that of the SKF payload with its fragment numbers), msg[aadLen:] is IVLen
	// octets of room, plaintext, padding, the pad length octet, and ICVLen octets of room.
	Seal(msg []byte, aadLen int) error
}

// Opener authenticates and decrypts a message with the peer's keys of an IKE SA.
type Opener interface {
	IVLen() int  // as for Sealer
	ICVLen() int // as for Sealer
	// Open checks the ICV of msg in constant time and returns the plaintext with padding and pad length octet, in
	// place or in fresh memory. msg is laid out as for Sealer.Seal. Any error means that msg isn't authentic.
	Open(msg []byte, aadLen int) (plaintext []byte, err error)
}

// AppendEncrypted appends to b a message with header h whose payloads are all inside one SK payload, sealed by s.
// Next and Length of h are set here. Padding is the shortest that s allows, of zeros. The errors are those of s, and
// one that matches [ErrTooLong].
func AppendEncrypted(b []byte, h Header, payloads []Payload, s Sealer) ([]byte, error) {
	start := len(b)
	h.Next = PayloadSK
	size := HeaderLen + genericLen + sealedLen(chainLen(payloads), s)
	b = h.Append(slices.Grow(b, size))
	b = append(b, byte(firstType(payloads)), 0, 0, 0)
	aadLen := len(b) - start
	b = appendZeros(b, s.IVLen())
	if b = AppendPayloads(b, payloads); b == nil {
		return nil, tooLong("a payload", 0)
	}
	return finish(b, start, aadLen, s)
}

// finish pads and seals the message that starts at b[start] and has its encrypted payload right after the IKE header.
// Its plaintext ends b, its associated data are its first aadLen octets.
func finish(b []byte, start, aadLen int, s Sealer) ([]byte, error) {
	plain := len(b) - start - aadLen - s.IVLen()
	pad := padLen(plain, s.BlockLen())
	b = append(appendZeros(b, pad), byte(pad))
	b = appendZeros(b, s.ICVLen())
	msg := b[start:]
	if len(msg) > 0xffff {
		return nil, tooLong("an encrypted message", len(msg))
	}
	binary.BigEndian.PutUint32(msg[24:], uint32(len(msg)))
	binary.BigEndian.PutUint16(msg[HeaderLen+2:], uint16(len(msg)-HeaderLen))
	if err := s.Seal(msg, aadLen); err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	return b, nil
}

// padLen is the least padding that makes n octets, itself and the pad length octet a multiple of block.
func padLen(n, block int) int {
	if block <= 1 {
		return 0
	}
	return (block - (n+1)%block) % block
}

// sealedLen is the length of n octets of plaintext once sealed: IV, padding, pad length and ICV included.
func sealedLen(n int, s Sealer) int { return s.IVLen() + n + padLen(n, s.BlockLen()) + 1 + s.ICVLen() }

func appendZeros(b []byte, n int) []byte {
	for range n {
		b = append(b, 0)
	}
	return b
}

func tooLong(what string, n int) error {
	if n == 0 {
		return fmt.Errorf("%w: %s of more than 65535 octets", ErrTooLong, what)
	}
	return fmt.Errorf("%w: %s of %d octets, at most 65535", ErrTooLong, what, n)
}

// OpenEncrypted opens the SK payload of m, which was parsed from raw, with o, and parses the payloads inside; they
// alias what o returns. An error that matches [ErrIntegrity] says that the message isn't the peer's; others
// (*[SyntaxError], *[UnsupportedCriticalPayload]) come from its authenticated content. raw may be overwritten.
func OpenEncrypted(raw []byte, m *Message, o Opener) ([]Payload, error) {
	first, inner, err := OpenInner(raw, m, o)
	if err != nil {
		return nil, err
	}
	return ParsePayloads(first, inner)
}

// OpenInner is the first half of [OpenEncrypted]: it returns the decrypted chain of payloads without padding, and the
// type of its first, for [ParsePayloads] and for [AppendIntAuth].
func OpenInner(raw []byte, m *Message, o Opener) (first PayloadType, inner []byte, err error) {
	sk, ok := m.SK()
	if !ok {
		return 0, nil, &SyntaxError{Payload: PayloadNone, Offset: HeaderLen,
			Expected: "an SK payload", Got: "a message without one"}
	}
	inner, err = open(raw, len(sk.Body), PayloadSK, o)
	return sk.First, inner, err
}

// open opens the last bodyLen octets of raw and strips the padding.
func open(raw []byte, bodyLen int, t PayloadType, o Opener) ([]byte, error) {
	if least := o.IVLen() + o.ICVLen() + 1; bodyLen < least {
		return nil, fmt.Errorf("%w: %s payload: expected IV, ICV and pad length of %d octets, got %d",
			ErrIntegrity, t, least, bodyLen)
	}
	plain, err := o.Open(raw, len(raw)-bodyLen)
	if err != nil {
		if errors.Is(err, ErrIntegrity) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrIntegrity, err)
	}
	if len(plain) == 0 {
		return nil, &SyntaxError{Payload: t, Offset: 0, Expected: "a pad length", Got: "an empty plaintext"}
	}
	pad := int(plain[len(plain)-1])
	if pad > len(plain)-1 {
		return nil, &SyntaxError{Payload: t, Offset: len(plain) - 1,
			Expected: "a pad length of at most " + itoa(len(plain)-1), Got: itoa(pad)}
	}
	n := len(plain) - 1 - pad
	return plain[:n:n], nil
}
