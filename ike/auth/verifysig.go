package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"espalier/ike/wire"
)

var (
	errWrongSignature = errors.New("the signature does not fit the certificate's key and what was signed")
	errUnknownHash    = errors.New("the signature does not fit the certificate's key and what was signed, with SHA-1 or any SHA-2")
)

// signed is a signature that has been read and fits the kind of key, ready to be checked.
type signed struct {
	pub    crypto.PublicKey
	kind   signature // hash zero: method 1, where it is not named
	salt   int       // RSASSA-PSS
	octets []byte    // the signature; ECDSA in DER
}

// parseSignature reads AUTH data for a key that pki.CheckPublicKey has let pass.
func parseSignature(a wire.Auth, pub crypto.PublicKey) (signed, error) {
	s := signed{pub: pub, kind: keyOf(pub), octets: a.Data}
	mismatch := func(want fmt.Stringer) error {
		return fmt.Errorf("expected a signature of the certificate's key, %s-%d, found one of %s (%s)", s.kind.key, s.kind.bits, want, a.Method)
	}
	switch a.Method {
	case wire.AuthRSA:
		if s.kind.key != KeyRSA {
			return s, mismatch(KeyRSA)
		}
		s.kind.hash = 0
		return s, nil
	case wire.AuthECDSA256, wire.AuthECDSA384, wire.AuthECDSA521:
		c, ok := classicECDSA(s.kind.bits)
		if s.kind.key != KeyECDSA || !ok || c.method != a.Method {
			return s, mismatch(KeyECDSA)
		}
		s.kind.hash = c.hash
		n := (c.bits + 7) / 8
		if len(a.Data) != 2*n {
			return s, fmt.Errorf("expected a signature of %d octets (RFC 4754 7), found %d", 2*n, len(a.Data))
		}
		var err error
		s.octets, err = derECDSA(a.Data[:n], a.Data[n:])
		return s, err
	case wire.AuthDigitalSignature:
		alg, sig, err := parseDigitalSignature(a.Data)
		if err != nil {
			return s, err
		}
		if alg.key != s.kind.key {
			return s, mismatch(alg.key)
		}
		s.kind.hash, s.kind.pss, s.salt, s.octets = alg.hash, alg.pss, alg.salt, sig
		return s, nil
	}
	return s, fmt.Errorf("expected a signature, found %s", a.Method)
}

// derECDSA turns r and s into ECDSA-Sig-Value.
func derECDSA(r, s []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(r))
		b.AddASN1BigInt(new(big.Int).SetBytes(s))
	})
	return b.Bytes()
}

// check tests the signature and says what it was made with.
func (s signed) check(octets []byte) (signature, error) {
	if s.kind.key == KeyRSA && s.kind.hash == 0 {
		return s.checkAnyHash(octets)
	}
	h := cryptoHash(s.kind.hash)
	ok := false
	switch pub := s.pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, octets, s.octets)
	case *ecdsa.PublicKey:
		ok = h != 0 && ecdsa.VerifyASN1(pub, hashOf(h, octets), s.octets)
	case *rsa.PublicKey:
		switch {
		case h == 0:
		case s.kind.pss:
			ok = rsa.VerifyPSS(pub, h, hashOf(h, octets), s.octets, &rsa.PSSOptions{SaltLength: s.salt, Hash: h}) == nil
		default:
			ok = rsa.VerifyPKCS1v15(pub, h, hashOf(h, octets), s.octets) == nil
		}
	}
	if !ok {
		return s.kind, errWrongSignature
	}
	return s.kind, nil
}

// checkAnyHash is method 1: the hash is named only inside the signature; SHA-1 is what RFC 7296 2.15 foresees, and some
// peers take SHA-2.
func (s signed) checkAnyHash(octets []byte) (signature, error) {
	pub, ok := s.pub.(*rsa.PublicKey)
	if !ok {
		return s.kind, errWrongSignature
	}
	for _, hash := range [...]wire.HashAlgorithm{wire.HashSHA1, wire.HashSHA2_256, wire.HashSHA2_384, wire.HashSHA2_512} {
		h := cryptoHash(hash)
		if rsa.VerifyPKCS1v15(pub, h, hashOf(h, octets), s.octets) == nil {
			s.kind.hash = hash
			return s.kind, nil
		}
	}
	return s.kind, errUnknownHash
}
