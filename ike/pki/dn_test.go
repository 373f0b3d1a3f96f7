package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"
)

func TestParseDN(t *testing.T) {
	for _, tt := range []struct{ in, der, out string }{
		{"C=CH", "300d310b3009060355040613024348", "C=CH"},
		{" c = CH , cn=*", "301b310b3009060355040613024348310c300a06035504030c" + "032a2a2a", ""},
		{"/C=CH/CN=a, b", "", "/C=CH/CN=a, b"},
		{"C=CH, O=strongSwan Project, CN=moon.strongswan.org", "", "C=CH, O=strongSwan Project, CN=moon.strongswan.org"},
		{"CN=x, E=moon@strongswan.org", "", "CN=x, E=moon@strongswan.org"},
		{"CN=x, emailAddress=y", "", "CN=x, E=y"},
		{"CN=x,", "", "CN=x"},
		{"CN=", "", "CN="},
		{"2.5.4.97=VAT", "", "2.5.4.97=VAT"},
		{"SN=12, S=Muster, G=Hans, DC=example, UID=7", "", "SN=12, S=Muster, G=Hans, DC=example, UID=7"},
	} {
		der, err := ParseDN(strings.ReplaceAll(tt.in, "cn=*", "cn=***"))
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if tt.der != "" && hex.EncodeToString(der) != tt.der {
			t.Errorf("%q: got %x, want %s", tt.in, der, tt.der)
		}
		if tt.out != "" && FormatDN(der) != tt.out {
			t.Errorf("%q: printed as %q", tt.in, FormatDN(der))
		}
		var seq pkix.RDNSequence
		if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 {
			t.Errorf("%q: not DER: %v", tt.in, err)
		}
	}
	for _, bad := range []string{"", "CH", "X=1", "C=CH, O", "E=mü", "CN=\xff", "1=2", "2.5.=x", "1.999999999999.1=x", "CN=a,,CN=b",
		strings.Repeat("CN=a,", 21)} {
		if der, err := ParseDN(bad); err == nil {
			t.Errorf("%q: accepted as %x", bad, der)
		}
	}
}

func TestDNFromTheStandardLibrary(t *testing.T) {
	c := issue(t, "moon", nil, nil).cert
	der, err := ParseDN("C=CH, O=Espalier, CN=moon")
	if err != nil || !EqualDN(der, c.RawSubject) {
		t.Errorf("%x and %x differ (%v)", der, c.RawSubject, err)
	}
	if got := FormatDN(c.RawSubject); got != "C=CH, O=Espalier, CN=moon" {
		t.Errorf("printed as %q", got)
	}
}

func TestEqualAndMatchDN(t *testing.T) {
	dn := func(s string) []byte {
		der, err := ParseDN(s)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	utf8 := dn("CN=moon") // the same with another string type
	utf8[11] = 0x0c
	utf8upper := dn("CN=MOON")
	utf8upper[11] = 0x0c
	for _, tt := range []struct {
		a, b []byte
		want bool
	}{
		{dn("C=CH, CN=moon"), dn("C=ch, CN=MOON"), true},
		{dn("C=CH, CN=moon"), dn("CN=moon, C=CH"), false},
		{dn("CN=moon"), utf8, true},
		{dn("CN=MOON"), utf8, false},
		{utf8, utf8upper, false},
		{dn("E=a@b"), dn("E=A@B"), true},
		{dn("UN=ab"), dn("UN=AB"), false},
		{dn("CN=a, CN=b"), dn("CN=a, OU=b"), false},
		{[]byte{0x30}, []byte{0x31}, false},
	} {
		if got := EqualDN(tt.a, tt.b); got != tt.want {
			t.Errorf("EqualDN(%q, %q) = %v", FormatDN(tt.a), FormatDN(tt.b), got)
		}
	}
	for _, tt := range []struct {
		name, pattern string
		wildcards     int
		ok            bool
	}{
		{"C=CH, O=x, CN=moon", "C=CH, O=x, CN=*", 1, true},
		{"C=CH, O=x, CN=moon", "C=*, O=*, CN=*", 3, true},
		{"C=CH, O=x, CN=moon", "C=CH, O=x", 0, false},
		{"C=CH, O=x", "C=CH, O=x, CN=*", 0, false},
		{"C=CH, O=x, CN=moon", "C=CH, O=y, CN=*", 0, false},
		{"C=CH, CN=moon", "C=CH, CN=m*", 0, false},
		{"C=CH, CN=moon", "C=ch, CN=moon", 0, true},
	} {
		if n, ok := MatchDN(dn(tt.name), dn(tt.pattern)); ok != tt.ok || ok && n != tt.wildcards {
			t.Errorf("MatchDN(%q, %q) = %d, %v", tt.name, tt.pattern, n, ok)
		}
	}
	if HasWildcard(dn("CN=x")) || !HasWildcard(dn("C=*, CN=x")) {
		t.Error("HasWildcard is wrong")
	}
}

// Two names that print alike would make a log lie.
func TestNamesWithSeparatorsPrintDifferently(t *testing.T) {
	tricky := issue(t, "x", nil, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "x, O=Espalier/CN=y"}
	}).cert.RawSubject
	if got := FormatDN(tricky); !strings.HasPrefix(got, "asn1dn:#") {
		t.Errorf("printed as %q", got)
	}
	if got := FormatDN([]byte{0x30, 0x05, 1}); got != "(invalid ID_DER_ASN1_DN)" {
		t.Errorf("malformed name printed as %q", got)
	}
}

// A multi-valued RDN is not the same as two RDNs.
func TestMultiValuedRDN(t *testing.T) {
	der := func(sets ...[]pkix.AttributeTypeAndValue) []byte {
		var seq pkix.RDNSequence
		for _, s := range sets {
			seq = append(seq, s)
		}
		b, err := asn1.Marshal(seq)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	cn := pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, 3}, Value: "a"}
	o := pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, 10}, Value: "b"}
	one, two := der([]pkix.AttributeTypeAndValue{cn, o}), der([]pkix.AttributeTypeAndValue{cn}, []pkix.AttributeTypeAndValue{o})
	if _, ok := MatchDN(one, two); ok || EqualDN(one, two) {
		t.Error("a set of two attributes equals two sets")
	}
}

func FuzzDN(f *testing.F) {
	for _, s := range []string{"C=CH, O=x, CN=moon", "/C=CH/CN=a,b", "E=a@b", "2.5.4.97=1", "CN=*", "="} {
		f.Add(s, []byte("\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02\x43\x48"))
	}
	f.Fuzz(func(t *testing.T, s string, der []byte) {
		if EqualDN(der, der) != true {
			t.Error("a name must equal itself")
		}
		FormatDN(der)
		HasWildcard(der)
		parsed, err := ParseDN(s)
		if err != nil {
			return
		}
		if !ValidDN(parsed) {
			t.Fatalf("%q gives invalid DER %x", s, parsed)
		}
		MatchDN(der, parsed)
		MatchDN(parsed, der)
	})
}
