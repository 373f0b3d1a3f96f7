package auth

import (
	"slices"
	"strings"
	"testing"

	"espalier/ike/wire"
)

func TestParseAuth(t *testing.T) {
	const h256, h384, h512 = wire.HashSHA2_256, wire.HashSHA2_384, wire.HashSHA2_512
	for _, tt := range []struct {
		in      string
		method  Method
		schemes []Scheme
	}{
		{"", MethodPubkey, nil},
		{"any", MethodAny, nil},
		{"psk", MethodPSK, nil},
		{"pubkey", MethodPubkey, nil},
		{"ed25519", MethodPubkey, []Scheme{{Key: KeyEd25519}}},
		{"ecdsa-256", MethodPubkey, []Scheme{{Key: KeyECDSA, MinBits: 256}}},
		{"rsa-2048-sha256", MethodPubkey, []Scheme{{Key: KeyRSA, MinBits: 2048, Hash: h256}}},
		{"rsa/pss-sha256", MethodPubkey, []Scheme{{Key: KeyRSA, PSS: true, Hash: h256}}},
		{"pubkey-sha256-sha384", MethodPubkey, []Scheme{{Hash: h256}, {Hash: h384}}},
		{"rsa-2048-ecdsa-256-sha512", MethodPubkey, []Scheme{{Key: KeyRSA, MinBits: 2048, Hash: h512}, {Key: KeyECDSA, MinBits: 256, Hash: h512}}},
		{"ed25519-rsa-sha256", MethodPubkey, []Scheme{{Key: KeyEd25519}, {Key: KeyRSA, Hash: h256}}},
		{"ike:rsa/pss-sha384", MethodPubkey, []Scheme{{Key: KeyRSA, PSS: true, Hash: h384, IKEOnly: true}}},
		{"rsa-3072;ike:pubkey-sha512", MethodPubkey, []Scheme{{Key: KeyRSA, MinBits: 3072}, {Hash: h512, IKEOnly: true}}},
	} {
		m, s, err := ParseAuth(tt.in)
		if err != nil || m != tt.method || !slices.Equal(s, tt.schemes) {
			t.Errorf("%q: %v %v, %v", tt.in, m, s, err)
		}
	}
	for in, text := range map[string]string{
		"eap":           "not supported yet",
		"eap-mschapv2":  "not supported yet",
		"eap-tls:ecdsa": "not supported yet",
		"xauth":         "IKEv1",
		"xauth-pam":     "IKEv1",
		"hybrid":        "IKEv1",
		"pks":           `found "pks"`,
		"rsa-md5":       `found "md5"`,
		"rsa-1-2":       `found "2"`,
		"sha256":        `found "sha256"`,
		"ed25519-256":   `found "256"`,
		"pubkey-2048":   `found "2048"`,
		"rsa-":          `found ""`,
		"rsa-99999":     `found "99999"`,
		"rsa-0":         `found "0"`,
		"ike:":          `found ""`,
		"psk;rsa":       `found "psk"`,
	} {
		if _, _, err := ParseAuth(in); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// What ParseAuth gives prints as what ParseAuth takes.
func TestSchemeString(t *testing.T) {
	for _, s := range []string{"ed25519", "ecdsa-256", "rsa-2048-sha256", "ike:rsa/pss-sha384", "pubkey-sha512"} {
		if _, schemes, err := ParseAuth(s); err != nil || len(schemes) != 1 || schemes[0].String() != s {
			t.Errorf("%q: printed as %v, %v", s, schemes, err)
		}
	}
}
