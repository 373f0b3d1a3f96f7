package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"espalier/ike/pki"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

var (
	testNow    = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	testOctets = []byte("the signed octets of one side")
	allHashes  = []wire.HashAlgorithm{wire.HashSHA2_256, wire.HashSHA2_384, wire.HashSHA2_512, wire.HashIdentity}
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keys that are dear to make are made once; nothing depends on their value.
var (
	rsa2048    = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ec256      = func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }
	ec384      = func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) }
	ec521      = func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) }
	ed25519Key = func() crypto.Signer {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return must(crypto.Signer(k), err)
	}
)

type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (i *issued) fp() pki.Fingerprint { return pki.FingerprintOf(i.cert) }

func issue(t testing.TB, name string, key crypto.Signer, ca *issued, change func(*x509.Certificate)) *issued {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject:      pkix.Name{Country: []string{"CH"}, Organization: []string{"Espalier"}, CommonName: name},
		NotBefore:    testNow.AddDate(-1, 0, 0),
		NotAfter:     testNow.AddDate(1, 0, 0),
	}
	if change != nil {
		change(tmpl)
	}
	parent, signer := tmpl, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{must(x509.ParseCertificate(der)), key}
}

func asCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

func named(fqdn string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames = []string{fqdn}
		c.EmailAddresses = []string{"admin@" + fqdn}
		c.IPAddresses = []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")}
	}
}

func id(s string) ID { return must(ParseID(s)) }

// gateway is one side: its own certificate under the CA, which it trusts.
func gateway(t testing.TB, ca *issued, own ...*issued) *Credentials {
	t.Helper()
	b := NewBuilder()
	for _, o := range own {
		if err := b.AddCert(o.cert, "test"); err != nil {
			t.Fatal(err)
		}
		if err := b.AddKey(o.key, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if ca != nil {
		if err := b.AddCA(ca.cert, "test"); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

func withShared(t testing.TB, key string, ids ...string) *Credentials {
	t.Helper()
	b := NewBuilder()
	var list []ID
	for _, s := range ids {
		list = append(list, id(s))
	}
	if err := b.AddShared(secret.Bytes(key), list, "test"); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}
