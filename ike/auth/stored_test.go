package auth

import (
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
	if want := "[moon false true sun false false ca true false]"; fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
