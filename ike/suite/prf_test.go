package suite

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"hash"
	"testing"

	"espalier/ike/wire"
)

func TestPRFVectors(t *testing.T) {
	seq20 := "000102030405060708090a0b0c0d0e0f10111213"
	hiThere := "4869205468657265"
	key0b := "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
	for _, v := range []struct {
		name          string
		id            wire.PRFID
		key, in, want string
	}{
		{"RFC 2202 3, case 1", wire.PRFHMACSHA1, key0b, hiThere, "b617318655057264e28bc0b6fb378c8ef146be00"},
		{"RFC 4231 4.2", wire.PRFHMACSHA2_256, key0b, hiThere,
			"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{"RFC 4231 4.2", wire.PRFHMACSHA2_384, key0b, hiThere,
			"afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6"},
		{"RFC 4231 4.2", wire.PRFHMACSHA2_512, key0b, hiThere, "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b305" +
			"45e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"},
		{"RFC 3566 4.6, case 1", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0f", "", "75f0251d528ac01c4573dfd584d79f29"},
		{"RFC 3566 4.6, case 2", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0f", "000102",
			"5b376580ae2f19afe7219ceef172756f"},
		{"RFC 3566 4.6, case 3", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0f",
			"000102030405060708090a0b0c0d0e0f", "d2a246fa349b68a79998a4394ff7a263"},
		{"RFC 3566 4.6, case 5", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0f",
			"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "f54f0ec8d2b9f3d36807734bd5283fd4"},
		{"RFC 3566 4.6, case 6", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0f",
			"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021", "becbb3bccdb518a30677d5481fb6b4d8"},
		{"RFC 4434 2.2, key of 16", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0f", seq20, "47f51b4564966215b8985c63055ed308"},
		{"RFC 4434 2.2, key of 10", wire.PRFAES128XCBC, "00010203040506070809", seq20, "0fa087af7d866e7653434e602fdde835"},
		{"RFC 4434 2.2, key of 18", wire.PRFAES128XCBC, "000102030405060708090a0b0c0d0e0fedcb", seq20,
			"8cd3c93ae598a9803006ffb67c40e9e4"},
		{"RFC 4493 4, example 1", wire.PRFAES128CMAC, "2b7e151628aed2a6abf7158809cf4f3c", "", "bb1d6929e95937287fa37d129b756746"},
		{"RFC 4493 4, example 2", wire.PRFAES128CMAC, "2b7e151628aed2a6abf7158809cf4f3c", "6bc1bee22e409f96e93d7e117393172a",
			"070a16b46b4d4144f79bdd9dd04a287c"},
		{"RFC 4493 4, example 3", wire.PRFAES128CMAC, "2b7e151628aed2a6abf7158809cf4f3c",
			"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411", "dfa66747de9ae63030ca32611497c827"},
		{"RFC 4493 4, example 4", wire.PRFAES128CMAC, "2b7e151628aed2a6abf7158809cf4f3c",
			"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51" +
				"30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710", "51f0bebf7e3b9d92fc49741779363cfe"},
		{"RFC 4615 4, key of 18", wire.PRFAES128CMAC, "000102030405060708090a0b0c0d0e0fedcb", seq20,
			"84a348a4a45d235babfffc0d2b4da09a"},
		{"RFC 4615 4, key of 16", wire.PRFAES128CMAC, "000102030405060708090a0b0c0d0e0f", seq20, "980ae87b5f4c9c5214f5b6a8455e4c2d"},
		{"RFC 4615 4, key of 10", wire.PRFAES128CMAC, "00010203040506070809", seq20, "290d9e112edb09ee141fcf64c0b72f3d"},
	} {
		p, err := NewPRF(v.id)
		if err != nil {
			t.Fatal(err)
		}
		in := unhex(t, v.in)
		want := append([]byte("x"), unhex(t, v.want)...)
		for cut := range len(in) + 1 { // in whatever pieces the data come
			if got := p.Sum([]byte("x"), unhex(t, v.key), in[:cut], nil, in[cut:]); !bytes.Equal(got, want) {
				t.Errorf("%s, %s, cut at %d:\n got %x\nwant %x", v.name, v.id, cut, got, want)
			}
		}
	}
}

// The 1000 octets of RFC 3566 4.6, case 7.
func TestXCBCLong(t *testing.T) {
	got := PRF{wire.PRFAES128XCBC}.Sum(nil, unhex(t, "000102030405060708090a0b0c0d0e0f"), make([]byte, 1000))
	if want := unhex(t, "f0dafee895db30253761103b5d84528f"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestHMACAgainstStandardLibrary(t *testing.T) {
	src := newSource(1)
	hashes := map[wire.PRFID]func() hash.Hash{
		wire.PRFHMACSHA1: sha1.New, wire.PRFHMACSHA2_256: sha256.New,
		wire.PRFHMACSHA2_384: sha512.New384, wire.PRFHMACSHA2_512: sha512.New,
	}
	for id, h := range hashes {
		for _, keyLen := range []int{0, 1, 20, 63, 64, 65, 127, 128, 129, 300} {
			for _, dataLen := range []int{0, 1, 55, 64, 111, 128, room - 1, room, room + 1, 5000} {
				key, data := make([]byte, keyLen), make([]byte, dataLen)
				_, _ = src.Read(key)
				_, _ = src.Read(data)
				m := hmac.New(h, key)
				m.Write(data)
				if got, want := (PRF{id}).Sum(nil, key, data[:dataLen/2], data[dataLen/2:]), m.Sum(nil); !bytes.Equal(got, want) {
					t.Errorf("%s, key of %d, data of %d: got %x, want %x", id, keyLen, dataLen, got, want)
				}
			}
		}
	}
}

func TestPRFLengths(t *testing.T) {
	for id, n := range map[wire.PRFID]int{
		wire.PRFHMACSHA1: 20, wire.PRFHMACSHA2_256: 32, wire.PRFHMACSHA2_384: 48, wire.PRFHMACSHA2_512: 64,
		wire.PRFAES128XCBC: 16, wire.PRFAES128CMAC: 16,
	} {
		p, err := NewPRF(id)
		if err != nil || p.ID() != id || p.Size() != n || p.KeyLen() != n || len(p.Sum(nil, []byte("k"))) != n {
			t.Errorf("%s: got %d octets and %v, want %d", id, p.Size(), err, n)
		}
	}
	if _, err := NewPRF(wire.PRFHMACMD5); !errors.Is(err, ErrUnsupported) {
		t.Errorf("HMAC-MD5: got %v, want ErrUnsupported", err)
	}
}

// prf+ by its definition, one block at a time, for every length around the block bounds.
func TestPlus(t *testing.T) {
	for _, id := range []wire.PRFID{wire.PRFHMACSHA2_256, wire.PRFAES128CMAC} {
		p := PRF{id}
		var blocks, last []byte
		for i := byte(1); i <= 5; i++ {
			last = p.Sum(nil, []byte("key"), last, []byte("seed"), []byte{i})
			blocks = append(blocks, last...)
		}
		for n := range 4*p.Size() + 2 {
			if got := p.Plus(n, []byte("key"), []byte("se"), []byte("ed")); !bytes.Equal(got, blocks[:n]) {
				t.Fatalf("%s, %d octets: got %x, want %x", id, n, got, blocks[:n])
			}
		}
		if got := len(p.Plus(255*p.Size(), []byte("key"))); got != 255*p.Size() {
			t.Errorf("%s: longest output is %d octets", id, got)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: 256 blocks must panic", id)
				}
			}()
			p.Plus(255*p.Size()+1, []byte("key"))
		}()
	}
}

func TestPRFAllocations(t *testing.T) {
	p := PRF{wire.PRFHMACSHA2_256}
	key, a, b, dst := make([]byte, 32), make([]byte, 300), make([]byte, 100), make([]byte, 0, 32)
	if n := testing.AllocsPerRun(100, func() { p.Sum(dst, key, a, b) }); n != 0 {
		t.Errorf("Sum allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() { p.Plus(200, key, a, b) }); n > 1 {
		t.Errorf("Plus allocates %v times, want 1", n)
	}
}
