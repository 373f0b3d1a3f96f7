package suite

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"espalier/ike/wire"
)

func TestParse(t *testing.T) {
	for _, v := range []struct {
		proto    wire.ProtocolID
		in, want string
		names    string
	}{
		{wire.ProtoIKE, "aes256-sha256-modp2048", "aes256-sha256-modp2048-prfsha256",
			"AES_CBC-256 HMAC_SHA2_256_128 MODP_2048 PRF_HMAC_SHA2_256"},
		{wire.ProtoIKE, "aes256gcm16-prfsha384-ecp256", "aes256gcm16-prfsha384-ecp256", "AES_GCM_16-256 PRF_HMAC_SHA2_384 ECP_256"},
		{wire.ProtoIKE, "aes256gcm16-sha256-curve25519", "aes256gcm16-x25519-prfsha256", "AES_GCM_16-256 CURVE_25519 PRF_HMAC_SHA2_256"},
		{wire.ProtoIKE, "aes128gcm128-aes256gcm64-chacha20poly1305-prfaesxcbc-x448-none",
			"aes128gcm16-aes256gcm8-chacha20poly1305-prfaesxcbc-x448",
			"AES_GCM_16-128 AES_GCM_8-256 CHACHA20_POLY1305 PRF_AES128_XCBC CURVE_448"},
		{wire.ProtoIKE, "aes-sha-sha1-aescmac-modp3072", "aes128-sha1-aescmac-modp3072-prfsha1-prfaescmac",
			"AES_CBC-128 HMAC_SHA1_96 AES_CMAC_96 MODP_3072 PRF_HMAC_SHA1 PRF_AES128_CMAC"},
		{wire.ProtoIKE, "aes192ctr-sha2_512-ecp521-ke1_x448-ke7_none", "aes192ctr-sha512-ecp521-ke1_x448-ke7_none-prfsha512",
			"AES_CTR-192 HMAC_SHA2_512_256 ECP_521 KE1_CURVE_448 KE7_NONE PRF_HMAC_SHA2_512"},
		{wire.ProtoESP, "aes256gcm16-modp2048", "aes256gcm16-modp2048-noesn", "AES_GCM_16-256 MODP_2048 NO_EXT_SEQ"},
		{wire.ProtoESP, "aes128 - sha256-esn-noesn-none", "aes128-sha256-esn-noesn-none",
			"AES_CBC-128 HMAC_SHA2_256_128 EXT_SEQ NO_EXT_SEQ NONE"},
		{wire.ProtoESP, "aes256gcm-prfsha256-sha256", "aes256gcm16-noesn", "AES_GCM_16-256 NO_EXT_SEQ"},
		{wire.ProtoAH, "sha384-aes128-x25519", "sha384-x25519-noesn", "HMAC_SHA2_384_192 CURVE_25519 NO_EXT_SEQ"},
	} {
		p, err := parse(v.proto, v.in)
		if err != nil {
			t.Errorf("%s: %v", v.in, err)
			continue
		}
		var got []string
		for _, x := range p.Transforms {
			got = append(got, x.Name())
		}
		if p.String() != v.want || strings.Join(got, " ") != v.names || p.Protocol != v.proto {
			t.Errorf("%s: got %s = %v, want %s = %s", v.in, p, got, v.want, v.names)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, v := range []struct {
		proto    wire.ProtocolID
		in, want string
	}{
		{wire.ProtoIKE, "", `expected an algorithm at character 1, got nothing`},
		{wire.ProtoIKE, "aes256--sha256", `expected an algorithm at character 8, got nothing`},
		{wire.ProtoIKE, "aes256-sha265-modp2048", `unknown algorithm "sha265" at character 8; nearest known: "sha256"`},
		{wire.ProtoIKE, "aes256- AES128-modp2048", `unknown algorithm "AES128" at character 9; nearest known: "aes128"`},
		{wire.ProtoIKE, "aes256-sha256-ke1_modp2047", `unknown algorithm "ke1_modp2047" at character 15; nearest known: "ke1_modp2048"`},
		{wire.ProtoIKE, "aes256-ke1_sha256", `unknown algorithm "ke1_sha256" at character 8; nearest known: "ke1_ecp256"`},
		{wire.ProtoIKE, "aes256-ke8_x25519", `unknown algorithm "ke8_x25519" at character 8; nearest known: "x25519"`},
		{wire.ProtoIKE, "rijndael-sha256", `unknown algorithm "rijndael" at character 1`},
		{wire.ProtoIKE, "3des-sha1-modp1024", `algorithm "3des" at character 1 is known, not supported yet`},
		{wire.ProtoIKE, "aes256-sha256-modp768", `algorithm "modp768" at character 15 is known, not supported yet`},
		{wire.ProtoIKE, "aes256ccm16-prfsha256-x25519", `algorithm "aes256ccm16" at character 1 is known, not supported yet`},
		{wire.ProtoIKE, "aes256-sha256-x25519-ke1_mlkem768", `algorithm "ke1_mlkem768" at character 22 is known, not supported yet`},
		{wire.ProtoIKE, "twofish-sha256-x25519", `algorithm "twofish" at character 1 is known, not supported yet`},
		{wire.ProtoESP, "camellia128-sha256", `algorithm "camellia128" at character 1 is known, not supported yet`},
		{wire.ProtoESP, "null-sha256", `algorithm "null" at character 1 is known, not supported yet`},
		{wire.ProtoIKE, "sha256-x25519", `IKE proposal "sha256-x25519": expected an encryption algorithm ("aes256gcm16", "aes256" …), got none`},
		{wire.ProtoIKE, "aes256-x25519-prfsha256",
			`IKE proposal "aes256-x25519-prfsha256": expected an integrity algorithm beside aes256 ("sha256" …), got none`},
		{wire.ProtoIKE, "aes256gcm16-modp2048", `IKE proposal "aes256gcm16-modp2048": expected a PRF with the AEAD ("prfsha256", "prfsha384" …), got none`},
		{wire.ProtoIKE, "aes256-aes128gcm16-sha256-x25519",
			`IKE proposal "aes256-aes128gcm16-sha256-x25519": expected either classic or AEAD encryption, got both aes256 and aes128gcm16`},
		{wire.ProtoIKE, "aes256-sha256", `IKE proposal "aes256-sha256": expected a key exchange method ("x25519", "ecp256", "modp2048" …), got none`},
		{wire.ProtoIKE, "aes256-sha256-none", `IKE proposal "aes256-sha256-none": expected a key exchange method ("x25519", "ecp256", "modp2048" …), got none`},
		{wire.ProtoESP, "aes256", `ESP proposal "aes256": expected an integrity algorithm beside aes256 ("sha256" …), got none`},
		{wire.ProtoESP, "aes256gcm16-ke1_x25519",
			`ESP proposal "aes256gcm16-ke1_x25519": expected a key exchange method before the additional ones, got none`},
		{wire.ProtoAH, "aes256", `AH proposal "aes256": expected an integrity algorithm ("sha256" …), got none`},
	} {
		p, err := parse(v.proto, v.in)
		if err == nil || err.Error() != v.want {
			t.Errorf("%s %q:\n got %v, %v\nwant %s", v.proto, v.in, p, err, v.want)
		}
	}
	_, err := ParseIKE("aes256-" + strings.Repeat("x", 100000))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("a very long word: %v", err)
	}
	var k *KeywordError
	if !errors.As(err, &k) || k.Offset != 7 || k.Known || k.Nearest != "" {
		t.Errorf("a very long word: %+v", k)
	}
}

func TestDefaults(t *testing.T) {
	for _, p := range append(DefaultIKE(), DefaultESP()...) {
		for _, x := range p.Transforms {
			if strings.Contains(x.Name(), "SHA1") || !x.Supported() {
				t.Errorf("%s in the defaults", x.Name())
			}
		}
	}
	if FirstKE(DefaultIKE()) != wire.KEECP256 || FirstKE(DefaultESP()) != wire.KENone {
		t.Error("the default key exchanges are not P-256, which strongSwan begins with, and none")
	}
}

// Every keyword is unique, and each supported algorithm has one primary word.
func TestKeywordTable(t *testing.T) {
	words := map[string]bool{}
	primary := map[Transform]string{}
	for _, k := range keywords {
		if words[k.word] || isKnownUnsupported(k.word) {
			t.Errorf("%s twice", k.word)
		}
		words[k.word] = true
		x := Transform{k.typ, k.id, k.bits}
		if k.primary {
			if primary[x] != "" {
				t.Errorf("%s and %s are both primary", primary[x], k.word)
			}
			primary[x] = k.word
		}
	}
	for _, k := range keywords {
		x := Transform{k.typ, k.id, k.bits}
		if primary[x] == "" || x.String() != primary[x] {
			t.Errorf("%s: prints as %s, primary word %q", k.word, x, primary[x])
		}
		if k.supported && !implemented(x) {
			t.Errorf("%s is a supported keyword without implementation", k.word)
		}
	}
	if got := (Transform{Type: wire.TransformENCR, ID: 7777}).String(); got != "EncrID(7777)" {
		t.Errorf("unknown algorithm prints as %s", got)
	}
}

func implemented(x Transform) bool {
	switch x.Type {
	case wire.TransformENCR:
		return encryption(wire.EncrID(x.ID)) != encrFacts{}
	case wire.TransformINTEG:
		return integrity(wire.IntegID(x.ID)) != integFacts{}
	case wire.TransformPRF:
		return PRF{wire.PRFID(x.ID)}.Size() > 0
	case wire.TransformKE:
		return x.ID == 0 || PublicLen(wire.KEMethod(x.ID)) > 0
	}
	return true
}

// randomProposal draws words until they make a proposal.
func randomProposal(rnd *rand.Rand, proto wire.ProtocolID) Proposal {
	for {
		var words []string
		for range 1 + rnd.IntN(8) {
			k := keywords[rnd.IntN(len(keywords))]
			if k.supported {
				w := k.word
				if k.typ == wire.TransformKE && rnd.IntN(3) == 0 {
					w = "ke" + string('1'+byte(rnd.IntN(7))) + "_" + w
				}
				words = append(words, w)
			}
		}
		if p, err := parse(proto, strings.Join(words, "-")); err == nil {
			return p
		}
	}
}

func TestStringParsesBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		proto := []wire.ProtocolID{wire.ProtoIKE, wire.ProtoESP, wire.ProtoAH}[i%3]
		p := randomProposal(rnd, proto)
		q, err := parse(proto, p.String())
		if err != nil || !equal(p, q) {
			t.Fatalf("%s: read back as %s, %v", p, q, err)
		}
		if r := FromWire(p.Wire(1, nil)); !equal(p, r) {
			t.Fatalf("%s: over the wire %s", p, r)
		}
	}
}

