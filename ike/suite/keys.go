package suite

import (
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// IKEKeys are the keys of an IKE SA (RFC 7296 2.14). Ei and Er end with the salt where the cipher has one; Ai and Ar
// are empty with an AEAD.
type IKEKeys struct {
	D, Ai, Ar, Ei, Er, Pi, Pr secret.Bytes
}

// Wipe overwrites all keys with zeros.
func (k *IKEKeys) Wipe() {}

// ChildKeys are the keys of a CHILD SA (RFC 7296 2.17): Ei and Ai protect from initiator to responder of the exchange
// that made it, Er and Ar the other way. Ei and Er end with the salt where the cipher has one; Ai and Ar are empty with
// an AEAD.
type ChildKeys struct {
	Ei, Ai, Er, Ar secret.Bytes
}

// Wipe overwrites all keys with zeros.
func (k *ChildKeys) Wipe() {}

// SKEYSEED is prf(Ni | Nr, shared) (RFC 7296 2.14), with 8 octets of each nonce for the AES PRFs. It fails when a nonce
// is shorter than 16 octets.
func SKEYSEED(prf PRF, ni, nr []byte, shared secret.Bytes) (secret.Bytes, error) { return nil, nil }

// RekeySKEYSEED is prf(SK_d (old), shared | Ni | Nr | more…) (RFC 7296 2.18; RFC 9370 2.2.4 for more, the secrets of
// additional key exchanges in their order). prf is that of the old IKE SA.
func RekeySKEYSEED(prf PRF, oldSKd, shared secret.Bytes, ni, nr []byte, more ...secret.Bytes) (secret.Bytes, error) {
	return nil, nil
}

// UpdateSKEYSEED is the next SKEYSEED after an additional key exchange in IKE_INTERMEDIATE: prf(SK_d(n-1), SK(n) | Ni |
// Nr) (RFC 9370 2.2.2). [DeriveIKE] then gives the keys from there on.
func UpdateSKEYSEED(prf PRF, skd, shared secret.Bytes, ni, nr []byte) (secret.Bytes, error) {
	return nil, nil
}

// DeriveIKE gives the keys of an IKE SA (RFC 7296 2.14) with c's PRF. It fails for algorithms that are not supported.
func DeriveIKE(c Choice, skeyseed secret.Bytes, ni, nr []byte, spii, spir wire.SPI) (IKEKeys, error) {
	return IKEKeys{}, nil
}

// DeriveChild gives the keys of a CHILD SA (RFC 7296 2.17) of choice esp with the IKE SA's prf and SK_d. shared is the
// secret of its own key exchange, nil if there is none, more those of additional ones (RFC 9370 2.2.4).
func DeriveChild(prf PRF, skd secret.Bytes, esp Choice, shared secret.Bytes, ni, nr []byte, more ...secret.Bytes) (ChildKeys, error) {
	return ChildKeys{}, nil
}
