package suite

import (
	"math/rand/v2"
	"strings"
	"testing"

	"espalier/ike/wire"
)

func proposals(t testing.TB, proto wire.ProtocolID, words ...string) []Proposal {
	t.Helper()
	var out []Proposal
	for _, w := range words {
		p, err := parse(proto, w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func offered(t testing.TB, proto wire.ProtocolID, words ...string) []wire.Proposal {
	t.Helper()
	return Offer(proposals(t, proto, words...), []byte{1, 2, 3, 4}, wire.KENone).Proposals
}

func TestSelect(t *testing.T) {
	ike, esp := wire.ProtoIKE, wire.ProtoESP
	for _, v := range []struct {
		name         string
		proto        wire.ProtocolID
		ours, theirs string // proposals separated by spaces
		opt          SelectOptions
		number       uint8
		want         string
	}{
		{"one", ike, "aes256-sha256-modp2048", "aes256-sha256-modp2048", SelectOptions{}, 1, "aes256-sha256-prfsha256-modp2048"},
		{"our order of transforms", ike, "aes256-aes128-sha256-x25519-ecp256", "aes128-aes256-sha256-ecp256-x25519", SelectOptions{}, 1,
			"aes256-sha256-prfsha256-x25519"},
		{"the peer's order of transforms", ike, "aes256-aes128-sha256-x25519-ecp256", "aes128-aes256-sha256-ecp256-x25519",
			SelectOptions{PreferPeer: true}, 1, "aes128-sha256-prfsha256-ecp256"},
		{"our order of proposals", ike, "aes256gcm16-prfsha256-x25519 aes128-sha256-x25519", "aes128-sha256-x25519 aes256gcm16-prfsha256-x25519",
			SelectOptions{}, 2, "aes256gcm16-prfsha256-x25519"},
		{"the peer's order of proposals", ike, "aes256gcm16-prfsha256-x25519 aes128-sha256-x25519",
			"aes128-sha256-x25519 aes256gcm16-prfsha256-x25519", SelectOptions{PreferPeer: true}, 1, "aes128-sha256-prfsha256-x25519"},
		{"the method of the KE payload", ike, "aes128-sha256-x25519-ecp256", "aes128-sha256-ecp256-x25519", SelectOptions{KE: wire.KEECP256}, 1,
			"aes128-sha256-prfsha256-ecp256"},
		{"a KE payload that isn't acceptable", ike, "aes128-sha256-x25519", "aes128-sha256-ecp256-x25519", SelectOptions{KE: wire.KEECP256}, 1,
			"aes128-sha256-prfsha256-x25519"},
		{"no key exchange in IKE_AUTH", esp, "aes128gcm16-x25519", "aes128gcm16-ecp256-ke1_x448", SelectOptions{SkipKE: true}, 1, "aes128gcm16-noesn"},
		{"ours without, theirs NONE", esp, "aes128gcm16", "aes128gcm16-ecp256-none", SelectOptions{}, 1, "aes128gcm16-noesn"},
		{"ours NONE, theirs without", esp, "aes128gcm16-x25519-none", "aes128gcm16", SelectOptions{}, 1, "aes128gcm16-noesn"},
		{"ESN by our order", esp, "aes128gcm16-esn-noesn", "aes128gcm16-noesn-esn", SelectOptions{}, 1, "aes128gcm16-esn"},
		{"additional exchanges", ike, "aes128-sha256-x25519-ke1_ecp256-ke1_none-ke2_x448", "aes128-sha256-x25519-ke2_x448", SelectOptions{}, 1,
			"aes128-sha256-prfsha256-x25519-ke2_x448"},
		{"a method is used once", ike, "aes128-sha256-x25519-ke1_x25519-ke1_x448", "aes128-sha256-x25519-ke1_x25519-ke1_x448", SelectOptions{}, 1,
			"aes128-sha256-prfsha256-x25519-ke1_x448"},
	} {
		ours := proposals(t, v.proto, strings.Fields(v.ours)...)
		c, m := Select(ours, offered(t, v.proto, strings.Fields(v.theirs)...), v.opt)
		if m != nil {
			t.Errorf("%s: %s", v.name, m)
			continue
		}
		if c.String() != v.want || c.Number != v.number || string(c.SPI) != "\x01\x02\x03\x04" || c.Protocol != v.proto {
			t.Errorf("%s: got %d %s, want %d %s", v.name, c.Number, c, v.number, v.want)
		}
	}
}

func TestMismatch(t *testing.T) {
	ike, esp := wire.ProtoIKE, wire.ProtoESP
	for _, v := range []struct {
		proto              wire.ProtocolID
		ours, theirs, want string
	}{
		{ike, "aes256-sha256-modp2048", "aes128gcm16-prfsha256-modp2048", "ENCR: ours AES_CBC-256, peer's AES_GCM_16-128"},
		{ike, "aes256-sha256-modp2048", "aes128-sha256-modp2048", "ENCR: ours AES_CBC-256, peer's AES_CBC-128"},
		{ike, "aes256-sha256-modp2048", "aes256-sha384-modp2048", "INTEG: ours HMAC_SHA2_256_128, peer's HMAC_SHA2_384_192"},
		{ike, "aes256-sha256-modp2048", "aes256-sha256-prfsha512-modp2048", "PRF: ours PRF_HMAC_SHA2_256, peer's PRF_HMAC_SHA2_512"},
		{ike, "aes256-sha256-modp2048-x25519", "aes256-sha256-ecp256", "KE: ours MODP_2048 CURVE_25519, peer's ECP_256"},
		{ike, "aes256-sha256-x25519", "aes256-sha256-x25519-ke1_x448", "ADDKE1: ours none, peer's KE1_CURVE_448"},
		{ike, "aes256-sha256-x25519 aes128gcm16-prfsha256-x25519", "aes128-sha1-ecp256 aes256gcm16-prfsha256-x25519",
			"ENCR: ours AES_GCM_16-128, peer's AES_GCM_16-256"},
		{esp, "aes128gcm16-esn", "aes128gcm16", "SN: ours EXT_SEQ, peer's NO_EXT_SEQ"},
		{esp, "aes128gcm16", "aes128gcm16-x25519", "KE: ours none, peer's CURVE_25519"},
	} {
		_, m := Select(proposals(t, v.proto, strings.Fields(v.ours)...), offered(t, v.proto, strings.Fields(v.theirs)...), SelectOptions{})
		if m == nil {
			t.Errorf("%s and %s match", v.ours, v.theirs)
			continue
		}
		if m.PartText() != v.want || m.String() != "ours: "+m.OursText()+"; peer's: "+m.PeerText()+"; they part on "+v.want || strings.Contains(m.String(), "\n") {
			t.Errorf("%s and %s: %s, want %s", v.ours, v.theirs, m, v.want)
		}
	}
	_, m := Select(proposals(t, esp, "aes128gcm16"), offered(t, wire.ProtoAH, "sha256"), SelectOptions{})
	if m.PartText() != "the protocol: ours ESP, peer's AH" {
		t.Errorf("protocols: %s", m)
	}
	_, m = Select(proposals(t, esp, "aes128gcm16"), nil, SelectOptions{})
	if m.String() != "ours: aes128gcm16-noesn; peer's: none; they part on proposals: one side has none" {
		t.Errorf("nothing offered: %s", m)
	}
}

// What a keyword can't say: attributes, NONE, missing and unknown transforms.
func TestSelectOddOffers(t *testing.T) {
	ike, esp := wire.ProtoIKE, wire.ProtoESP
	gcm := wire.NewTransform(wire.TransformENCR, uint16(wire.EncrAESGCM16), 128)
	prf := wire.NewTransform(wire.TransformPRF, uint16(wire.PRFHMACSHA2_256), 0)
	ke := wire.NewTransform(wire.TransformKE, uint16(wire.KECurve25519), 0)
	esn := wire.NewTransform(wire.TransformESN, 0, 0)
	odd := gcm
	odd.Attributes = append([]wire.Attribute{{Type: 17, Value: 1}}, gcm.Attributes...)
	other := gcm
	other.Attributes = []wire.Attribute{{Type: 17, Value: 128}}
	long := gcm
	long.Attributes = []wire.Attribute{{Type: wire.AttrKeyLength, Data: []byte{0, 128}}}
	bare := wire.NewTransform(wire.TransformENCR, uint16(wire.EncrAESGCM16), 0)
	integ := wire.NewTransform(wire.TransformINTEG, uint16(wire.IntegHMACSHA2_256_128), 0)
	none := wire.NewTransform(wire.TransformINTEG, 0, 0)
	for _, v := range []struct {
		name  string
		proto wire.ProtocolID
		ts    []wire.Transform
		want  string // empty: no match
	}{
		{"INTEG NONE with an AEAD", ike, []wire.Transform{gcm, none, prf, ke}, "aes128gcm16-prfsha256-x25519"},
		{"INTEG with an AEAD", ike, []wire.Transform{gcm, integ, prf, ke}, "aes128gcm16-prfsha256-x25519"},
		{"an unknown attribute", ike, []wire.Transform{odd, prf, ke}, ""},
		{"an unknown attribute and a sound alternative", ike, []wire.Transform{odd, gcm, prf, ke}, "aes128gcm16-prfsha256-x25519"},
		{"another attribute in place of the key length", ike, []wire.Transform{other, prf, ke}, ""},
		{"key length in the long format", ike, []wire.Transform{long, prf, ke}, ""},
		{"no key length", ike, []wire.Transform{bare, prf, ke}, ""},
		{"no PRF", ike, []wire.Transform{gcm, ke}, ""},
		{"no KE", ike, []wire.Transform{gcm, prf}, ""},
		{"KE NONE", ike, []wire.Transform{gcm, prf, wire.NewTransform(wire.TransformKE, 0, 0)}, ""},
		{"an unknown type", ike, []wire.Transform{gcm, prf, ke, wire.NewTransform(99, 1, 0)}, ""},
		{"SN in IKE", ike, []wire.Transform{gcm, prf, ke, esn}, ""},
		{"no transforms", ike, nil, ""},
		{"ESP", esp, []wire.Transform{esn, gcm}, "aes128gcm16-noesn"},
		{"ESP without sequence numbers", esp, []wire.Transform{gcm}, ""},
	} {
		ours := proposals(t, ike, "aes128gcm16-prfsha256-x25519")
		if v.proto == esp {
			ours = proposals(t, esp, "aes128gcm16")
		}
		c, m := Select(ours, []wire.Proposal{{Number: 1, Protocol: v.proto, Transforms: v.ts}}, SelectOptions{})
		if (m == nil) != (v.want != "") || c.String() != v.want {
			t.Errorf("%s: got %q, %v, want %q", v.name, c, m, v.want)
		}
	}
}

func TestAccept(t *testing.T) {
	ours := proposals(t, wire.ProtoIKE, "aes256-aes128-sha256-x25519-ecp256", "aes128gcm16-prfsha256-x448")
	good := offered(t, wire.ProtoIKE, "aes128-sha256-ecp256")
	c, err := Accept(ours, good)
	if err != nil || c.String() != "aes128-sha256-prfsha256-ecp256" || c.KE() != wire.KEECP256 {
		t.Errorf("got %s, %v", c, err)
	}
	integ := wire.NewTransform(wire.TransformINTEG, uint16(wire.IntegHMACSHA2_256_128), 0)
	aead := offered(t, wire.ProtoIKE, "aes128gcm16-prfsha256-x448")
	withNone := aead[0]
	withNone.Transforms = append(aead[0].Transforms[:3:3], wire.NewTransform(wire.TransformINTEG, 0, 0))
	if _, err := Accept(ours, []wire.Proposal{withNone}); err != nil {
		t.Errorf("INTEG NONE: %v", err)
	}
	withInteg := aead[0]
	withInteg.Transforms = append(aead[0].Transforms[:3:3], integ)
	for name, bad := range map[string][]wire.Proposal{
		"nothing":                        nil,
		"two proposals":                  append(good[:1:1], aead...),
		"two transforms of a type":       offered(t, wire.ProtoIKE, "aes128-aes256-sha256-ecp256"),
		"not offered":                    offered(t, wire.ProtoIKE, "aes192-sha256-ecp256"),
		"mixed from two of ours":         offered(t, wire.ProtoIKE, "aes128-sha256-x448"),
		"an AEAD with INTEG":             {withInteg},
		"an exchange we did not offer":   offered(t, wire.ProtoIKE, "aes128-sha256-ecp256-ke1_x448"),
		"another protocol":               offered(t, wire.ProtoESP, "aes128-sha256-ecp256"),
		"a key exchange in ESP, unasked": offered(t, wire.ProtoESP, "aes128gcm16-x25519"),
	} {
		if c, err := Accept(ours, bad); err == nil {
			t.Errorf("%s: accepted %s", name, c)
		} else if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "part on TransformType(0)") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// acceptable is what Select may choose from a pair, written differently: for each type the set of common algorithms.
func acceptable(p, q Proposal) bool {
	if p.Protocol != q.Protocol {
		return false
	}
	sets := func(p Proposal) map[wire.TransformType]map[Transform]bool {
		m := map[wire.TransformType]map[Transform]bool{}
		for _, x := range p.Transforms {
			if m[x.Type] == nil {
				m[x.Type] = map[Transform]bool{}
			}
			m[x.Type][x] = true
		}
		return m
	}
	a, b := sets(p), sets(q)
	for typ := wire.TransformENCR; typ <= wire.TransformADDKE7; typ++ {
		if addKE(typ) > 0 {
			continue // the rule that a method is used once makes these depend on one another
		}
		if len(a[typ]) == 0 && len(b[typ]) == 0 {
			continue
		}
		none := Transform{Type: typ}
		found := typ == wire.TransformKE && p.Protocol != wire.ProtoIKE && (len(a[typ]) == 0 && b[typ][none] || len(b[typ]) == 0 && a[typ][none])
		for x := range a[typ] {
			found = found || b[typ][x]
		}
		if !found {
			return false
		}
	}
	return true
}

func withoutAdditional(p Proposal) Proposal {
	out := Proposal{Protocol: p.Protocol}
	for _, x := range p.Transforms {
		if addKE(x.Type) == 0 {
			out.Transforms = append(out.Transforms, x)
		}
	}
	return out
}

func TestSelectProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	matches := 0
	for i := range 20000 {
		proto := []wire.ProtocolID{wire.ProtoIKE, wire.ProtoESP, wire.ProtoAH}[i%3]
		list := func() (ps []Proposal) {
			for range 1 + rnd.IntN(3) {
				ps = append(ps, withoutAdditional(randomProposal(rnd, proto)))
			}
			return ps
		}
		ours, theirs := list(), list()
		if rnd.IntN(2) == 0 { // random lists seldom meet
			theirs[rnd.IntN(len(theirs))] = ours[rnd.IntN(len(ours))]
		}
		opt := SelectOptions{PreferPeer: rnd.IntN(2) == 0}
		sa := Offer(theirs, []byte{9, 9, 9, 9}, wire.KENone)
		c, m := Select(ours, sa.Proposals, opt)
		want := false
		for _, p := range ours {
			for _, q := range theirs {
				want = want || acceptable(p, q)
			}
		}
		if (m == nil) != want {
			t.Fatalf("%s and %s: match is %v, want %v", Join(ours), Join(theirs), m == nil, want)
		}
		if m != nil {
			if m.Part == 0 || m.ClosestOurs < 0 || acceptable(ours[m.ClosestOurs], theirs[m.ClosestTheirs]) {
				t.Fatalf("%s", m)
			}
			continue
		}
		matches++
		q := theirs[c.Number-1]
		for _, x := range c.Transforms {
			if len(c.Of(x.Type)) != 1 || !q.has(x) {
				t.Fatalf("%s out of %s", c, q)
			}
		}
		if back, err := Accept(theirs, c.Answer([]byte{8, 8, 8, 8}).Proposals); err != nil || back.String() != c.String() || string(back.SPI) != "\x08\x08\x08\x08" {
			t.Fatalf("the initiator of %s doesn't accept %s: %v", Join(theirs), c, err)
		}
		// Who prefers decides: swapped roles with swapped preference choose the same.
		swapped, m := Select(theirs, Offer(ours, nil, wire.KENone).Proposals, SelectOptions{PreferPeer: !opt.PreferPeer})
		if m != nil || swapped.String() != c.String() {
			t.Fatalf("%s, in swapped roles %s, %v", c, swapped, m)
		}
	}
	if matches < 5000 {
		t.Errorf("only %d matches: the test shows little", matches)
	}
}

func TestChoiceFacts(t *testing.T) {
	for _, v := range []struct {
		word      string
		encr, int int
		o         Overhead
		bits      int
	}{
		{"aes256gcm16", 36, 0, Overhead{IV: 8, ICV: 16, Block: 1, Salt: 4}, 256},
		{"aes128gcm8", 20, 0, Overhead{IV: 8, ICV: 8, Block: 1, Salt: 4}, 128},
		{"chacha20poly1305", 36, 0, Overhead{IV: 8, ICV: 16, Block: 1, Salt: 4}, 256},
		{"aes192ctr-sha384", 28, 48, Overhead{IV: 8, ICV: 24, Block: 1, Salt: 4}, 192},
		{"aes128-sha1", 16, 20, Overhead{IV: 16, ICV: 12, Block: 16}, 128},
		{"aes256-sha512", 32, 64, Overhead{IV: 16, ICV: 32, Block: 16}, 256},
	} {
		c := choose(t, wire.ProtoESP, v.word+"-esn")
		e, a := c.KeyMaterialLen()
		if e != v.encr || a != v.int || c.Overhead() != v.o || c.EncrKeyBits() != v.bits || !c.ESN() || c.AEAD() != (v.int == 0) {
			t.Errorf("%s: %d+%d octets, %+v, %d bits", v.word, e, a, c.Overhead(), c.EncrKeyBits())
		}
	}
	ah := choose(t, wire.ProtoAH, "sha256")
	if e, a := ah.KeyMaterialLen(); e != 0 || a != 32 || ah.Overhead().ICV != 16 || ah.Encr() != 0 || ah.ESN() {
		t.Error("AH's facts are wrong")
	}
	c := choose(t, wire.ProtoIKE, "aes128-sha256-x25519-ke1_x448-ke3_ecp256")
	kes := c.AdditionalKEs()
	if c.Encr() != wire.EncrAESCBC || c.PRF().ID() != wire.PRFHMACSHA2_256 || c.Integ() != wire.IntegHMACSHA2_256_128 ||
		c.KE() != wire.KECurve25519 || len(kes) != 2 || kes[0] != wire.KECurve448 || kes[1] != wire.KEECP256 {
		t.Errorf("accessors of %s", c)
	}
}