func TestProposalLists(t *testing.T) {
	a, _ := ParseIKE("aes128-sha256-ecp256-x25519")
	b, _ := ParseIKE("aes256gcm16-prfsha256-modp2048-x448-ke1_ecp384")
	ours := []Proposal{a, b}
	before := Join(ours)
	sa := Offer(ours, []byte("12345678"), wire.KECurve448)
	if got := JoinWire(sa.Proposals); got != "aes256gcm16-prfsha256-x448-modp2048-ke1_ecp384, aes128-sha256-ecp256-x25519-prfsha256" {
		t.Errorf("offer for x448: %s", got)
	}
	for i, p := range sa.Proposals {
		if int(p.Number) != i+1 || string(p.SPI) != "12345678" || p.Protocol != wire.ProtoIKE {
			t.Errorf("offered proposal %d: %+v", i, p)
		}
	}
	if got := JoinWire(Offer(ours, nil, wire.KENone).Proposals); got != before || Join(ours) != before {
		t.Errorf("offer without preference: %s, want %s", got, before)
	}
	if FirstKE(ours) != wire.KEECP256 || !OffersKE(ours, wire.KECurve448) || OffersKE(ours, wire.KEECP384) ||
		!HasAdditionalKE(ours) || HasAdditionalKE(ours[:1]) {
		t.Error("FirstKE, OffersKE or HasAdditionalKE is wrong")
	}
	e1, _ := ParseESP("aes128-sha256-x25519-ke1_x448-esn")
	e2, _ := ParseESP("aes128-sha256-ecp256-esn")
	e3, _ := ParseESP("aes128-sha256-ecp256-noesn")
	if got := Join(WithoutKE([]Proposal{e1, e2, e3})); got != "aes128-sha256-esn, aes128-sha256-noesn" {
		t.Errorf("without key exchange: %s", got)
	}
	if len(e1.Of(wire.TransformADDKE1)) != 1 || e1.Of(wire.TransformPRF) != nil {
		t.Error("Of is wrong")
	}
	big := make([]wire.Proposal, 200)
	for i := range big {
		big[i] = b.Wire(uint8(i), nil)
	}
	if n := len(JoinWire(big)); n > 3000 {
		t.Errorf("%d octets of text from a peer's list", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"aes256-sha256-modp2048", "aes256gcm16-prfsha384-ecp256", "aes128-sha1-x25519-ke1_ecp521-esn", "a-", "ke1_", " aes -sha"} {
		f.Add(s)
	}
	for _, k := range keywords {
		f.Add(k.word)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, proto := range []wire.ProtocolID{wire.ProtoIKE, wire.ProtoESP, wire.ProtoAH} {
			p, err := parse(proto, s)
			var k *KeywordError
			switch {
			case err == nil:
				q, err := parse(proto, p.String())
				if err != nil || !slices.Equal(p.Transforms, q.Transforms) {
					t.Errorf("%q is %s, read back as %s, %v", s, p, q, err)
				}
			case errors.As(err, &k):
				if k.Offset < 0 || k.Offset > len(s) || !strings.HasPrefix(s[k.Offset:], k.Word) || len(err.Error()) > 400 {
					t.Errorf("%q: %v", s, err)
				}
			case len(err.Error()) > 600:
				t.Errorf("%q: an error of %d octets", s, len(err.Error()))
			}
		}
	})
}
