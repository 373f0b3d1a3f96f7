package pki

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// crl makes the CA's list of serial numbers, issued some hours before now and good
// for two.
func crl(t *testing.T, ca *testCert, age time.Duration, serials ...int64) *CRL {
	t.Helper()
	c, err := ParseCRL(crlDER(t, ca, age, nil, serials...), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func crlDER(t *testing.T, ca *testCert, age time.Duration, more []pkix.Extension, serials ...int64) []byte {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: testNow.Add(-age), NextUpdate: testNow.Add(2*time.Hour - age), ExtraExtensions: more}
	for _, s := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: testNow.Add(-age), ReasonCode: 1})
	}
	issuer := *ca.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign // that it lacks in the certificate is no matter
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, &issuer, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCRLs(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	impostor := issue(t, "root", nil, isCA) // another key under the root's name
	inter := issue(t, "inter", root, func(c *x509.Certificate) { isCA(c); c.SerialNumber = big.NewInt(8) })
	leaf := issue(t, "leaf", inter, func(c *x509.Certificate) {
		c.SerialNumber, c.CRLDistributionPoints = big.NewInt(9), []string{"http://x"}
	})
	chain := []*x509.Certificate{leaf.cert, inter.cert, root.cert}
	for _, c := range []struct {
		name   string
		crls   []*CRL
		r      Revocation
		reason ChainReason
		text   string
	}{
		{"none", nil, RevocationRelaxed, 0, ""},
		{"none, but a URI", nil, RevocationIfURI, ChainUnchecked, "CN=leaf"},
		{"of the leaf's issuer only, ifuri", []*CRL{crl(t, inter, time.Hour)}, RevocationIfURI, 0, ""},
		{"of the leaf's issuer only, strict", []*CRL{crl(t, inter, time.Hour)}, RevocationStrict, ChainUnchecked, "CN=inter"},
		{"of both", []*CRL{crl(t, inter, time.Hour), crl(t, root, time.Hour, 9)}, RevocationStrict, 0, ""},
		{"leaf revoked", []*CRL{crl(t, inter, time.Hour, 7, 9)}, RevocationRelaxed, ChainRevoked, `CN=leaf`},
		{"intermediate revoked", []*CRL{crl(t, root, time.Hour, 8)}, RevocationRelaxed, ChainRevoked, "CN=inter"},
		{"revoked by an impostor", []*CRL{crl(t, impostor, time.Hour, 8)}, RevocationRelaxed, 0, ""},
		{"good by an impostor", []*CRL{crl(t, impostor, time.Hour), crl(t, inter, time.Hour)}, RevocationStrict, ChainUnchecked, "CN=inter"},
		{"old, revoked", []*CRL{crl(t, inter, 3*time.Hour, 9)}, RevocationRelaxed, ChainRevoked, "CN=leaf"},
		{"old, not revoked", []*CRL{crl(t, inter, 3*time.Hour)}, RevocationStrict, ChainUnchecked, "should have been replaced"},
		{"old, relaxed", []*CRL{crl(t, inter, 3*time.Hour)}, RevocationRelaxed, 0, ""},
		{"the newest counts", []*CRL{crl(t, inter, 2*time.Hour, 9), crl(t, inter, time.Hour)}, RevocationRelaxed, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := NewCRLs(c.crls, nil)
			_, err := VerifyChain(leaf.cert, []*x509.Certificate{inter.cert}, NewRoots([]*x509.Certificate{root.cert}), testNow,
				Options{Accept: func(found []*x509.Certificate) error { return set.Check(found, testNow, c.r) }})
			again := set.Check(chain, testNow, c.r)
			for _, err := range []error{err, again} {
				var ce *ChainError
				if c.text == "" && err != nil || c.text != "" && (!errors.As(err, &ce) || ce.Reason != c.reason || !strings.Contains(err.Error(), c.text)) {
					t.Errorf("got %v, want %v with %q", err, c.reason, c.text)
				}
			}
		})
	}
	if err := NewCRLs([]*CRL{crl(t, inter, time.Hour, 9)}, nil).CheckPinned(leaf.cert, []*x509.Certificate{root.cert, inter.cert}, testNow, RevocationRelaxed); err == nil {
		t.Error("a pinned certificate that is revoked was taken")
	}
	if err := NewCRLs(nil, nil).CheckPinned(leaf.cert, nil, testNow, RevocationStrict); err == nil {
		t.Error("a pinned certificate of which nothing is known was taken, in spite of strict")
	}
}

// What is fetched counts at once, and no longer than it is wanted.
func TestCRLCache(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	leaf := issue(t, "leaf", root, nil)
	cache := &CRLCache{}
	set := NewCRLs([]*CRL{crl(t, root, 2*time.Hour)}, cache)
	revoked := func() bool {
		return set.Check([]*x509.Certificate{leaf.cert, root.cert}, testNow, RevocationRelaxed) != nil
	}
	if revoked() || len(set.All()) != 1 {
		t.Error("revoked by an empty cache")
	}
	cache.Put("http://a", crl(t, root, time.Hour, 7))
	if !revoked() || len(set.All()) != 2 {
		t.Error("not revoked by what was fetched")
	}
	cache.Put("http://a", crl(t, root, 0))
	if revoked() {
		t.Error("revoked by what was replaced")
	}
	cache.Put("http://b", crl(t, root, -time.Minute, 7))
	cache.Keep([]string{"http://a"})
	if revoked() || len(cache.All()) != 1 {
		t.Error("revoked by what is not wanted any more")
	}
}

func TestParseCRL(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	der := crlDER(t, root, time.Hour, nil, 7)
	if c, err := ParseCRL(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), ""); err != nil || len(c.revoked) != 1 {
		t.Errorf("PEM: %v", err)
	}
	delta := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Value: []byte{2, 1, 1}}
	partial := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}
	for want, data := range map[string][]byte{
		"an empty file":           nil,
		"neither PEM nor DER":     []byte("x"),
		"PEM without one":         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"malformed":               der[:len(der)-1],
		"the extension 2.5.29.27": crlDER(t, root, time.Hour, []pkix.Extension{delta}),
		"the extension 2.5.29.28": crlDER(t, root, time.Hour, []pkix.Extension{partial}),
	} {
		if _, err := ParseCRL(data, "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected a word about %q, got %v", want, err)
		}
	}
	newer, older := crl(t, root, time.Hour), crl(t, root, 2*time.Hour)
	if other := crl(t, issue(t, "other", nil, isCA), 0); !newer.Replaces(older) || older.Replaces(newer) || !newer.Replaces(newer) || other.Replaces(newer) {
		t.Error("the newest CRL of an issuer replaces the others of it")
	}
}

func TestParseRawKey(t *testing.T) {
	key := issue(t, "x", nil, nil).key
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseRawKey(der, "")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := ParseRawKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), ""); err != nil || p.Fingerprint() != k.Fingerprint() {
		t.Errorf("PEM: %v", err)
	}
	for _, data := range [][]byte{nil, []byte("x"), {0x30, 0}, der[1:], pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), []byte("-----BEGIN PUBLIC KEY-----")} {
		if _, err := ParseRawKey(data, "f"); err == nil {
			t.Errorf("%q was taken for a public key", data)
		}
	}
}
