package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/youmark/pkcs8"
)

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestParsePrivateKey(t *testing.T) {
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p521 := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	sec1 := must(x509.MarshalECPrivateKey(p256))
	params := pemOf("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	encrypted := must(pkcs8.MarshalPrivateKey(rsaKey, []byte("open sesame"), nil))
	//lint:ignore SA1019 what older boxes have
	oldPEM := pem.EncodeToMemory(must(x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), []byte("open sesame"), x509.PEMCipherAES256)))
	for _, tt := range []struct {
		name string
		data []byte
		pass string
		key  crypto.Signer
	}{
		{"PKCS#1 PEM", pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), "", rsaKey},
		{"PKCS#1 DER", x509.MarshalPKCS1PrivateKey(rsaKey), "", rsaKey},
		{"SEC1 PEM after parameters", append(params, pemOf("EC PRIVATE KEY", sec1)...), "", p256},
		{"SEC1 DER", sec1, "", p256},
		{"PKCS#8 ECDSA", pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(p521))), "", p521},
		{"PKCS#8 Ed25519 DER", must(x509.MarshalPKCS8PrivateKey(ed)), "", ed},
		{"encrypted PKCS#8 PEM", pemOf("ENCRYPTED PRIVATE KEY", encrypted), "open sesame", rsaKey},
		{"encrypted PKCS#8 DER", encrypted, "open sesame", rsaKey},
		{"encrypted PEM", oldPEM, "open sesame", rsaKey},
	} {
		got, err := ParsePrivateKey(tt.data, []byte(tt.pass), "f")
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if !got.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(tt.key.Public()) {
			t.Errorf("%s: another key", tt.name)
		}
	}
	for name, data := range map[string][]byte{"PKCS#8": pemOf("ENCRYPTED PRIVATE KEY", encrypted), "DER": encrypted, "PEM": oldPEM} {
		for _, pass := range []string{"", "hunter2"} {
			_, err := ParsePrivateKey(data, []byte(pass), "moon.pem")
			if !errors.Is(err, ErrPassphrase) || !strings.Contains(err.Error(), "moon.pem") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s with passphrase %q: %v", name, pass, err)
			}
		}
	}
}

func TestParsePrivateKeyRefuses(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	x := must(ecdh.X25519().GenerateKey(rand.Reader))
	for _, tt := range []struct {
		name, text string
		data       []byte
	}{
		{"empty", "empty", nil},
		{"noise", "neither PEM nor DER", []byte("hello")},
		{"certificate", `"CERTIFICATE"`, pemOf("CERTIFICATE", []byte{0x30, 0})},
		{"OpenSSH", "ssh-keygen", pemOf("OPENSSH PRIVATE KEY", []byte("x"))},
		{"broken PEM", "cannot be decoded", []byte("-----BEGIN PRIVATE KEY-----\nxx")},
		{"broken DER", "damaged", pemOf("PRIVATE KEY", []byte{0x30, 0x03, 2, 1, 0})},
		{"P-224", "P-224", must(x509.MarshalPKCS8PrivateKey(p224))},
		{"X25519", "does not sign", must(x509.MarshalPKCS8PrivateKey(x))},
	} {
		_, err := ParsePrivateKey(tt.data, nil, "dir/f.pem")
		var pe *ParseError
		if !errors.As(err, &pe) || !strings.HasPrefix(err.Error(), "dir/f.pem: expected ") || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestParseCertificates(t *testing.T) {
	a, b := issue(t, "a", nil, isCA).cert, issue(t, "b", nil, isCA).cert
	bundle := append(append([]byte("# comment\n"), pemOf("CERTIFICATE", a.Raw)...), pemOf("CERTIFICATE", b.Raw)...)
	if cs, err := ParseCertificates(bundle, "f"); err != nil || len(cs) != 2 || !cs[1].Equal(b) {
		t.Errorf("bundle: %d certificates, %v", len(cs), err)
	}
	if _, err := ParseCertificate(bundle, "f"); err == nil || !strings.Contains(err.Error(), "one certificate, found 2") {
		t.Errorf("bundle as one: %v", err)
	}
	if c, err := ParseCertificate(a.Raw, "f"); err != nil || !c.Equal(a) {
		t.Errorf("DER: %v", err)
	}
	// A negative serial number: the octet after the tag and length of the serial, 7, becomes -121.
	i := bytes.Index(a.Raw, []byte{2, 1, 7})
	negative := bytes.Clone(a.Raw)
	negative[i+2] = 0x87
	for _, tt := range []struct {
		name, text string
		data       []byte
	}{
		{"negative serial", "positive serial number", negative},
		{"key", `"PRIVATE KEY"`, pemOf("PRIVATE KEY", []byte("x"))},
		{"empty", "empty", nil},
		{"trailing", "other data after it", append(bytes.Clone(a.Raw), 0)},
		{"other DER", "no certificate", []byte{0x30, 0}},
		{"noise", "neither", []byte("noise")},
	} {
		_, err := ParseCertificates(tt.data, "dir/c.pem")
		var pe *ParseError
		if !errors.As(err, &pe) || !strings.HasPrefix(err.Error(), "dir/c.pem: expected ") || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestCheckPublicKey(t *testing.T) {
	if err := CheckPublicKey("no key"); err == nil {
		t.Error("a string passed as public key")
	}
	k := must(rsa.GenerateKey(rand.Reader, 2048)).PublicKey
	k.N.Lsh(k.N, MaxRSABits)
	if err := CheckPublicKey(&k); err == nil || !strings.Contains(err.Error(), "1024 to 8192") {
		t.Errorf("an RSA key of 10240 bits: %v", err)
	}
}
