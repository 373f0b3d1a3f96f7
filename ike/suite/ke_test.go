package suite

import (
	"bytes"
	"crypto/ecdh"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"testing"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

var methods = []wire.KEMethod{
	wire.KECurve25519, wire.KECurve448, wire.KEECP256, wire.KEECP384, wire.KEECP521,
	wire.KEMODP1024, wire.KEMODP1536, wire.KEMODP2048, wire.KEMODP3072, wire.KEMODP4096, wire.KEMODP6144, wire.KEMODP8192,
}

var primes = map[wire.KEMethod]string{
	wire.KEMODP1024: prime1024, wire.KEMODP1536: prime1536, wire.KEMODP2048: prime2048, wire.KEMODP3072: prime3072, wire.KEMODP4096: prime4096,
	wire.KEMODP6144: prime6144, wire.KEMODP8192: prime8192,
}

func TestAgreement(t *testing.T) {
	lengths := map[wire.KEMethod]int{wire.KECurve25519: 32, wire.KECurve448: 56, wire.KEECP256: 64, wire.KEECP384: 96,
		wire.KEECP521: 132, wire.KEMODP1024: 128, wire.KEMODP1536: 192, wire.KEMODP2048: 256, wire.KEMODP3072: 384, wire.KEMODP4096: 512, wire.KEMODP6144: 768, wire.KEMODP8192: 1024}
	for _, m := range methods {
		src := newSource(byte(m))
		pub, priv, err := GenerateKey(m, src)
		if err != nil {
			t.Fatal(err)
		}
		pub2, shared2, err := Encapsulate(m, pub, src)
		if err != nil {
			t.Fatal(err)
		}
		shared, err := Decapsulate(m, priv, pub2)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(shared, shared2) || allZero(shared) || bytes.Equal(pub, pub2) {
			t.Errorf("%s: the two sides don't agree", m)
		}
		if len(pub) != lengths[m] || len(pub2) != lengths[m] || PublicLen(m) != lengths[m] {
			t.Errorf("%s: public values of %d octets, PublicLen %d, want %d", m, len(pub), PublicLen(m), lengths[m])
		}
		again, _, err := GenerateKey(m, newSource(byte(m)))
		if err != nil || !bytes.Equal(again, pub) {
			t.Errorf("%s: the same randomness gives another key: %v", m, err)
		}
	}
}

// The key exchange examples of RFC 5903 8.
func TestECPVectors(t *testing.T) {
	for _, v := range []struct {
		m                  wire.KEMethod
		i, gi, r, gr, girx string
	}{
		{wire.KEECP256,
			"C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
			"DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180 5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
			"C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
			"D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63 56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
			"D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE"},
		{wire.KEECP384,
			"099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
			`667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA
			 9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C`,
			"41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
			`E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571
			 DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C`,
			"11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746"},
		{wire.KEECP521,
			`0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072
			 462F68C27A57382D4A52`,
			`0015417E84DBF28C0AD3C278713349DC7DF153C897A1891BD98BAB4357C9ECBEE1E3BF42E00B8E380AEAE57C2D107564941885942AF5A7F4
			 601723C4195D176CED3E 017CAE20B6641D2EEB695786D8C946146239D099E18E1D5A514C739D7CB4A10AD8A788015AC405D7799DC75E7B
			 7D5B6CF2261A6A7F1507438BF01BEB6CA3926F9582`,
			`0145BA99A847AF43793FDD0E872E7CDFA16BE30FDC780F97BCCC3F078380201E9C677D600B343757A3BDBF2A3163E4C2F869CCA7458AA4A4
			 EFFC311F5CB151685EB9`,
			`00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433C
			 ED2B6171640012D9460F 015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86
			 D678AE49CB57091F4732296579AB44FCD17F0FC56A`,
			`01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151
			 F2BEE417996D19F3DDEA`},
	} {
		i, r, gi, gr := unhex(t, v.i), unhex(t, v.r), unhex(t, v.gi), unhex(t, v.gr)
		pub, priv, err := GenerateKey(v.m, bytes.NewReader(i))
		if err != nil || !bytes.Equal(pub, gi) || !bytes.Equal(priv, i) {
			t.Errorf("%s: gi %x, %v", v.m, pub, err)
		}
		shared, err := Decapsulate(v.m, i, gr)
		if err != nil || !bytes.Equal(shared, unhex(t, v.girx)) {
			t.Errorf("%s: girx of the initiator %x, %v", v.m, []byte(shared), err)
		}
		pub, shared, err = Encapsulate(v.m, gi, bytes.NewReader(r))
		if err != nil || !bytes.Equal(pub, gr) || !bytes.Equal(shared, unhex(t, v.girx)) {
			t.Errorf("%s: girx of the responder %x, %v", v.m, []byte(shared), err)
		}
	}
}

// testdata/wycheproof_x25519.json holds the X25519 cases of the Wycheproof project (Apache-2.0).
func TestX25519Wycheproof(t *testing.T) {
	raw, err := os.ReadFile("testdata/wycheproof_x25519.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		TcID                                     int
		Comment, Public, Private, Shared, Result string
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	zero, agreed := 0, 0
	for _, c := range cases {
		shared, err := Decapsulate(wire.KECurve25519, unhex(t, c.Private), unhex(t, c.Public))
		if want := unhex(t, c.Shared); allZero(want) { // RFC 8031 3: abort
			zero++
			if !errors.Is(err, ErrPublicKey) {
				t.Errorf("%d %s: got %v, want ErrPublicKey", c.TcID, c.Comment, err)
			}
		} else if agreed++; err != nil || !bytes.Equal(shared, want) {
			t.Errorf("%d %s: got %x, %v, want %x", c.TcID, c.Comment, []byte(shared), err, want)
		}
	}
	if zero < 10 || agreed < 50 {
		t.Errorf("only %d cases of small order and %d others", zero, agreed)
	}
}

// Both halves against the standard library's X25519.
func TestX25519AgainstStandardLibrary(t *testing.T) {
	src := newSource(25)
	for range 200 {
		pub, priv, err := GenerateKey(wire.KECurve25519, src)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ecdh.X25519().NewPrivateKey(priv)
		if err != nil || !bytes.Equal(k.PublicKey().Bytes(), pub) {
			t.Fatalf("public value %x, %v", pub, err)
		}
		pub2, shared, err := Encapsulate(wire.KECurve25519, pub, src)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ecdh.X25519().NewPublicKey(pub2)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := k.ECDH(peer); err != nil || !bytes.Equal(shared, want) {
			t.Fatalf("shared %x, want %x, %v", []byte(shared), want, err)
		}
	}
}

// RFC 7748 5.2 and 6.2.
func TestX448Vectors(t *testing.T) {
	for _, v := range [][3]string{
		{"3d262fddf9ec8e88495266fea19a34d28882acef045104d0d1aae121700a779c984c24f8cdd78fbff44943eba368f54b29259a4f1c600ad3",
			"06fce640fa3487bfda5f6cf2d5263f8aad88334cbd07437f020f08f9814dc031ddbdc38c19c6da2583fa5429db94ada18aa7a7fb4ef8a086",
			"ce3e4ff95a60dc6697da1db1d85e6afbdf79b50a2412d7546d5f239fe14fbaadeb445fc66a01b0779d98223961111e21766282f73dd96b6f"},
		{"203d494428b8399352665ddca42f9de8fef600908e0d461cb021f8c538345dd77c3e4806e25f46d3315c44e0a5b4371282dd2c8d5be3095f",
			"0fbcc2f993cd56d3305b0b7d9e55d4c1a8fb5dbb52f8e9a1e9b6201b165d015894e56c4d3570bee52fe205e28a78b91cdfbde71ce8d157db",
			"884a02576239ff7a2f2f63b2db6a9ff37047ac13568e1e30fe63c4a7ad1b3ee3a5700df34321d62077e63633c575c1c954514e99da7c179d"},
	} {
		got, err := Decapsulate(wire.KECurve448, unhex(t, v[0]), unhex(t, v[1]))
		if err != nil || !bytes.Equal(got, unhex(t, v[2])) {
			t.Errorf("got %x, %v", []byte(got), err)
		}
	}
	a := unhex(t, "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28dd9c9baf574a9419744897391006382a6f127ab1d9ac2d8c0a598726b")
	b := unhex(t, "1c306a7ac2a0e2e0990b294470cba339e6453772b075811d8fad0d1d6927c120bb5ee8972b0d3e21374c9c921b09d1b0366f10b65173992d")
	pub, priv, err := GenerateKey(wire.KECurve448, bytes.NewReader(a))
	if err != nil || !bytes.Equal(pub, unhex(t,
		"9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c22c5d9bbc836647241d953d40c5b12da88120d53177f80e532c41fa0")) {
		t.Errorf("public value %x, %v", pub, err)
	}
	pub2, shared2, err := Encapsulate(wire.KECurve448, pub, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	shared, err := Decapsulate(wire.KECurve448, priv, pub2)
	want := unhex(t, "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282bb60c0b56fd2464c335543936521c24403085d59a449a5037514a879d")
	if err != nil || !bytes.Equal(shared, want) || !bytes.Equal(shared2, want) {
		t.Errorf("shared %x and %x, %v", []byte(shared), []byte(shared2), err)
	}
}

// MODP against math/big.
func TestMODPAgainstBig(t *testing.T) {
	for m, prime := range primes {
		p, _ := new(big.Int).SetString(prime, 16)
		src := newSource(byte(m))
		pub, priv, err := GenerateKey(m, src)
		if err != nil {
			t.Fatal(err)
		}
		x := new(big.Int).SetBytes(priv)
		if want := new(big.Int).Exp(big.NewInt(2), x, p); want.Cmp(new(big.Int).SetBytes(pub)) != 0 {
			t.Errorf("%s: public value differs", m)
		}
		peer := make([]byte, PublicLen(m))
		peer[len(peer)-1] = 3 // a short number with leading zeros
		shared, err := Decapsulate(m, priv, peer)
		if err != nil || len(shared) != PublicLen(m) {
			t.Fatalf("%s: %d octets, %v", m, len(shared), err)
		}
		if want := new(big.Int).Exp(big.NewInt(3), x, p); want.Cmp(new(big.Int).SetBytes(shared)) != 0 {
			t.Errorf("%s: shared secret differs", m)
		}
	}
}

func TestPublicValuesRefused(t *testing.T) {
	bad := map[wire.KEMethod][][]byte{
		wire.KECurve25519: {make([]byte, 32), append([]byte{1}, make([]byte, 31)...)},
		wire.KECurve448:   {make([]byte, 56), append([]byte{1}, make([]byte, 55)...)},
	}
	for _, m := range []wire.KEMethod{wire.KEECP256, wire.KEECP384, wire.KEECP521} {
		pub, _, err := GenerateKey(m, newSource(7))
		if err != nil {
			t.Fatal(err)
		}
		off := bytes.Clone(pub)
		off[len(off)-1] ^= 1
		bad[m] = [][]byte{make([]byte, len(pub)), bytes.Repeat([]byte{0xff}, len(pub)), off}
	}
	for m, prime := range primes {
		p, _ := new(big.Int).SetString(prime, 16)
		n := PublicLen(m)
		num := func(x *big.Int) []byte { return x.FillBytes(make([]byte, n)) }
		one := big.NewInt(1)
		bad[m] = [][]byte{num(big.NewInt(0)), num(one), num(new(big.Int).Sub(p, one)), num(p), num(new(big.Int).Add(p, one)),
			bytes.Repeat([]byte{0xff}, n)}
	}
	for _, m := range methods {
		_, priv, err := GenerateKey(m, newSource(8))
		if err != nil {
			t.Fatal(err)
		}
		n := PublicLen(m)
		if errors.Is(methodOf(m).check(bad[m][0]), ErrPublicKey) != (m != wire.KECurve25519 && m != wire.KECurve448) {
			t.Errorf("%s: check before any work", m)
		}
		for _, pub := range append(bad[m], nil, make([]byte, n-1), make([]byte, n+1)) {
			if shared, err := Decapsulate(m, priv, pub); !errors.Is(err, ErrPublicKey) || shared != nil {
				t.Errorf("%s: Decapsulate of %x: got %v, want ErrPublicKey", m, pub, err)
			}
			if _, _, err := Encapsulate(m, pub, newSource(9)); !errors.Is(err, ErrPublicKey) {
				t.Errorf("%s: Encapsulate of %x: got %v, want ErrPublicKey", m, pub, err)
			}
		}
		pub, _, _ := GenerateKey(m, newSource(10))
		for _, priv := range []secret.Bytes{nil, make(secret.Bytes, 1), make(secret.Bytes, 2000)} {
			if _, err := Decapsulate(m, priv, pub); err == nil || errors.Is(err, ErrPublicKey) {
				t.Errorf("%s: a private part of %d octets: got %v", m, len(priv), err)
			}
		}
		if _, _, err := GenerateKey(m, bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: no randomness: got %v, want EOF", m, err)
		}
	}
	if _, _, err := GenerateKey(wire.KEMODP768, newSource(1)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("MODP 1024: got %v, want ErrUnsupported", err)
	}
	if PublicLen(wire.KEMODP768) != 0 {
		t.Error("MODP 1024 has a public length")
	}
}

// A reader that gives values out of the range of the group must not be asked for ever.
func TestECPRange(t *testing.T) {
	if _, _, err := GenerateKey(wire.KEECP256, endless(0xff)); err == nil {
		t.Error("a key out of range was accepted")
	}
	order := unhex(t, "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
	two := append(order, append(make([]byte, 31), 2)...)
	_, priv, err := GenerateKey(wire.KEECP256, bytes.NewReader(two))
	if err != nil || priv[31] != 2 {
		t.Errorf("the second draw must count: %v", err)
	}
}

type endless byte

func (e endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(e)
	}
	return len(b), nil
}
