package suite

import (
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// Sealer is a wire.Sealer that counts its messages, so that no IV is used twice under a key, not even by a sealer that
// was made again after a restart.
type Sealer interface {
	wire.Sealer
	// Counter is the number of the next message: to be persisted before a sealed message is sent, and given to
	// [NewSealer].
	Counter() uint64
}

// NewSealer protects an IKE SA's messages of one direction. encKey and integKey are SK_e and SK_a of that direction, as
// [DeriveIKE] gave them; counter is 0 for fresh keys and Counter of the last sealer otherwise. AES-GCM, AES-CTR and
// ChaCha20-Poly1305 use the counter as IV (RFC 5282 3.1); AES-CBC encrypts it under a key of its own, derived from both,
// into an unpredictable IV (NIST SP 800-38A, appendix C). So a sealer is a function of its arguments, and needs no
// randomness. It fails for algorithms that are not supported and for keys of a wrong length.
func NewSealer(c Choice, encKey, integKey secret.Bytes, counter uint64) (Sealer, error) {
	return nil, ErrUnsupported
}

// NewOpener opens an IKE SA's messages of one direction. Keys and errors as for [NewSealer]; what does not
// authenticate is wire.ErrIntegrity.
func NewOpener(c Choice, encKey, integKey secret.Bytes) (wire.Opener, error) {
	return nil, ErrUnsupported
}
