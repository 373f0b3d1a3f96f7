package suite

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"testing"

	"espalier/ike/wire"
)

// testdata/charon_keys.json is what charon 6.0.1 logged of two set-ups between two lab hosts with random nonces and key
// exchanges: IKE SA and first CHILD SA, one with AES-GCM, HMAC-SHA2-384 and P-256, one with AES-CBC, HMAC-SHA2-256 and
// Curve25519. The keys protect nothing any more.
func TestKeyScheduleCharon(t *testing.T) {
	raw, err := os.ReadFile("testdata/charon_keys.json")
	if err != nil {
		t.Fatal(err)
	}
	var runs []struct {
		IKE, ESP, SPIi, SPIr, Ni, Nr, Shared, SKEYSEED string
		D, Ai, Ar, Ei, Er, Pi, Pr                      string
		ChildEi, ChildAi, ChildEr, ChildAr             string
	}
	if err := json.Unmarshal(raw, &runs); err != nil {
		t.Fatal(err)
	}
	if len(runs) != 2 {
		t.Fatalf("%d runs, want 2", len(runs))
	}
	for _, r := range runs {
		c := choose(t, wire.ProtoIKE, r.IKE)
		ni, nr := unhex(t, r.Ni), unhex(t, r.Nr)
		seed, err := SKEYSEED(c.PRF(), ni, nr, unhex(t, r.Shared))
		if err != nil || !bytes.Equal(seed, unhex(t, r.SKEYSEED)) {
			t.Errorf("%s: SKEYSEED %x, %v", r.IKE, []byte(seed), err)
		}
		spi := func(s string) wire.SPI { return wire.SPI(binary.BigEndian.Uint64(unhex(t, s))) }
		k, err := DeriveIKE(c, seed, ni, nr, spi(r.SPIi), spi(r.SPIr))
		if err != nil {
			t.Fatal(err)
		}
		ck, err := DeriveChild(c.PRF(), k.D, choose(t, wire.ProtoESP, r.ESP), nil, ni, nr)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []struct {
			name string
			got  []byte
			want string
		}{
			{"SK_d", k.D, r.D}, {"SK_ai", k.Ai, r.Ai}, {"SK_ar", k.Ar, r.Ar}, {"SK_ei", k.Ei, r.Ei}, {"SK_er", k.Er, r.Er},
			{"SK_pi", k.Pi, r.Pi}, {"SK_pr", k.Pr, r.Pr},
			{"child Ei", ck.Ei, r.ChildEi}, {"child Ai", ck.Ai, r.ChildAi}, {"child Er", ck.Er, r.ChildEr}, {"child Ar", ck.Ar, r.ChildAr},
		} {
			if !bytes.Equal(v.got, unhex(t, v.want)) {
				t.Errorf("%s, %s: got %x, want %s", r.IKE, v.name, v.got, v.want)
			}
		}
	}
}
