package pki

import (
	"crypto"
	"crypto/x509"
	"errors"

	"software.sslmate.com/src/go-pkcs12"
)

// ParsePKCS12 opens a PKCS#12 container, DER, with one private key and its
// certificate, and returns them with the certificates beside it. Errors are a
// *ParseError and never hold key material; one that matches ErrPassphrase says that the
// passphrase is missing or wrong.
func ParsePKCS12(data, passphrase []byte, origin string) (key crypto.Signer, leaf *x509.Certificate, others []*x509.Certificate, err error) {
	const want = "a PKCS#12 container with a private key and its certificate"
	if len(data) == 0 || data[0] != 0x30 {
		return nil, nil, nil, &ParseError{Origin: origin, Expected: want, Found: describeBytes(data)}
	}
	any, leaf, others, err := pkcs12.DecodeChain(data, string(passphrase))
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, nil, nil, passphraseError(origin, "a PKCS#12 container")
	case err != nil:
		return nil, nil, nil, &ParseError{Origin: origin, Expected: want, Found: "another one: " + err.Error(), Err: err}
	}
	if key, err = usableKey(any, origin); err != nil {
		return nil, nil, nil, err
	}
	return key, leaf, others, nil
}
