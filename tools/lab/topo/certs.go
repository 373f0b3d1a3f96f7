package topo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// KeyKind is a kind of signature key.
type KeyKind string

// The kinds of keys.
const (
	RSA      KeyKind = "RSA"      // 2048 bits
	ECDSA    KeyKind = "ECDSA"    // P-256
	ECDSA384 KeyKind = "ECDSA384" // P-384
	Ed25519  KeyKind = "Ed25519"
)

// newKey makes a key of the kind.
func newKey(kind KeyKind) (crypto.Signer, error) {
	switch kind {
	case RSA:
		return rsa.GenerateKey(rand.Reader, 2048)
	case ECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSA384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("no keys of kind %q", kind)
}

// Cert is a certificate with its key, as files of a configuration folder take them.
type Cert struct {
	// Cert and Key are PEM; Key is PKCS#8.
	Cert, Key []byte

	x509 *x509.Certificate
	key  crypto.Signer
	last int64 // serial number of the last certificate that this one issued
}

// NewCA makes a root certificate that is valid from an hour ago until tomorrow.
func NewCA(kind KeyKind, name string) (*Cert, error) {
	return issue(nil, kind, &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Espalier Lab"}, CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	})
}

// Intermediate makes a certificate of an authority below this one.
func (ca *Cert) Intermediate(kind KeyKind, name string) (*Cert, error) {
	return issue(ca, kind, &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Espalier Lab"}, CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	})
}

// Issue makes an end's certificate with subject O=Espalier Lab, CN=name, the name as DNS name, and the addresses.
func (ca *Cert) Issue(kind KeyKind, name string, addrs ...net.IP) (*Cert, error) {
	return issue(ca, kind, &x509.Certificate{
		Subject:  pkix.Name{Organization: []string{"Espalier Lab"}, CommonName: name},
		DNSNames: []string{name}, IPAddresses: addrs, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// issue signs the template with the authority's key, or with its own when there is no authority.
func issue(ca *Cert, kind KeyKind, template *x509.Certificate) (*Cert, error) {
	key, err := newKey(kind)
	if err != nil {
		return nil, err
	}
	self := &Cert{key: key}
	signer, parent := self, template
	if ca != nil {
		signer, parent = ca, ca.x509
	}
	signer.last++
	template.SerialNumber = big.NewInt(signer.last)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", template.Subject, err)
	}
	if self.x509, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", template.Subject, err)
	}
	self.Cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	self.Key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	return self, nil
}

// Public is the certificate's public key, PEM.
func (c *Cert) Public() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: c.x509.RawSubjectPublicKeyInfo})
}

// CRL is the authority's list with the certificates that it revokes, PEM, good for a day.
func (ca *Cert) CRL(revoked ...*Cert) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.x509.SerialNumber, RevocationTime: list.ThisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.x509, ca.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}
