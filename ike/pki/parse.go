package pki

import (
	"crypto"
	"crypto/x509"
)

// ParseError says what a file was expected to hold and what it held.
type ParseError struct {
	Origin   string // file name or other origin
	Expected string
	Found    string
	Err      error // cause, may be nil
}

// Error is one line: origin, expected, found.
func (e *ParseError) Error() string {
	return e.Origin + ": expected " + e.Expected + ", found " + e.Found
}

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// ParseCertificates reads one or more certificates, PEM (other text between blocks is ignored) or a single DER.
// Errors are a *ParseError.
func ParseCertificates(data []byte, origin string) ([]*x509.Certificate, error) { return nil, nil }

// ParseCertificate reads exactly one certificate, PEM or DER. Errors are a *ParseError.
func ParseCertificate(data []byte, origin string) (*x509.Certificate, error) { return nil, nil }

// ParsePrivateKey reads one RSA, ECDSA P-256/384/521 or Ed25519 key: PKCS#1, SEC1 or PKCS#8, PEM or DER. passphrase,
// nil for none, opens encrypted PKCS#8 and encrypted PEM; an encrypted key without one gives an error that matches
// ErrPassphrase. Errors are a *ParseError and never hold key material.
func ParsePrivateKey(data, passphrase []byte, origin string) (crypto.Signer, error) { return nil, nil }
