package suite

import (
	"espalier/ike/wire"
)

// Choice is what both sides agreed on: one transform of each type that is in use. It is a plain value for the
// session's state.
type Choice struct {
	Number uint8  // of the accepted proposal in the offer
	SPI    []byte // the peer's: 4 octets for ESP and AH, 8 for an IKE rekey, else empty
	Proposal
}

// Wire is the proposal that answers the offer, with our SPI (see [Proposal.Wire]).
func (c Choice) Wire(spi []byte) wire.Proposal { return c.Proposal.Wire(c.Number, spi) }

// Answer is the SA payload that accepts the offer, with our SPI (see [Proposal.Wire]).
func (c Choice) Answer(spi []byte) *wire.SA {
	return &wire.SA{Proposals: []wire.Proposal{c.Wire(spi)}}
}

// Get is the chosen transform of type t; ok is false if there is none.
func (c Choice) Get(t wire.TransformType) (tr Transform, ok bool) {
	for _, x := range c.Transforms {
		if x.Type == t {
			return x, true
		}
	}
	return Transform{}, false
}

func (c Choice) id(t wire.TransformType) uint16 {
	tr, _ := c.Get(t)
	return tr.ID
}

// Encr is the encryption algorithm; 0 for AH.
func (c Choice) Encr() wire.EncrID { return wire.EncrID(c.id(wire.TransformENCR)) }

// EncrKeyBits is the encryption key's length in bits without salt, also for algorithms without a Key Length attribute
// (256 for ChaCha20-Poly1305); 0 for AH and for unknown algorithms.
func (c Choice) EncrKeyBits() int {
	t, ok := c.Get(wire.TransformENCR)
	if !ok {
		return 0
	}
	if t.KeyBits != 0 {
		return int(t.KeyBits)
	}
	return 8 * encryption(wire.EncrID(t.ID)).fixedKey
}

// AEAD reports whether the encryption algorithm authenticates too, so that there is no integrity algorithm.
func (c Choice) AEAD() bool { return encryption(c.Encr()).aead }

// PRF is the pseudo-random function; that of ID 0, which is not usable, for ESP and AH.
func (c Choice) PRF() PRF { return PRF{wire.PRFID(c.id(wire.TransformPRF))} }

// Integ is the integrity algorithm, IntegNone with an AEAD.
func (c Choice) Integ() wire.IntegID { return wire.IntegID(c.id(wire.TransformINTEG)) }

// KE is the key exchange method, KENone if there is none.
func (c Choice) KE() wire.KEMethod { return wire.KEMethod(c.id(wire.TransformKE)) }

// ESN reports whether 64-bit sequence numbers were agreed on; always false for IKE.
func (c Choice) ESN() bool { return wire.ESNID(c.id(wire.TransformESN)) == wire.ESNYes }

// AdditionalKEs are the further key exchanges in the order in which they are run (RFC 9370 2.2.2), without those that
// were agreed to be NONE; nil if there are none.
func (c Choice) AdditionalKEs() []wire.KEMethod {
	var out []wire.KEMethod
	for t := wire.TransformADDKE1; t <= wire.TransformADDKE7; t++ {
		if m := wire.KEMethod(c.id(t)); m != wire.KENone {
			out = append(out, m)
		}
	}
	return out
}

// KeyMaterialLen is what each direction needs of key material, in octets: encr is the encryption key with the salt or
// nonce behind it (RFC 4106 8.1, RFC 3686 5.1, RFC 7634 2), integ the integrity key, 0 with an AEAD.
func (c Choice) KeyMaterialLen() (encr, integ int) {
	e := encryption(c.Encr())
	return c.EncrKeyBits()/8 + e.salt, integrity(c.Integ()).key
}

// Overhead is what an SA of this choice adds to each packet or message.
type Overhead struct {
	IV    int // octets of explicit IV before the ciphertext
	ICV   int // octets of integrity check value behind it
	Block int // octets: ESP's padding, pad length and next header, or IKE's padding and pad length, fill a multiple of it
	Salt  int // octets of implicit nonce behind the encryption key
}

// Overhead gives the lengths of this choice: of the cipher as such, so ESP must still align to 4 octets (RFC 4303 2.4)
// and add its header and trailer.
func (c Choice) Overhead() Overhead {
	e := encryption(c.Encr())
	o := Overhead{IV: e.iv, ICV: e.icv, Block: e.block, Salt: e.salt}
	if !e.aead {
		o.ICV = integrity(c.Integ()).icv
	}
	return o
}
