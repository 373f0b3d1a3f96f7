package suite

import (
	"errors"
	"io"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

// ErrPublicKey is matched (errors.Is) by every refusal of a peer's public value: wrong length, not in the group, of
// small order (RFC 6989, RFC 8031 2.2, RFC 7748 6).
var ErrPublicKey = errors.New("invalid public value of the peer")

// ErrUnsupported is matched (errors.Is) when an algorithm is not implemented.
var ErrUnsupported = errors.New("algorithm not supported")

// GenerateKey makes a key pair of method m with randomness from rand: the public value as it stands in a KE payload and
// the private part for [Decapsulate]. It fails with ErrUnsupported, or as rand fails.
func GenerateKey(m wire.KEMethod, rand io.Reader) (public []byte, private secret.Bytes, err error) {
	return nil, nil, ErrUnsupported
}

// Encapsulate is the responder's half: from the initiator's public value it makes the responder's public value and the
// shared secret. It fails with ErrPublicKey, ErrUnsupported, or as rand fails.
func Encapsulate(m wire.KEMethod, peerPublic []byte, rand io.Reader) (public []byte, shared secret.Bytes, err error) {
	return nil, nil, ErrUnsupported
}

// Decapsulate is the initiator's second half: the shared secret from its private part and the responder's public value.
// It fails with ErrPublicKey or ErrUnsupported.
func Decapsulate(m wire.KEMethod, private secret.Bytes, peerPublic []byte) (shared secret.Bytes, err error) {
	return nil, ErrUnsupported
}

// PublicLen is the length in octets of public values of m, 0 if m is not supported.
func PublicLen(m wire.KEMethod) int { return 0 }
