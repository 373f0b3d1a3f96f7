package pki

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"strconv"
)

// RawKey is a public key without a certificate (RFC 7670), which is trusted where the
// configuration names it.
type RawKey struct {
	Key crypto.PublicKey
	DER []byte // its SubjectPublicKeyInfo
}

// Fingerprint is the SHA-256 of the SubjectPublicKeyInfo: it names one key exactly.
func (k *RawKey) Fingerprint() Fingerprint { return sha256.Sum256(k.DER) }

// ParseRawKey reads one public key, RSA, ECDSA or Ed25519: a SubjectPublicKeyInfo or a
// PKCS#1 key, PEM or DER. Errors are a *ParseError.
func ParseRawKey(data []byte, origin string) (*RawKey, error) {
	const want = "an RSA, ECDSA or Ed25519 public key in PEM or DER"
	der := data
	if looksPEM(data) {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, &ParseError{Origin: origin, Expected: want, Found: "PEM that cannot be decoded"}
		}
		if block.Type != "PUBLIC KEY" && block.Type != "RSA PUBLIC KEY" {
			return nil, &ParseError{Origin: origin, Expected: want, Found: "a PEM block " + strconv.Quote(block.Type)}
		}
		der = block.Bytes
	}
	if len(der) == 0 || der[0] != 0x30 {
		return nil, &ParseError{Origin: origin, Expected: want, Found: describeBytes(data)}
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		if rsa, err := x509.ParsePKCS1PublicKey(der); err == nil {
			pub = rsa
		} else {
			return nil, &ParseError{Origin: origin, Expected: want, Found: "DER that is none", Err: err}
		}
	}
	if err := CheckPublicKey(pub); err != nil {
		return nil, &ParseError{Origin: origin, Expected: want, Found: err.Error(), Err: err}
	}
	k := &RawKey{Key: pub}
	if k.DER, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return nil, &ParseError{Origin: origin, Expected: want, Found: err.Error(), Err: err}
	}
	return k, nil
}
