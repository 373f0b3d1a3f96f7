package suite

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"
	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"

	"espalier/internal/secret"
)

// x25519Method is Curve25519 (RFC 7748 5, RFC 8031). The package comment says why two libraries.
type x25519Method struct{}

func (x25519Method) publicLen() int { return x25519.Size }

func (x25519Method) generate(rand io.Reader) ([]byte, secret.Bytes, error) {
	private := make(secret.Bytes, x25519.Size)
	if _, err := io.ReadFull(rand, private); err != nil {
		return nil, nil, err
	}
	scalar, err := new(edwards25519.Scalar).SetBytesWithClamping(private)
	if err != nil {
		return nil, nil, err
	}
	// The base points of the two curves correspond (RFC 7748 4.1), and both have prime order, so that the scalar may be
	// reduced by it.
	return new(edwards25519.Point).ScalarBaseMult(scalar).BytesMontgomery(), private, nil
}

// check leaves points of small order to agree, which sees them in its result.
func (x25519Method) check([]byte) error { return nil }

func (x25519Method) agree(private secret.Bytes, peer []byte) (secret.Bytes, error) {
	if len(private) != x25519.Size {
		return nil, errPrivate
	}
	var shared, priv, pub x25519.Key
	copy(priv[:], private)
	copy(pub[:], peer)
	ok := x25519.Shared(&shared, &priv, &pub)
	clear(priv[:])
	if !ok || allZero(shared[:]) {
		return nil, errSmallOrder
	}
	return shared[:], nil
}

// x448Method is Curve448 (RFC 7748 5, RFC 8031).
type x448Method struct{}

func (x448Method) publicLen() int { return x448.Size }

func (x448Method) generate(rand io.Reader) ([]byte, secret.Bytes, error) {
	var public, private x448.Key
	if _, err := io.ReadFull(rand, private[:]); err != nil {
		return nil, nil, err
	}
	x448.KeyGen(&public, &private)
	return public[:], private[:], nil
}

// check leaves points of small order to agree, which sees them in its result.
func (x448Method) check([]byte) error { return nil }

func (x448Method) agree(private secret.Bytes, peer []byte) (secret.Bytes, error) {
	if len(private) != x448.Size {
		return nil, errPrivate
	}
	var shared, priv, pub x448.Key
	copy(priv[:], private)
	copy(pub[:], peer)
	ok := x448.Shared(&shared, &priv, &pub)
	clear(priv[:])
	if !ok || allZero(shared[:]) {
		return nil, errSmallOrder
	}
	return shared[:], nil
}

var errSmallOrder = fmt.Errorf("%w: a point of small order", ErrPublicKey)

// allZero takes the same time for all values.
func allZero(b []byte) bool {
	var or byte
	for _, x := range b {
		or |= x
	}
	return or == 0
}

// ecpMethod is a random ECP group (RFC 5903): public values are x | y, the shared secret is x.
type ecpMethod struct {
	curve ecdh.Curve
	size  int  // octets of a coordinate and of a private value
	mask  byte // for the first octet of a private value
}

var (
	p256 = ecpMethod{ecdh.P256(), 32, 0xff}
	p384 = ecpMethod{ecdh.P384(), 48, 0xff}
	p521 = ecpMethod{ecdh.P521(), 66, 0x01}
)

func (m ecpMethod) publicLen() int { return 2 * m.size }

// generate draws private values until one is in the group's range, which the first is but for 1 in 2^32. The standard
// library's own generator doesn't take its randomness from a reader.
func (m ecpMethod) generate(rand io.Reader) ([]byte, secret.Bytes, error) {
	const tries = 64
	private := make(secret.Bytes, m.size)
	for range tries {
		if _, err := io.ReadFull(rand, private); err != nil {
			return nil, nil, err
		}
		private[0] &= m.mask
		if k, err := m.curve.NewPrivateKey(private); err == nil {
			return k.PublicKey().Bytes()[1:], private, nil
		}
	}
	return nil, nil, errors.New("the source of randomness gives no value in the group's range")
}

func (m ecpMethod) check(peer []byte) error {
	_, err := m.public(peer)
	return err
}

func (m ecpMethod) agree(private secret.Bytes, peer []byte) (secret.Bytes, error) {
	k, err := m.curve.NewPrivateKey(private)
	if err != nil {
		return nil, errPrivate
	}
	pub, err := m.public(peer)
	if err != nil {
		return nil, err
	}
	return k.ECDH(pub)
}

// public reads x | y, a point of the curve; the groups have cofactor 1, so that is all (RFC 6989 2.3).
func (m ecpMethod) public(peer []byte) (*ecdh.PublicKey, error) {
	const uncompressed = 4 // SEC 1, 2.3.3
	var buf [1 + 2*66]byte
	pub, err := m.curve.NewPublicKey(append(append(buf[:0], uncompressed), peer...))
	if err != nil {
		return nil, fmt.Errorf("%w: not a point of the curve", ErrPublicKey)
	}
	return pub, nil
}
