package pki

import (
	"crypto/sha1" //nolint:gosec // RFC 7296 3.7 names CAs by the SHA-1 of their key
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// Fingerprint is the SHA-256 of a certificate's DER: it names one certificate exactly. Comparable; zero: none.
type Fingerprint [sha256.Size]byte

// FingerprintOf names a certificate.
func FingerprintOf(c *x509.Certificate) Fingerprint { return sha256.Sum256(c.Raw) }

// String is lower-case hexadecimal.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// KeyID is the SHA-1 of a SubjectPublicKeyInfo in DER, as CERTREQ carries it (RFC 7296 3.7). It finds keys; it proves
// nothing. Comparable.
type KeyID [sha1.Size]byte

// KeyIDOf names a certificate's public key.
func KeyIDOf(c *x509.Certificate) KeyID { return sha1.Sum(c.RawSubjectPublicKeyInfo) } //nolint:gosec

// String is lower-case hexadecimal.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }
