package suite

import (
	"errors"
	"fmt"
	"io"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

// ErrPublicKey is matched (errors.Is) by every refusal of a peer's public value: wrong length, not in the group, of
// small order (RFC 6989 2, RFC 7748 6, RFC 8031 3).
var ErrPublicKey = errors.New("invalid public value of the peer")

// ErrUnsupported is matched (errors.Is) when an algorithm is not implemented.
var ErrUnsupported = errors.New("algorithm not supported")

// method is one key exchange method. private values are the raw random octets, so they can be stored with a session.
type method interface {
	publicLen() int
	generate(rand io.Reader) (public []byte, private secret.Bytes, err error)
	// check does what of peer's validation costs little; peer has publicLen octets.
	check(peer []byte) error
	// agree checks peer and gives the shared secret.
	agree(private secret.Bytes, peer []byte) (secret.Bytes, error)
}

// methodOf gives the implementation of m, nil if there is none.
func methodOf(m wire.KEMethod) method {
	switch m {
	case wire.KECurve25519:
		return x25519Method{}
	case wire.KECurve448:
		return x448Method{}
	case wire.KEECP256:
		return p256
	case wire.KEECP384:
		return p384
	case wire.KEECP521:
		return p521
	case wire.KEMODP1024: // this and the next are too short for today (RFC 8247 2.4): only where they are configured
		return modp1024()
	case wire.KEMODP1536:
		return modp1536()
	case wire.KEMODP2048:
		return modp2048()
	case wire.KEMODP3072:
		return modp3072()
	case wire.KEMODP4096:
		return modp4096()
	case wire.KEMODP6144:
		return modp6144()
	case wire.KEMODP8192:
		return modp8192()
	}
	return nil
}

// GenerateKey makes a key pair of method m with randomness from rand: the public value as it stands in a KE payload and
// the private part for [Decapsulate]. It fails with ErrUnsupported, or as rand fails.
func GenerateKey(m wire.KEMethod, rand io.Reader) (public []byte, private secret.Bytes, err error) {
	k := methodOf(m)
	if k == nil {
		return nil, nil, unsupported(m)
	}
	public, private, err = k.generate(rand)
	if err != nil {
		return nil, nil, fmt.Errorf("generate %s key: %w", keName(m), err)
	}
	return public, private, nil
}

// Encapsulate is the responder's half: from the initiator's public value it makes the responder's public value and the
// shared secret. It fails with ErrPublicKey, ErrUnsupported, or as rand fails.
func Encapsulate(m wire.KEMethod, peerPublic []byte, rand io.Reader) (public []byte, shared secret.Bytes, err error) {
	if err := checkPublic(m, peerPublic); err != nil { // before any work is done for the peer
		return nil, nil, err
	}
	public, private, err := GenerateKey(m, rand)
	if err != nil {
		return nil, nil, err
	}
	defer private.Wipe()
	if shared, err = Decapsulate(m, private, peerPublic); err != nil {
		return nil, nil, err
	}
	return public, shared, nil
}

// Decapsulate is the initiator's second half: the shared secret from its private part and the responder's public value.
// It fails with ErrPublicKey or ErrUnsupported, and for a private part that isn't one of m.
func Decapsulate(m wire.KEMethod, private secret.Bytes, peerPublic []byte) (shared secret.Bytes, err error) {
	if err := checkPublic(m, peerPublic); err != nil {
		return nil, err
	}
	shared, err = methodOf(m).agree(private, peerPublic)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keName(m), err)
	}
	return shared, nil
}

// checkPublic refuses what can be told from a public value without a private one.
func checkPublic(m wire.KEMethod, peer []byte) error {
	k := methodOf(m)
	if k == nil {
		return unsupported(m)
	}
	if len(peer) != k.publicLen() {
		return fmt.Errorf("%w: %s: expected %d octets, got %d", ErrPublicKey, keName(m), k.publicLen(), len(peer))
	}
	if err := k.check(peer); err != nil {
		return fmt.Errorf("%s: %w", keName(m), err)
	}
	return nil
}

// PublicLen is the length in octets of public values of m, 0 if m is not supported. It costs nothing.
func PublicLen(m wire.KEMethod) int {
	switch m {
	case wire.KEMODP1024:
		return 1024 / 8
	case wire.KEMODP1536:
		return 1536 / 8
	case wire.KEMODP2048:
		return 2048 / 8
	case wire.KEMODP3072:
		return 3072 / 8
	case wire.KEMODP4096:
		return 4096 / 8
	case wire.KEMODP6144:
		return 6144 / 8
	case wire.KEMODP8192:
		return 8192 / 8
	}
	if k := methodOf(m); k != nil {
		return k.publicLen()
	}
	return 0
}

func unsupported(m wire.KEMethod) error {
	return fmt.Errorf("%w: key exchange method %s", ErrUnsupported, keName(m))
}

// errPrivate is a private part of a wrong length or value: a caller's mistake or a damaged session store.
var errPrivate = errors.New("private part is not one of this method")
