package suite

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"math"
	"testing"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

var ikeCiphers = []string{
	"aes128-sha1", "aes192-sha256", "aes256-sha384", "aes256-sha512", "aes128-aesxcbc", "aes128-aescmac",
	"aes128ctr-sha256", "aes192ctr-sha1", "aes256ctr-sha512",
	"aes128gcm16", "aes192gcm16", "aes256gcm16", "aes128gcm12", "aes256gcm12", "aes128gcm8", "aes192gcm8", "aes256gcm8",
	"chacha20poly1305",
}

// keysFor draws SK_e and SK_a of the right lengths.
func keysFor(t testing.TB, word string) (Choice, secret.Bytes, secret.Bytes) {
	c := choose(t, wire.ProtoIKE, word+"-prfsha256-x25519")
	e, a := c.KeyMaterialLen()
	src := newSource(99)
	enc, integ := make(secret.Bytes, e), make(secret.Bytes, a)
	_, _ = src.Read(enc)
	_, _ = src.Read(integ)
	return c, enc, integ
}

func pairFor(t testing.TB, word string, counter uint64) (Sealer, wire.Opener) {
	t.Helper()
	c, enc, integ := keysFor(t, word)
	s, err := NewSealer(c, enc, integ, counter)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(c, enc, integ)
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

// Vectors are opened: a sealer's IVs are its own. key includes the salt; body is IV, ciphertext and ICV.
func TestAEADVectors(t *testing.T) {
	const p60 = `d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39`
	const c60 = `42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091`
	const gcmKey, gcmIV = "feffe9928665731c6d6a8f9467308308 cafebabe", "facedbaddecaf888"
	const gcmAAD, gcmTag = "feedfacedeadbeeffeedfacedeadbeefabaddad2", "5bc94fbc3221a5db94fae95ae7121a47"
	sunscreen := `4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966204920636f756c64206f66666572
		20796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73637265656e20776f756c642062652069742e`
	for _, v := range []struct{ name, word, key, aad, body, plain string }{
		{"GCM specification, case 4", "aes128gcm16", gcmKey, gcmAAD, gcmIV + c60 + gcmTag, p60},
		{"the same, tag of 12", "aes128gcm12", gcmKey, gcmAAD, gcmIV + c60 + gcmTag[:24], p60},
		{"the same, tag of 8", "aes128gcm8", gcmKey, gcmAAD, gcmIV + c60 + gcmTag[:16], p60},
		{"GCM specification, case 16", "aes256gcm16", "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308 cafebabe", gcmAAD,
			gcmIV + `522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
			76fc6ece0f4e1768cddf8853bb2d551b`, p60},
		{"RFC 8439 2.8.2", "chacha20poly1305", "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f 07000000",
			"50515253c0c1c2c3c4c5c6c7", `4041424344454647
			d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
			92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116
			1ae10b594f09e26a7e902ecbd0600691`, sunscreen},
	} {
		o, err := NewOpener(choose(t, wire.ProtoIKE, v.word+"-prfsha256-x25519"), unhex(t, v.key), nil)
		if err != nil {
			t.Fatal(err)
		}
		aad := unhex(t, v.aad)
		plain, err := o.Open(append(aad, unhex(t, v.body)...), len(aad))
		if err != nil || !bytes.Equal(plain, unhex(t, v.plain)) {
			t.Errorf("%s: got %x, %v", v.name, plain, err)
		}
	}
}

// RFC 3686 6, vectors 1, 2 and 7; RFC 3602 4, case 1. The ICV is made here, by the PRF on the same primitive.
func TestClassicVectors(t *testing.T) {
	for _, v := range []struct{ name, word, key, iv, cipher, plain string }{
		{"RFC 3686, vector 1", "aes128ctr", "AE6852F8121067CC4BF7A5765577F39E 00000030", "0000000000000000",
			"E4095D4FB7A7B3792D6175A3261311B8", "53696E676C6520626C6F636B206D7367"},
		{"RFC 3686, vector 2", "aes128ctr", "7E24067817FAE0D743D6CE1F32539163 006CB6DB", "C0543B59DA48D90B",
			"5104A106168A72D9790D41EE8EDAD388EB2E1EFC46DA57C8FCE630DF9141BE28",
			"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"},
		{"RFC 3686, vector 7", "aes256ctr", "776BEFF2851DB06F4C8A0542C8696F6C6A81AF1EEC96B4D37FC1D689E6C1C104 00000060",
			"DB5672C97AA8F0B2", "145AD01DBF824EC7560863DC71E3E0C0", "53696E676C6520626C6F636B206D7367"},
		{"RFC 3602, case 1", "aes128", "06a9214036b8a15b512e03d534120006", "3dafba429d9eb430b422da802c9fac41",
			"e353779c1079aeb82708942dbe77181a", "53696e676c6520626c6f636b206d7367"},
	} {
		integKey := bytes.Repeat([]byte{7}, 32)
		o, err := NewOpener(choose(t, wire.ProtoIKE, v.word+"-sha256-x25519"), unhex(t, v.key), integKey)
		if err != nil {
			t.Fatal(err)
		}
		msg := append([]byte("header"), append(unhex(t, v.iv), unhex(t, v.cipher)...)...)
		msg = append(msg, PRF{wire.PRFHMACSHA2_256}.Sum(nil, integKey, msg)[:16]...)
		plain, err := o.Open(msg, len("header"))
		if err != nil || !bytes.Equal(plain, unhex(t, v.plain)) {
			t.Errorf("%s: got %x, %v", v.name, plain, err)
		}
	}
}

// The ICV is the start of the MAC over all before it, for each integrity algorithm.
func TestICV(t *testing.T) {
	for word, id := range map[string]wire.PRFID{"sha1": wire.PRFHMACSHA1, "sha256": wire.PRFHMACSHA2_256, "sha384": wire.PRFHMACSHA2_384,
		"sha512": wire.PRFHMACSHA2_512, "aesxcbc": wire.PRFAES128XCBC, "aescmac": wire.PRFAES128CMAC} {
		icv := map[string]int{"sha1": 12, "sha256": 16, "sha384": 24, "sha512": 32, "aesxcbc": 12, "aescmac": 12}[word]
		c, enc, integ := keysFor(t, "aes128-"+word)
		s, err := NewSealer(c, enc, integ, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a second message begins afresh
			msg := make([]byte, 4+16+48+icv)
			if err := s.Seal(msg, 4); err != nil {
				t.Fatal(err)
			}
			end := len(msg) - icv
			if s.ICVLen() != icv || !bytes.Equal(msg[end:], PRF{id}.Sum(nil, integ, msg[:end])[:icv]) {
				t.Errorf("%s: ICV of %d octets: %x", word, s.ICVLen(), msg[end:])
			}
		}
	}
}

// Messages of all lengths through the codec, and every bit of one turned over.
func TestSealOpen(t *testing.T) {
	h := wire.Header{SPIi: 1, SPIr: 2, Exchange: wire.ExchangeIKEAuth, Version: wire.Version2, MessageID: 1}
	for _, word := range ikeCiphers {
		s, o := pairFor(t, word, 0)
		ivs := map[string]bool{}
		for n := 16; n < 80; n++ {
			nonce := bytes.Repeat([]byte{byte(n)}, n)
			raw, err := wire.AppendEncrypted(nil, h, []wire.Payload{&wire.Nonce{Data: nonce}}, s)
			if err != nil {
				t.Fatal(err)
			}
			ivs[string(raw[32:32+s.IVLen()])] = true
			if bytes.Contains(raw, nonce) {
				t.Fatalf("%s: clear text in the message", word)
			}
			m, err := wire.ParseMessage(raw)
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.OpenEncrypted(raw, m, o)
			if err != nil || len(got) != 1 || !bytes.Equal(got[0].(*wire.Nonce).Data, nonce) {
				t.Fatalf("%s, nonce of %d: got %v, %v", word, n, got, err)
			}
		}
		if len(ivs) != 64 || s.Counter() != 64 {
			t.Errorf("%s: %d different IVs and counter %d after 64 messages", word, len(ivs), s.Counter())
		}
		raw, err := wire.AppendEncrypted(nil, h, []wire.Payload{&wire.Nonce{Data: make([]byte, 16)}}, s)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 * len(raw) {
			bad := bytes.Clone(raw)
			bad[i/8] ^= 1 << (i % 8)
			if _, err := o.Open(bad, 32); !errors.Is(err, wire.ErrIntegrity) {
				t.Fatalf("%s: bit %d turned over: got %v, want ErrIntegrity", word, i, err)
			}
		}
		for n := range raw {
			if _, err := o.Open(bytes.Clone(raw[:n]), min(32, n)); !errors.Is(err, wire.ErrIntegrity) {
				t.Fatalf("%s: cut to %d octets: got %v, want ErrIntegrity", word, n, err)
			}
		}
		if plain, err := o.Open(raw, 32); err != nil || len(plain) < 20 {
			t.Errorf("%s: the message itself, after all this: %v", word, err)
		}
	}
}

// A sealer that is made again goes on where the last one was, and is a function of its arguments.
func TestSealerRestart(t *testing.T) {
	for _, word := range ikeCiphers {
		one, _ := pairFor(t, word, 0)
		var want [][]byte
		for range 4 {
			msg := make([]byte, 4+one.IVLen()+32+one.ICVLen())
			if err := one.Seal(msg, 4); err != nil {
				t.Fatal(err)
			}
			want = append(want, msg)
		}
		counter := uint64(0)
		for i := range 4 {
			s, _ := pairFor(t, word, counter)
			msg := make([]byte, 4+s.IVLen()+32+s.ICVLen())
			if err := s.Seal(msg, 4); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(msg, want[i]) {
				t.Errorf("%s: message %d after a restart differs", word, i)
			}
			counter = s.Counter()
		}
		last, _ := pairFor(t, word, math.MaxUint64)
		if err := last.Seal(make([]byte, 4+last.IVLen()+32+last.ICVLen()), 4); err == nil {
			t.Errorf("%s: the counter wrapped", word)
		}
	}
}

// AES-CBC: IVs are neither the counter nor predictable from the key that encrypts.
func TestCBCIV(t *testing.T) {
	c, enc, integ := keysFor(t, "aes128-sha256")
	s, err := NewSealer(c, enc, integ, 5)
	if err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, 16+16+16)
	if err := s.Seal(msg, 0); err != nil {
		t.Fatal(err)
	}
	b, _ := aes.NewCipher(enc)
	count := make([]byte, 16)
	count[15] = 5
	same := make([]byte, 16)
	b.Encrypt(same, count)
	if bytes.Equal(msg[:16], count) || bytes.Equal(msg[:16], same) {
		t.Error("the IV is the counter, or the counter under the message key")
	}
	if err := s.Seal(make([]byte, 16+15+16), 0); err == nil {
		t.Error("a plaintext that isn't padded must be refused")
	}
}

