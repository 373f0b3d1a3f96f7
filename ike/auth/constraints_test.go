package auth

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"espalier/ike/pki"
)

// signed is the job that a peer's AUTH makes, signed by l with the credentials.
func signedJob(t *testing.T, creds *Credentials, l Local, name string) (VerifyJob, SignResult) {
	t.Helper()
	r, err := Sign(creds, SignJob{Local: l, LocalID: id(name), RemoteID: id("sun"), Octets: testOctets, PeerHashes: allHashes, CertReq: true}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	job := VerifyJob{LocalID: id("sun"), PeerID: id(name), Octets: testOctets, Auth: r.Auth, Now: testNow}
	for _, c := range r.Certs {
		job.Certs = append(job.Certs, c.Data)
	}
	return job, r
}

func TestChainConstraints(t *testing.T) {
	policy, err := x509.ParseOID("1.2.3.4")
	if err != nil {
		t.Fatal(err)
	}
	ca := issue(t, "ca", ec256(), nil, asCA)
	moon := issue(t, "moon", ec256(), ca, func(c *x509.Certificate) { named("moon")(c); c.Policies = []x509.OID{policy} })
	issuer := *ca.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	list := func(serial int64) *pki.CRL {
		der := must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: testNow.Add(-time.Hour), NextUpdate: testNow.Add(time.Hour),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: testNow}}}, &issuer, ca.key))
		return must(pki.ParseCRL(der, ""))
	}
	gate := func(crls ...*pki.CRL) *Credentials {
		b := NewBuilder()
		if err := b.AddCA(ca.cert, ""); err != nil {
			t.Fatal(err)
		}
		for _, c := range crls {
			b.AddCRL(c)
		}
		return b.Build()
	}
	good, _ := signedJob(t, gateway(t, nil, moon), Local{Method: MethodPubkey}, "moon")
	for _, c := range []struct {
		name  string
		creds *Credentials
		r     Remote
		check Check // empty: accepted
		text  string
	}{
		{"CA by its name", gate(), Remote{CAID: id("C=CH, O=Espalier, CN=*")}, "", ""},
		{"another CA", gate(), Remote{CAID: id("C=CH, O=Espalier, CN=venus")}, CheckConstraint, "CN=venus"},
		{"the peer is no CA for itself", gate(), Remote{CAID: id("C=CH, O=Espalier, CN=moon")}, CheckConstraint, "CN=moon"},
		{"pinned, but a CA is asked for", gate(), Remote{Certs: []pki.Fingerprint{moon.fp()}, CAID: id("C=CH, O=Espalier, CN=venus")}, CheckConstraint, "CN=venus"},
		{"policy", gate(), Remote{Policies: []string{"1.2.3.4"}}, "", ""},
		{"another policy, too", gate(), Remote{Policies: []string{"1.2.3.4", "1.2.3.5"}}, CheckConstraint, "1.2.3.5"},
		{"pinned, another policy", gate(), Remote{Certs: []pki.Fingerprint{moon.fp()}, Policies: []string{"1.2.3.5"}}, CheckConstraint, "1.2.3.5"},
		{"revoked", gate(list(7)), Remote{}, CheckRevocation, "revoked"},
		{"pinned, revoked", gate(list(7)), Remote{Certs: []pki.Fingerprint{moon.fp()}}, CheckRevocation, "revoked"},
		{"another is revoked", gate(list(6)), Remote{Revocation: pki.RevocationStrict}, "", ""},
		{"unknown, strict", gate(), Remote{Revocation: pki.RevocationStrict}, CheckRevocation, "strict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			job := good
			job.Remote = c.r
			if c.check != "" {
				wantCheck(t, c.creds, job, c.check, c.text)
			} else if _, err := Verify(c.creds, job); err != nil {
				t.Error(err)
			}
		})
	}
	// A chain that was found right before is not taken when a CRL comes.
	job := good
	creds := gate(list(7))
	for range 2 {
		wantCheck(t, creds, job, CheckRevocation, "revoked")
	}
}

func TestRawKeys(t *testing.T) {
	ours, other := ec256(), ec256()
	raw := func(key crypto.Signer) *pki.RawKey {
		return must(pki.ParseRawKey(must(x509.MarshalPKIXPublicKey(key.Public())), ""))
	}
	k, o := raw(ours), raw(other)
	b := NewBuilder()
	if err := b.AddKey(ours, ""); err != nil {
		t.Fatal(err)
	}
	b.AddRawKey(k, ID{})
	local := Local{Method: MethodAny, Keys: []pki.Fingerprint{k.Fingerprint()}}
	creds := b.Build()
	job, r := signedJob(t, creds, local, "moon")
	if len(r.Certs) != 0 {
		t.Errorf("%d certificates are sent with a raw key", len(r.Certs))
	}
	if own, err := Identity(creds, local, netip.MustParseAddr("192.0.2.1")); err != nil || own != RawKeyID(k) {
		t.Errorf("identity of a raw key: %v, %v", own, err)
	}
	v := NewBuilder()
	v.AddRawKey(k, id("moon"))
	v.AddRawKey(o, id("moon"))
	gate := v.Build()
	job.Remote = Remote{Method: MethodPubkey, ID: id("moon"), Keys: []pki.Fingerprint{o.Fingerprint(), k.Fingerprint()}}
	if r, err := Verify(gate, job); err != nil || len(r.Chain) != 0 {
		t.Errorf("a raw key: %v", err)
	}
	job.Remote.Keys = job.Remote.Keys[:1]
	wantCheck(t, gate, job, CheckSignature, "does not fit")
	wantCheck(t, gateway(t, nil), job, CheckCertMissing, "raw public keys")
	job.Remote.Keys = nil // that it is loaded is not enough
	wantCheck(t, gate, job, CheckCertMissing, "neither")
	ca := issue(t, "ca", ec256(), nil, asCA)
	moon := issue(t, "moon", ec256(), ca, named("moon"))
	byCert, _ := signedJob(t, gateway(t, nil, moon), Local{Method: MethodPubkey}, "moon")
	byCert.Remote = Remote{Keys: []pki.Fingerprint{k.Fingerprint()}}
	wantCheck(t, gateway(t, ca), byCert, CheckCertMissing, "raw public keys")
	byCert.Remote.CACerts = []pki.Fingerprint{ca.fp()}
	if _, err := Verify(gateway(t, ca), byCert); err != nil {
		t.Errorf("a chain where raw keys or a CA are configured: %v", err)
	}
}
