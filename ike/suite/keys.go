package suite

import (
	"encoding/binary"
	"fmt"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

// IKEKeys are the keys of an IKE SA (RFC 7296 2.14). Ei and Er end with the salt where the cipher has one; Ai and Ar
// are empty with an AEAD.
type IKEKeys struct {
	D, Ai, Ar, Ei, Er, Pi, Pr secret.Bytes
}

// Wipe overwrites all keys with zeros.
func (k *IKEKeys) Wipe() {
	for _, b := range []secret.Bytes{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr} {
		b.Wipe()
	}
}

// ChildKeys are the keys of a CHILD SA (RFC 7296 2.17): Ei and Ai protect from initiator to responder of the exchange
// that made it, Er and Ar the other way. Ei and Er end with the salt where the cipher has one; Ai and Ar are empty with
// an AEAD.
type ChildKeys struct {
	Ei, Ai, Er, Ar secret.Bytes
}

// Wipe overwrites all keys with zeros.
func (k *ChildKeys) Wipe() {
	for _, b := range []secret.Bytes{k.Ei, k.Ai, k.Er, k.Ar} {
		b.Wipe()
	}
}

// SKEYSEED is prf(Ni | Nr, shared) (RFC 7296 2.14), with the first 8 octets of each nonce for the AES PRFs. It fails for
// a PRF that is not supported and for a nonce that isn't 8 to 256 octets long.
func SKEYSEED(prf PRF, ni, nr []byte, shared secret.Bytes) (secret.Bytes, error) {
	if err := checkNonces(prf, ni, nr); err != nil {
		return nil, err
	}
	if prf.id == wire.PRFAES128XCBC || prf.id == wire.PRFAES128CMAC {
		ni, nr = ni[:8], nr[:8]
	}
	var buf [2 * 64]byte
	key := append(append(buf[:0], ni...), nr...)
	return prf.Sum(make([]byte, 0, prf.Size()), key, shared), nil
}

// RekeySKEYSEED is prf(SK_d (old), shared | Ni | Nr | more…) (RFC 7296 2.18; RFC 9370 2.2.4 for more, the secrets of at
// most 7 additional key exchanges in their order). prf is that of the old IKE SA. Errors as for [SKEYSEED].
func RekeySKEYSEED(prf PRF, oldSKd, shared secret.Bytes, ni, nr []byte, more ...secret.Bytes) (secret.Bytes, error) {
	if err := checkNonces(prf, ni, nr); err != nil {
		return nil, err
	}
	var parts [3 + 7][]byte
	n := seeds(&parts, shared, ni, nr, more)
	return prf.Sum(make([]byte, 0, prf.Size()), oldSKd, parts[:n]...), nil
}

// UpdateSKEYSEED is the next SKEYSEED after an additional key exchange in IKE_INTERMEDIATE: prf(SK_d(n-1), SK(n) | Ni |
// Nr) (RFC 9370 2.2.2). [DeriveIKE] then gives the keys from there on. Errors as for [SKEYSEED].
func UpdateSKEYSEED(prf PRF, skd, shared secret.Bytes, ni, nr []byte) (secret.Bytes, error) {
	return RekeySKEYSEED(prf, skd, shared, ni, nr)
}

// DeriveIKE gives the keys of an IKE SA (RFC 7296 2.14) with c's PRF. It fails for algorithms that are not supported and
// for nonces as [SKEYSEED] does.
func DeriveIKE(c Choice, skeyseed secret.Bytes, ni, nr []byte, spii, spir wire.SPI) (IKEKeys, error) {
	prf := c.PRF()
	if err := checkNonces(prf, ni, nr); err != nil {
		return IKEKeys{}, err
	}
	encr, integ, err := c.keyLengths()
	if err != nil {
		return IKEKeys{}, err
	}
	var spis [16]byte
	binary.BigEndian.PutUint64(spis[:], uint64(spii))
	binary.BigEndian.PutUint64(spis[8:], uint64(spir))
	d := prf.KeyLen()
	take := cutter(prf.Plus(3*d+2*integ+2*encr, skeyseed, ni, nr, spis[:]))
	return IKEKeys{
		D:  take(d),
		Ai: take(integ), Ar: take(integ),
		Ei: take(encr), Er: take(encr),
		Pi: take(d), Pr: take(d),
	}, nil
}

// DeriveChild gives the keys of a CHILD SA (RFC 7296 2.17) of choice esp with the IKE SA's prf and SK_d. shared is the
// secret of its own key exchange, nil if there is none, more those of at most 7 additional ones (RFC 9370 2.2.4).
// Errors as for [DeriveIKE].
func DeriveChild(prf PRF, skd secret.Bytes, esp Choice, shared secret.Bytes, ni, nr []byte, more ...secret.Bytes) (ChildKeys, error) {
	if err := checkNonces(prf, ni, nr); err != nil {
		return ChildKeys{}, err
	}
	encr, integ, err := esp.keyLengths()
	if err != nil {
		return ChildKeys{}, err
	}
	var parts [3 + 7][]byte
	n := seeds(&parts, shared, ni, nr, more)
	take := cutter(prf.Plus(2*(encr+integ), skd, parts[:n]...))
	return ChildKeys{
		Ei: take(encr), Ai: take(integ),
		Er: take(encr), Ar: take(integ),
	}, nil
}

// keyLengths is KeyMaterialLen with an error where an algorithm is missing or not supported.
func (c Choice) keyLengths() (encr, integ int, err error) {
	encr, integ = c.KeyMaterialLen()
	if c.Protocol != wire.ProtoAH && encr == 0 {
		return 0, 0, fmt.Errorf("%w: encryption %s", ErrUnsupported, c.name(wire.TransformENCR))
	}
	if !c.AEAD() && integ == 0 {
		return 0, 0, fmt.Errorf("%w: integrity %s", ErrUnsupported, c.name(wire.TransformINTEG))
	}
	return encr, integ, nil
}

// name is the chosen transform of a type for people.
func (c Choice) name(t wire.TransformType) string {
	if tr, ok := c.Get(t); ok {
		return tr.Name()
	}
	return "none"
}

// seeds sets parts to shared | Ni | Nr | more… and gives their number; more than 7 is a programming error.
func seeds(parts *[3 + 7][]byte, shared secret.Bytes, ni, nr []byte, more []secret.Bytes) int {
	parts[0], parts[1], parts[2] = shared, ni, nr
	for i, m := range more {
		parts[3+i] = m
	}
	return 3 + len(more)
}

// cutter hands out consecutive pieces of b that can't grow into each other; nil for no octets.
func cutter(b []byte) func(n int) secret.Bytes {
	return func(n int) secret.Bytes {
		if n == 0 {
			return nil
		}
		k := b[:n:n]
		b = b[n:]
		return k
	}
}

// minNonce is what the AES PRFs take of a nonce. The codec holds peers to the 16 octets of RFC 7296 3.9; half the PRF's
// key size (2.10) is asked of our own nonces only, since peers with 20 octets and HMAC-SHA2-512 are about.
const minNonce = 8

func checkNonces(prf PRF, ni, nr []byte) error {
	if prf.Size() == 0 {
		return fmt.Errorf("%w: PRF %s", ErrUnsupported, prf.id)
	}
	for _, n := range [][]byte{ni, nr} {
		if len(n) < minNonce || len(n) > wire.MaxNonce {
			return fmt.Errorf("nonce: expected %d to %d octets, got %d", minNonce, wire.MaxNonce, len(n))
		}
	}
	return nil
}