// The short tag is the start of the full one, for lengths around the blocks.
func TestGCM8(t *testing.T) {
	block, _ := aes.NewCipher(make([]byte, 16))
	full, _ := cipher.NewGCM(block)
	short, err := newGCM8(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce, aad := []byte("twelve bytes"), []byte("aad")
	for n := range 70 {
		plain := bytes.Repeat([]byte{byte(n)}, n)
		want := full.Seal(nil, nonce, plain, aad)
		got := short.Seal([]byte("x"), nonce, plain, aad)
		if !bytes.Equal(got[1:], want[:n+8]) {
			t.Fatalf("%d octets: got %x", n, got)
		}
		if back, err := short.Open(nil, nonce, got[1:], aad); err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("%d octets: got %x, %v", n, back, err)
		}
	}
	if _, err := short.Open(nil, nonce, make([]byte, 7), aad); err == nil {
		t.Error("7 octets can't hold a tag")
	}
}

func TestCipherBadKeys(t *testing.T) {
	for _, word := range ikeCiphers {
		c, enc, integ := keysFor(t, word)
		if _, err := NewSealer(c, enc[1:], integ, 0); err == nil {
			t.Errorf("%s: a short encryption key must be refused", word)
		}
		if _, err := NewOpener(c, enc, append(integ, 0)); err == nil {
			t.Errorf("%s: a long integrity key must be refused", word)
		}
	}
	if _, err := NewSealer(Choice{}, nil, nil, 0); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no algorithms: got %v, want ErrUnsupported", err)
	}
	c, enc, integ := keysFor(t, "aes128-sha256")
	c.Transforms[0].ID = uint16(wire.Encr3DES)
	if _, err := NewOpener(c, enc, integ); !errors.Is(err, ErrUnsupported) {
		t.Errorf("3DES: got %v, want ErrUnsupported", err)
	}
}

func TestAEADAllocations(t *testing.T) {
	s, o := pairFor(t, "aes128gcm16", 0)
	msg := make([]byte, 32+8+300+16)
	if n := testing.AllocsPerRun(100, func() {
		if s.Seal(msg, 32) != nil {
			t.Fatal("seal")
		}
		if _, err := o.Open(msg, 32); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Seal and Open allocate %v times, want 0", n)
	}
}
