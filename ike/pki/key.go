package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strconv"

	"github.com/youmark/pkcs8"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const wantKey = "an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 private key in PKCS#8, PKCS#1 or SEC1, PEM or DER"

// MinRSABits and MaxRSABits bound the modulus of RSA keys, ours and the peers'.
const (
	MinRSABits = 1024
	MaxRSABits = 8192
)

// ParsePrivateKey reads one RSA, ECDSA P-256/384/521 or Ed25519 key: PKCS#1, SEC1 or PKCS#8, PEM or DER. passphrase,
// nil for none, opens encrypted PKCS#8 (PBES2 with AES or 3DES, PBKDF2 or scrypt) and the older encrypted PEM; an
// encrypted key with none or a wrong one gives an error that matches ErrPassphrase. Errors are a *ParseError and never
// hold key material.
func ParsePrivateKey(data, passphrase []byte, origin string) (crypto.Signer, error) {
	der, kind := data, ""
	if looksPEM(data) {
		block, err := keyBlock(data, origin)
		if err != nil {
			return nil, err
		}
		der, kind = block.Bytes, block.Type
		//lint:ignore SA1019 openssl still writes it, and a file on our own disk is no oracle
		if x509.IsEncryptedPEMBlock(block) {
			//lint:ignore SA1019 openssl still writes it, and a file on our own disk is no oracle
			if der, err = x509.DecryptPEMBlock(block, passphrase); err != nil || len(passphrase) == 0 {
				return nil, passphraseError(origin, "encrypted PEM")
			}
		}
	} else if len(data) == 0 || data[0] != 0x30 {
		return nil, &ParseError{Origin: origin, Expected: wantKey, Found: describeBytes(data)}
	}
	key, err := parseKeyDER(der, kind, passphrase, origin)
	if err != nil {
		return nil, err
	}
	return usableKey(key, origin)
}

// keyBlock finds the first block that is a private key.
func keyBlock(data []byte, origin string) (*pem.Block, error) {
	found := "PEM that cannot be decoded"
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
			return block, nil
		case "EC PARAMETERS": // openssl writes it before the key
		case "OPENSSH PRIVATE KEY":
			found = "a key in OpenSSH's own format; ssh-keygen -p -m PKCS8 converts it"
		default:
			found = "a PEM block " + strconv.Quote(block.Type)
		}
	}
	return nil, &ParseError{Origin: origin, Expected: wantKey, Found: found}
}

func passphraseError(origin, what string) error {
	return &ParseError{Origin: origin, Expected: "the passphrase of the private key",
		Found: what + ", which a missing or wrong passphrase does not open", Err: ErrPassphrase}
}

// parseKeyDER tries the formats; kind is the PEM type, or empty for bare DER.
func parseKeyDER(der []byte, kind string, passphrase []byte, origin string) (any, error) {
	if kind == "ENCRYPTED PRIVATE KEY" || kind == "" && isEncryptedPKCS8(der) {
		if len(passphrase) == 0 {
			return nil, passphraseError(origin, "encrypted PKCS#8")
		}
		key, _, err := pkcs8.ParsePrivateKey(der, passphrase)
		if err != nil {
			return nil, passphraseError(origin, "encrypted PKCS#8")
		}
		return key, nil
	}
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(b []byte) (any, error) { return x509.ParsePKCS1PrivateKey(b) },
		func(b []byte) (any, error) { return x509.ParseECPrivateKey(b) },
	} {
		if key, err := parse(der); err == nil {
			return key, nil
		}
	}
	// The parsers' own errors are not passed on: they might quote the file.
	return nil, &ParseError{Origin: origin, Expected: wantKey, Found: "DER that is none of these, or a damaged one"}
}

// isEncryptedPKCS8 recognises EncryptedPrivateKeyInfo (RFC 5958 3): it begins with an AlgorithmIdentifier, where the
// other formats begin with a version.
func isEncryptedPKCS8(der []byte) bool {
	in := cryptobyte.String(der)
	var seq, alg, data cryptobyte.String
	return in.ReadASN1(&seq, cbasn1.SEQUENCE) && seq.ReadASN1(&alg, cbasn1.SEQUENCE) &&
		seq.ReadASN1(&data, cbasn1.OCTET_STRING) && seq.Empty()
}

// CheckPublicKey says whether a public key is of a kind and size that authentication uses.
func CheckPublicKey(pub any) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < MinRSABits || n > MaxRSABits {
			return fmt.Errorf("expected an RSA key of %d to %d bits, found %d", MinRSABits, MaxRSABits, n)
		}
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("expected an ECDSA key on P-256, P-384 or P-521, found %s", k.Curve.Params().Name)
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("expected an RSA, ECDSA or Ed25519 key, found another kind (%T)", pub)
}

func usableKey(key any, origin string) (crypto.Signer, error) {
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, &ParseError{Origin: origin, Expected: wantKey, Found: fmt.Sprintf("a key that does not sign (%T)", key)}
	}
	if err := CheckPublicKey(s.Public()); err != nil {
		return nil, &ParseError{Origin: origin, Expected: wantKey, Found: err.Error(), Err: err}
	}
	return s, nil
}
