package auth

import (
	"crypto/rand"
	"fmt"
	"testing"
)

// A CA that is both stored and trusted is listed once.
func TestCertificatesAreListedOnce(t *testing.T) {
	ca := issue(t, "ca", ec256(), nil, asCA)
	own, theirs := issue(t, "moon", ec256(), ca, nil), issue(t, "sun", ec256(), ca, nil)
	b := NewBuilder()
	for _, c := range []*issued{own, theirs, ca} {
		if err := b.AddCert(c.cert, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.AddKey(own.key, "test"); err != nil {
		t.Fatal(err)
	}
	if err := b.AddCA(ca.cert, "test"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range b.Build().Certificates() {
		got = append(got, fmt.Sprint(s.Cert.Subject.CommonName, " ", s.CA, " ", s.HasKey))
	}
	if want := "[ca true false sun false false moon false true]"; fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Certificates that authentication went by are listed first, a peer's as long as it is
// not forgotten; those of peers that were refused are not.
func TestCertificatesThatWereMet(t *testing.T) {
	ca := issue(t, "ca", ec256(), nil, asCA)
	moon, sun, other := issue(t, "moon", ec256(), ca, named("moon")), issue(t, "sun", ec256(), ca, named("sun")), issue(t, "other", ec256(), nil, named("other"))
	creds := gateway(t, ca, moon)
	ours := func(c *Credentials, me, peer string) SignResult {
		t.Helper()
		r, err := Sign(c, SignJob{Local: Local{Method: MethodPubkey}, LocalID: id(me), RemoteID: id(peer), Octets: testOctets, PeerHashes: allHashes}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	theirs := func(from *issued, name string) error {
		r := ours(gateway(t, nil, from), name, "moon")
		_, err := Verify(creds, VerifyJob{LocalID: id("moon"), PeerID: id(name), Octets: testOctets, Auth: r.Auth, Certs: [][]byte{from.cert.Raw}, Now: testNow})
		return err
	}
	list := func() string {
		var got []string
		for _, s := range creds.Certificates() {
			got = append(got, fmt.Sprint(s.Cert.Subject.CommonName, " ", s.HasKey))
		}
		return fmt.Sprint(got)
	}
	if err := theirs(sun, "sun"); err != nil {
		t.Fatal(err)
	}
	ours(creds, "moon", "sun")
	if theirs(other, "other") == nil {
		t.Error("a peer that nobody vouches for was believed")
	}
	if got, want := list(), "[sun false moon true ca false]"; got != want {
		t.Errorf("met: got %s, want %s", got, want)
	}
	creds.ForgetChains()
	if got, want := list(), "[ca false moon true]"; got != want {
		t.Errorf("forgotten: got %s, want %s", got, want)
	}
	for i := range maxMet + 1 {
		cert := *sun.cert
		cert.Raw = append([]byte{byte(i), byte(i >> 8)}, cert.Raw...)
		creds.met.note(&cert)
	}
	if n := len(creds.met.list()); n != maxMet || len(creds.met.has) != maxMet {
		t.Errorf("%d certificates are remembered, not %d", n, maxMet)
	}
}
