package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strconv"
	"strings"
)

// ParseError says what a file was expected to hold and what it held. It never holds key material.
type ParseError struct {
	Origin   string // file name or other origin
	Expected string
	Found    string
	Err      error // cause, may be nil
}

// Error is one line: origin, expected, found.
func (e *ParseError) Error() string {
	s := "expected " + e.Expected + ", found " + e.Found
	if e.Origin == "" {
		return s
	}
	return e.Origin + ": " + s
}

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// ParseCertificates reads one or more certificates, PEM (other text between the blocks is ignored) or a single DER.
// Errors are a *ParseError.
func ParseCertificates(data []byte, origin string) ([]*x509.Certificate, error) {
	const want = "an X.509 certificate in PEM or DER"
	if !looksPEM(data) {
		if len(data) == 0 || data[0] != 0x30 {
			return nil, &ParseError{Origin: origin, Expected: want, Found: describeBytes(data)}
		}
		c, err := ParseDER(data, origin)
		if err != nil {
			return nil, err
		}
		return []*x509.Certificate{c}, nil
	}
	var certs []*x509.Certificate
	var other string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" && block.Type != "X509 CERTIFICATE" {
			other = block.Type
			continue
		}
		c, err := ParseDER(block.Bytes, origin)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		found := "PEM that cannot be decoded"
		if other != "" {
			found = "a PEM block " + strconv.Quote(other)
		}
		return nil, &ParseError{Origin: origin, Expected: want, Found: found}
	}
	return certs, nil
}

// ParseCertificate reads exactly one certificate, PEM or DER. Errors are a *ParseError.
func ParseCertificate(data []byte, origin string) (*x509.Certificate, error) {
	cs, err := ParseCertificates(data, origin)
	if err != nil {
		return nil, err
	}
	if len(cs) != 1 {
		return nil, &ParseError{Origin: origin, Expected: "one certificate", Found: strconv.Itoa(len(cs)) + " certificates"}
	}
	return cs[0], nil
}

// ParseDER reads one certificate, and explains those that other IPsec implementations use and that crypto/x509 refuses.
// Errors are a *ParseError.
func ParseDER(der []byte, origin string) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err == nil {
		return c, nil
	}
	e := &ParseError{Origin: origin, Expected: "a well-formed X.509 certificate (RFC 5280)", Found: "one that is not: " + err.Error(), Err: err}
	switch s := err.Error(); {
	case strings.Contains(s, "negative serial"):
		e.Expected, e.Found = "a certificate with a positive serial number (RFC 5280 4.1.2.2)", "a negative one; its CA has to issue it again"
	case strings.Contains(s, "trailing data"):
		e.Found = "other data after it"
	case strings.Contains(s, "malformed"):
		e.Found = "DER that is no certificate, or a damaged one"
	case strings.Contains(s, "elliptic curve"):
		e.Expected, e.Found = "an ECDSA key on P-256, P-384 or P-521", "another curve"
	}
	return nil, e
}

func looksPEM(data []byte) bool { return bytes.Contains(data, []byte("-----BEGIN ")) }

// describeBytes says what data looks like without showing it: it might be a key.
func describeBytes(data []byte) string {
	if len(data) == 0 {
		return "an empty file"
	}
	if data[0] == 0x30 {
		return "other DER"
	}
	return strconv.Itoa(len(data)) + " octets that are neither PEM nor DER"
}

// ErrPassphrase says that a private key is encrypted and the passphrase is missing or wrong.
var ErrPassphrase = errors.New("passphrase missing or wrong")
