package suite

import (
	"encoding/hex"
	"fmt"
	"io"
	"sync"

	"filippo.io/bigmod"

	"espalier/internal/secret"
)

// modpMethod is a MODP group of RFC 3526 or 2409: generator 2, modulus a safe prime. Public values and shared secrets are as long
// as the modulus (RFC 7296 2.14, 3.4).
type modpMethod struct {
	p    *bigmod.Modulus
	bits int
	// exponent is the length of private values in octets: twice the group's strength (RFC 3526 8, NIST SP 800-57: 112 bits
	// for 2048, 128 for 3072, 152, 176, 200), which loses nothing in a safe prime group and is several times as fast as
	// a full exponent.
	exponent int
}

// The groups, each made at its first use: constants that are dear to compute.
var (
	modp1024 = sync.OnceValue(func() method { return newMODP(prime1024, 32) })
	modp1536 = sync.OnceValue(func() method { return newMODP(prime1536, 32) })
	modp2048 = sync.OnceValue(func() method { return newMODP(prime2048, 32) })
	modp3072 = sync.OnceValue(func() method { return newMODP(prime3072, 32) })
	modp4096 = sync.OnceValue(func() method { return newMODP(prime4096, 40) })
	modp6144 = sync.OnceValue(func() method { return newMODP(prime6144, 48) })
	modp8192 = sync.OnceValue(func() method { return newMODP(prime8192, 52) })
)

// newMODP panics on what isn't an odd hexadecimal number: its arguments are constants.
func newMODP(prime string, exponent int) modpMethod {
	b, err := hex.DecodeString(prime)
	if err != nil {
		panic(err)
	}
	p, err := bigmod.NewModulus(b)
	if err != nil {
		panic(err)
	}
	return modpMethod{p: p, bits: 8 * len(b), exponent: exponent}
}

func (m modpMethod) publicLen() int { return m.bits / 8 }

func (m modpMethod) generate(rand io.Reader) ([]byte, secret.Bytes, error) {
	private := make(secret.Bytes, m.exponent)
	if _, err := io.ReadFull(rand, private); err != nil {
		return nil, nil, err
	}
	private[0] |= 0x80 // no small exponent, whatever rand gives
	g, err := bigmod.NewNat().SetBytes(append(make([]byte, m.publicLen()-1), 2), m.p)
	if err != nil {
		return nil, nil, err
	}
	return bigmod.NewNat().Exp(g, private, m.p).Bytes(m.p), private, nil
}

func (m modpMethod) check(peer []byte) error {
	_, err := m.public(peer)
	return err
}

func (m modpMethod) agree(private secret.Bytes, peer []byte) (secret.Bytes, error) {
	if len(private) != m.exponent {
		return nil, errPrivate
	}
	y, err := m.public(peer)
	if err != nil {
		return nil, err
	}
	return bigmod.NewNat().Exp(y, private, m.p).Bytes(m.p), nil
}

// public reads a number above 1 and below p-1 (RFC 6989 2.1), which leaves out the only subgroup of small order.
func (m modpMethod) public(peer []byte) (*bigmod.Nat, error) {
	y, err := bigmod.NewNat().SetBytes(peer, m.p)
	if err != nil || y.IsZero()|y.IsOne()|y.IsMinusOne(m.p) != 0 {
		return nil, fmt.Errorf("%w: expected a number above 1 and below p-1", ErrPublicKey)
	}
	return y, nil
}
