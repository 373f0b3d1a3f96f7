package auth

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"espalier/ike/wire"
)

// strongSwan 6.0.1 lists the same text in "swanctl --list-conns --raw" for every row of the first table but the addresses
// and DNs after a prefix, which it does not convert.
func TestParseID(t *testing.T) {
	const cn = "300f310d300b06035504031304" + "6d6f6f6e" // CN=moon
	for _, tt := range []struct {
		in   string
		typ  wire.IDType
		data string // hexadecimal after '#', else text
		out  string // printed; empty: as in
	}{
		{"", 0, "", "%any"},
		{"%any", 0, "", ""},
		{"%any6", 0, "", "%any"},
		{"*", 0, "", "%any"},
		{"0.0.0.0", 0, "", "%any"},
		{"::", 0, "", "%any"},
		{"0::0", 0, "", "%any"},
		{"192.0.2.1", wire.IDIPv4Addr, "#c0000201", ""},
		{"192.0.2.256", wire.IDFQDN, "192.0.2.256", ""},
		{"2001:DB8::1", wire.IDIPv6Addr, "#20010db8000000000000000000000001", "2001:db8::1"},
		{"::ffff:192.0.2.1", wire.IDIPv6Addr, "#00000000000000000000ffffc0000201", ""},
		{"fe80::1%eth0", wire.IDKeyID, "fe80::1%eth0", ""},
		{"a:b", wire.IDKeyID, "a:b", ""},
		{"moon.strongswan.org", wire.IDFQDN, "moon.strongswan.org", ""},
		{"@moon", wire.IDFQDN, "moon", "moon"},
		{"@192.0.2.1", wire.IDFQDN, "192.0.2.1", "192.0.2.1"},
		{"moon@strongswan.org", wire.IDRFC822Addr, "moon@strongswan.org", ""},
		{"@@moon", wire.IDRFC822Addr, "moon", "moon"},
		{"*@strongswan.org", wire.IDRFC822Addr, "*@strongswan.org", ""},
		{"*.strongswan.org", wire.IDFQDN, "*.strongswan.org", ""},
		{"@#00ff", wire.IDKeyID, "#00ff", "00:ff"},
		{"@#0f0", wire.IDKeyID, "#00f0", "00:f0"},
		{"@#6d6f6f6e", wire.IDKeyID, "moon", "moon"},
		{"CN=moon", wire.IDDERASN1DN, "#" + cn, ""},
		{"/CN=moon", wire.IDDERASN1DN, "#" + cn, "CN=moon"},
		{"asn1dn:#" + cn, wire.IDDERASN1DN, "#" + cn, "CN=moon"},
		{"asn1dn:CN=moon", wire.IDDERASN1DN, "#" + cn, "CN=moon"},
		{"c = CH , cn=moon,", wire.IDDERASN1DN, "#301c310b3009060355040613024348310d300b060355040313046d6f6f6e", "C=CH, CN=moon"},
		{"FQDN:a=b", wire.IDFQDN, "a=b", "a=b"},
		{"dns:moon", wire.IDFQDN, "moon", "moon"},
		{"email:moon", wire.IDRFC822Addr, "moon", "moon"},
		{"rfc822:moon", wire.IDRFC822Addr, "moon", "moon"},
		{"userfqdn:moon", wire.IDRFC822Addr, "moon", "moon"},
		{"keyid:a=b", wire.IDKeyID, "a=b", "a=b"},
		{"keyid:12345678901234567890", wire.IDKeyID, "12345678901234567890", "31:32:33:34:35:36:37:38:39:30:31:32:33:34:35:36:37:38:39:30"},
		{"ipv4:192.0.2.1", wire.IDIPv4Addr, "#c0000201", "192.0.2.1"},
		{"ipv4:#c0000201", wire.IDIPv4Addr, "#c0000201", "192.0.2.1"},
		{"ipv6:2001:db8::1", wire.IDIPv6Addr, "#20010db8000000000000000000000001", "2001:db8::1"},
		{"asn1gn:#0102", wire.IDDERASN1GN, "#0102", "(ASN.1 general name)"},
	} {
		got, err := ParseID(tt.in)
		want := ID{tt.typ, tt.data}
		if h, ok := strings.CutPrefix(tt.data, "#"); ok {
			want.Data = string(must(hex.DecodeString(h)))
		}
		if err != nil || got != want {
			t.Errorf("%q: got %d %x, %v", tt.in, got.Type, got.Data, err)
			continue
		}
		if tt.out == "" {
			tt.out = tt.in
		}
		if got.String() != tt.out {
			t.Errorf("%q: printed as %q", tt.in, got)
		}
	}
	for _, bad := range []string{"X=moon", "@", "@@", "@#xy", "@#", "ipv4:moon", "ipv4:::1", "ipv6:192.0.2.1", "ipv4:#00", "asn1dn:moon",
		"asn1dn:#3001", "fqdn:", "keyid:", "moon\x00.org", strings.Repeat("a", MaxIDSize+1)} {
		if got, err := ParseID(bad); err == nil {
			t.Errorf("%q: accepted as %d %q", bad, got.Type, got)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		id, pattern string
		score       int
	}{
		{"moon.example.org", "%any", MatchAny},
		{"moon.example.org", "Moon.Example.ORG", MatchPerfect},
		{"moon.example.org", "*.example.org", MatchOne},
		{"moon.example.org", "*.EXAMPLE.org", MatchOne},
		{"example.org", "*.example.org", 0},
		{"moon.example.org", "*.example.com", 0},
		{"moon.example.org", "moon.*", 0},
		{"moon.example.org", "fqdn:*", MatchAny},
		{"moon.example.org", "email:moon.example.org", 0},
		{"a@example.org", "*@example.org", MatchOne},
		{"a@x.example.org", "*@example.org", 0},
		{"192.0.2.1", "192.0.2.1", MatchPerfect},
		{"192.0.2.1", "192.0.2.2", 0},
		{"keyid:a", "keyid:A", 0},
		{"C=CH, O=x, CN=a", "C=CH, O=x, CN=*", MatchOne},
		{"C=CH, O=x, CN=a", "C=CH, O=*, CN=*", MatchPerfect - 2},
		{"C=CH, O=x, CN=a", "C=ch, O=X, CN=A", MatchPerfect},
		{"C=CH, O=x, CN=a", "C=CH, O=y, CN=*", 0},
	} {
		score, ok := id(tt.id).Matches(id(tt.pattern))
		if score != tt.score || ok != (tt.score > 0) {
			t.Errorf("%q under %q: %d, %v, want %d", tt.id, tt.pattern, score, ok, tt.score)
		}
	}
	for s, want := range map[string]bool{"%any": true, "*.x": true, "moon": false, "CN=*": true, "CN=x": false, "192.0.2.1": false} {
		if id(s).IsPattern() != want {
			t.Errorf("IsPattern(%q) is not %v", s, want)
		}
	}
}

func TestIDWire(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "2001:db8::1", "moon", "a@b", "keyid:x", "C=CH, CN=moon"} {
		p := id(s).Wire(true)
		if got, err := IDFromWire(p); err != nil || got != id(s) || !p.Initiator {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, p := range []*wire.ID{
		nil,
		{IDType: wire.IDIPv4Addr, Data: []byte{1, 2, 3}},
		{IDType: wire.IDIPv6Addr, Data: make([]byte, 4)},
		{IDType: wire.IDFQDN},
		{IDType: wire.IDFQDN, Data: []byte("moon\x00.evil.org")},
		{IDType: wire.IDDERASN1DN, Data: []byte("CN=moon")},
		{IDType: wire.IDNull},
		{IDType: 200, Data: []byte("x")},
		{IDType: wire.IDKeyID, Data: make([]byte, MaxIDSize+1)},
		{},
	} {
		if got, err := IDFromWire(p); err == nil {
			t.Errorf("%v accepted as %v", p, got)
		}
	}
	if AddrID(netip.MustParseAddr("::ffff:192.0.2.1")) != id("192.0.2.1") || !AddrID(netip.Addr{}).IsAny() {
		t.Error("AddrID is wrong")
	}
}

// Equal is symmetric and what is equal matches perfectly; a pattern match never scores as high as equality.
func TestEqualAndMatchAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"moon", "MOON", "*.x", "a.x", "A.X", "a@x", "*@x", "keyid:moon", "CN=moon", "CN=MOON", "CN=*", "CN=mü", "CN=MÜ",
		"C=CH, CN=*", "C=CH, CN=a", "C=*, CN=a", "192.0.2.1", "2001:db8::1", "%any", "email:*", "fqdn:*"}
	for range 5000 {
		a, b := id(words[r.IntN(len(words))]), id(words[r.IntN(len(words))])
		score, ok := a.Matches(b)
		switch {
		case a.Equal(b) != b.Equal(a):
			t.Fatalf("Equal(%q, %q) is not symmetric", a, b)
		case a.Equal(b) != (score == MatchPerfect) && !b.IsAny():
			t.Fatalf("%q and %q: equal %v, score %d", a, b, a.Equal(b), score)
		case ok != (score > 0):
			t.Fatalf("%q under %q: %d and %v", a, b, score, ok)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"%any", "moon", "@#00", "@@a", "C=CH, CN=*", "/CN=x", "ipv4:1.2.3.4", "asn1dn:#3000", "a@b", "::1", "keyid:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseID(s)
		if err != nil {
			return
		}
		_ = a.String()
		if !a.IsAny() {
			back, err := IDFromWire(a.Wire(true))
			if err != nil || back != a {
				t.Fatalf("%q: %q does not survive the wire: %v", s, a, err)
			}
		}
		if !a.Equal(a) {
			t.Fatalf("%q does not equal itself", a)
		}
		if score, ok := a.Matches(a); !ok || score != MatchPerfect && !a.IsAny() {
			t.Fatalf("%q does not match itself: %d", a, score)
		}
	})
}
