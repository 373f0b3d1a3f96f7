package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"espalier/ike/pki"
	"espalier/internal/secret"
)

func TestBestSharedKey(t *testing.T) {
	b := NewBuilder()
	for _, k := range []struct {
		key string
		ids []string
	}{
		{"nobody", nil},
		{"any", []string{"%any"}},
		{"moon-sun", []string{"moon", "sun"}},
		{"moon", []string{"moon"}},
		{"sun", []string{"sun"}},
		{"wild", []string{"*.example.org"}},
		{"exact", []string{"a.example.org"}},
		{"moon-wild", []string{"moon", "*.example.com"}},
		{"dn", []string{"C=CH, CN=*"}},
		{"address", []string{"192.0.2.7"}},
		{"sun again", []string{"sun"}},
	} {
		var ids []ID
		for _, s := range k.ids {
			ids = append(ids, id(s))
		}
		if err := b.AddShared(secret.Bytes(k.key), ids, ""); err != nil {
			t.Fatal(err)
		}
	}
	c := b.Build()
	for _, tt := range []struct{ mine, peer, want string }{
		{"moon", "sun", "moon-sun"},
		{"sun", "MOON", "moon-sun"},
		{"x", "sun", "moon-sun"},  // as good as "sun" alone, and first
		{"moon", "x", "moon-sun"}, // as good as "moon" alone, and first
		{"x", "y", "nobody"},
		{"x", "b.example.org", "wild"},
		{"x", "A.example.org", "exact"},
		{"moon", "b.example.com", "moon-wild"},
		{"sun", "b.example.com", "moon-wild"},
		{"x", "C=ch, CN=venus", "dn"},
		{"x", "192.0.2.7", "address"},
		{"moon", "%any", "moon-sun"},
	} {
		got, ok := c.shared.find(id(tt.mine), id(tt.peer))
		if !ok || string(got) != tt.want {
			t.Errorf("%s, %s: %q, want %q", tt.mine, tt.peer, string(got), tt.want)
		}
	}
}

// The index finds what trying all keys finds.
func TestSharedIndexAgainstAll(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"moon", "MOON", "sun", "a.x", "A.X", "*.x", "%any", "CN=a", "CN=A", "CN=*", "C=CH, CN=a", "a@x", "*@x", "192.0.2.1", "keyid:k"}
	pick := func() ID { return id(names[r.IntN(len(names))]) }
	for round := range 3000 {
		var keys []*sharedKey
		for i := range r.IntN(6) {
			k := &sharedKey{key: secret.Bytes(fmt.Sprint(i)), order: i}
			for range r.IntN(4) {
				k.ids = append(k.ids, pick())
			}
			keys = append(keys, k)
		}
		mine, peer := pick(), pick()
		var best *sharedKey
		var bestFit fit
		for _, k := range keys {
			if f, ok := k.fit(mine, peer); ok && (best == nil || f.better(bestFit)) {
				best, bestFit = k, f
			}
		}
		s := newSharedKeys(keys)
		got, ok := s.find(mine, peer)
		if ok != (best != nil) || ok && string(got) != string(best.key) {
			t.Fatalf("round %d, %q and %q: found %q, %v", round, mine, peer, string(got), ok)
		}
	}
}

func TestIdentity(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.9")
	ca := issue(t, "ca", ec256(), nil, asCA)
	moon := issue(t, "moon", ec256(), ca, named("moon"))
	bare := issue(t, "", ec256(), ca, func(c *x509.Certificate) { named("bare")(c); c.Subject = pkix.Name{} })
	nameless := issue(t, "", ec256(), ca, func(c *x509.Certificate) { c.Subject = pkix.Name{} })
	for _, tt := range []struct {
		name  string
		creds *Credentials
		local Local
		addr  netip.Addr
		want  string // empty: an error
	}{
		{"configured", gateway(t, ca), Local{ID: id("moon")}, addr, "moon"},
		{"pattern", gateway(t, ca), Local{ID: id("*.x")}, addr, ""},
		{"address", gateway(t, ca), Local{Method: MethodPSK}, addr, "192.0.2.9"},
		{"nothing", gateway(t, ca), Local{Method: MethodPSK}, netip.Addr{}, ""},
		{"subject", gateway(t, ca, moon), Local{Method: MethodPubkey}, addr, "C=CH, O=Espalier, CN=moon"},
		{"subjectAltName", gateway(t, ca, bare), Local{Method: MethodPubkey}, addr, "bare"},
		{"no name", gateway(t, ca, nameless), Local{Method: MethodPubkey}, addr, ""},
		{"second certificate", gateway(t, ca, bare, moon), Local{Certs: []pki.Fingerprint{moon.fp()}}, addr, "C=CH, O=Espalier, CN=moon"},
		{"no certificate", gateway(t, ca), Local{Method: MethodPubkey}, addr, "192.0.2.9"},
	} {
		got, err := Identity(tt.creds, tt.local, tt.addr)
		if (err == nil) != (tt.want != "") || err == nil && got != id(tt.want) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}
