// Package suite is the cryptography of IKEv2: transforms and proposals with their strongSwan keyword syntax, the choice
// among proposals (RFC 7296 2.7, 3.3), key exchange, key derivation (RFC 7296 2.13 to 2.18, RFC 9370) and the ciphers
// of the Encrypted payload (RFC 7296 3.14, RFC 5282, RFC 7634).
//
// Everything here is a function of its arguments: randomness is given as a reader, counters are given and read back,
// and nothing is remembered between calls but what a [Sealer] or Opener holds.
//
// # What the key exchange is built on
//
// Curve25519: key generation multiplies the base point with filippo.io/edwards25519, whose precomputed tables make it
// two to three times as fast as a Montgomery ladder (the standard library's way); the agreement is circl's x25519,
// whose assembly ladder is about a third faster than the standard library's. Both are maintained by cryptographers,
// run in constant time and are checked here against the standard library and RFC 7748. Curve448 is circl's x448, the
// only maintained one in Go. ECP groups are crypto/ecdh of the standard library (constant time, assembly for P-256).
// MODP groups use filippo.io/bigmod, the standard library's own constant-time modular arithmetic as a module:
// math/big's Exp leaks its exponent through timing.
package suite
