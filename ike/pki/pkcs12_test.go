package pki

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"
)

func TestParsePKCS12(t *testing.T) {
	ca := issue(t, "ca", nil, isCA)
	leaf := issue(t, "leaf", ca, nil)
	for name, as := range map[string]*pkcs12.Encoder{"modern": pkcs12.Modern2023, "legacy": pkcs12.LegacyDES, "older": pkcs12.LegacyRC2} {
		b, err := as.Encode(leaf.key, leaf.cert, []*x509.Certificate{ca.cert}, "hush!")
		if err != nil {
			t.Fatal(err)
		}
		key, cert, others, err := ParsePKCS12(b, []byte("hush!"), "f")
		if err != nil || !cert.Equal(leaf.cert) || len(others) != 1 || !others[0].Equal(ca.cert) || key == nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, wrong := range []string{"", "other"} {
			if _, _, _, err := ParsePKCS12(b, []byte(wrong), "f"); !errors.Is(err, ErrPassphrase) {
				t.Errorf("%s with %q: expected a word about the passphrase, got %v", name, wrong, err)
			}
		}
		if _, _, _, err := ParsePKCS12(b[:len(b)/2], []byte("hush!"), "f"); err == nil || strings.Contains(err.Error(), "hush!") {
			t.Errorf("%s, cut: %v", name, err)
		}
	}
	for _, data := range [][]byte{nil, []byte("x"), {0x30, 0}} {
		if _, _, _, err := ParsePKCS12(data, nil, "f"); err == nil {
			t.Errorf("%q was taken for a container", data)
		}
	}
}
