package suite

import (
	"bytes"
	"encoding/binary"
	"testing"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

// The IKEv2 key derivation vector of NIST's validation programme (SP 800-135, HMAC-SHA-1), whole: SKEYSEED, the keys of
// the IKE SA, those of a CHILD SA without and with its own key exchange, and SKEYSEED of a rekey.
const (
	cavpNi  = "3651fef5c9c35e93"
	cavpNr  = "c09a8b90a3f04d59"
	cavpSPI = "8e5c3ae507221684 b1f201bb155c3acd"
	cavpGir = `d084a30166a50fb7325c3960 874a839449ef9741c2f4f947 d0201dd8c1269273d79509f3
		7e3ca3eb4fa2fe2a28254e28 9cd3f34dad4eb4df1a07685a 4b8a94fa61e2491f7598b3ce 65547ff133b3f63d1ac4175e
		aa695033f3cedb026a6873a3 6455172a8540b8a5d23a0143 bed0390ee49b168269d75fff ee9fb62be965993c`
	cavpGirNew = `52f00ab174c25d5b7139ae5f f4e8e9eddee5992d2e36adf8 a559ffd90dab1442e4fbe429
		d320c0f33552a17d1557fa41 ea70e8fb916c4fa27ed52b5f 8ebd8461afa78f1159159a64 055ac5f6319e29c28eae58cb
		c6847770f32c3fed1d047504 84f854790f95e9ec01bc5bc4 61f24966462e359511329305 038e94deb6dd42c2`
	cavpSKEYSEED = "cd2e8050137832245f1dbacc6e4f0a92f94d45d6"
	cavpDKM      = `6f1b12cad3cbe097b3543035 6d869d54cddb0198ec859174 d53ceb92dddedbe2436db69f
		60977c58fa63bbb667f8d369 20b109baae8f6c61a9ac49fe da01843225d080ec5539d588 1a25521ffb2a0a91874a9c0a
		27fcc2d717eb8963a9e3a89c 7ab264757284c28cf8c3ca40 576f4220b052b1fb8e9ad60b a3c80557323331a8cbb89f20`
	cavpChild = `4727dc0ef94eb326ce131cf2 82fb652faa638ad0ddae3786 a11bcc0309876009f8c485de
		011ad962c5b1ca8a41ff8145 44574907 9c5686e26ffebbc3 42f06981f3da745e11ca0976 424d1f8caec623d59dc7186d`
	cavpChildKE = `b109c21ad4c0797768c1cec9 e63554681e48f224bca7f23c 20c4ea7041983451e9aa1d54
		08656c8a975ff1b9d9a12c75 ffeb64bdecb30174664cccb4 e14f1c377b7f6d1525af77c7 092aac3e47f917ebae8297fb`
	cavpRekey = "3b03bce748c96d5e8306918d2ff89b68f0648da3"
)

func TestKeyScheduleNIST(t *testing.T) {
	prf := PRF{wire.PRFHMACSHA1}
	ni, nr, spi := unhex(t, cavpNi), unhex(t, cavpNr), unhex(t, cavpSPI)
	seed, err := SKEYSEED(prf, ni, nr, unhex(t, cavpGir))
	if err != nil || !bytes.Equal(seed, unhex(t, cavpSKEYSEED)) {
		t.Fatalf("SKEYSEED: %x, %v", []byte(seed), err)
	}
	// aes128-sha1 takes 20+20+20+16+16+20+20 = 132 octets, which is all of the vector.
	c := choose(t, wire.ProtoIKE, "aes128-sha1-modp2048")
	k, err := DeriveIKE(c, seed, ni, nr, wire.SPI(binary.BigEndian.Uint64(spi)), wire.SPI(binary.BigEndian.Uint64(spi[8:])))
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "IKE SA", unhex(t, cavpDKM), []int{20, 20, 20, 16, 16, 20, 20}, k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr)

	esp := choose(t, wire.ProtoESP, "aes128-sha1")
	child, err := DeriveChild(prf, k.D, esp, nil, ni, nr)
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "CHILD SA", unhex(t, cavpChild), []int{16, 20, 16, 20}, child.Ei, child.Ai, child.Er, child.Ar)
	child, err = DeriveChild(prf, k.D, esp, unhex(t, cavpGirNew), ni, nr)
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "CHILD SA with key exchange", unhex(t, cavpChildKE), []int{16, 20, 16, 20}, child.Ei, child.Ai, child.Er, child.Ar)

	seed, err = RekeySKEYSEED(prf, k.D, unhex(t, cavpGirNew), ni, nr)
	if err != nil || !bytes.Equal(seed, unhex(t, cavpRekey)) {
		t.Errorf("SKEYSEED of a rekey: %x, %v", []byte(seed), err)
	}
}

// wantKeys compares keys with consecutive pieces of stream.
func wantKeys(t *testing.T, what string, stream []byte, lengths []int, keys ...secret.Bytes) {
	t.Helper()
	for i, n := range lengths {
		if !bytes.Equal(keys[i], stream[:n]) {
			t.Errorf("%s, key %d: got %x, want %x", what, i, []byte(keys[i]), stream[:n])
		}
		stream = stream[n:]
	}
}

// The vector of NIST's validation programme that libreswan carries too; its nonces and secret differ.
func TestKeyScheduleNISTSecond(t *testing.T) {
	prf := PRF{wire.PRFHMACSHA1}
	ni, nr := unhex(t, "32b50d5f4a3763f3"), unhex(t, "9206a04b26564cb1")
	seed, err := SKEYSEED(prf, ni, nr, unhex(t, "4b2c1f971981a8ad8d0abeafabf38cf75fc8349c148142465ed9c8b516b8be52"))
	if err != nil || !bytes.Equal(seed, unhex(t, "a9a7b222b59f8f48645f28a1db5b5f5d7479cba7")) {
		t.Fatalf("SKEYSEED: %x, %v", []byte(seed), err)
	}
	c := choose(t, wire.ProtoIKE, "aes128gcm16-prfsha1-x25519")
	k, err := DeriveIKE(c, seed, ni, nr, 0x34c9e7c188868785, 0x3ff77d760d2b2199)
	if err != nil {
		t.Fatal(err)
	}
	dkm := unhex(t, `a14293677cc80ff8f9cc0eee30d895da 9d8f405666e30ef0dfcb63c634a46002 a2a63080e514a062768b76606f9fa5e9
		92204fc5a670bde3f10d6b027113936a 5c55b648a194ae587b0088d52204b702 c979fa280870d2ed41efa9c549fd1119
		8af1670b143d384bd275c5f594cf266b 05ebadca855e4249520a441a81157435 a7a56cc4`)
	wantKeys(t, "IKE SA", dkm, []int{20, 0, 0, 20, 20, 20, 20}, k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr)
	seed, err = RekeySKEYSEED(prf, k.D, unhex(t, "863f3c9d06efd39d2b907b97f8699e5dd5251ef64a2a176f36ee40c87d4f9330"), ni, nr)
	if err != nil || !bytes.Equal(seed, unhex(t, "63e81194946ebd05df7df5ebf5d8750056bf1f1d")) {
		t.Errorf("SKEYSEED of a rekey: %x, %v", []byte(seed), err)
	}
}

// RFC 7296 2.14: with the AES PRFs SKEYSEED's key is 8 octets of each nonce, and all of them enter prf+.
func TestKeyScheduleAESPRF(t *testing.T) {
	src := newSource(3)
	ni, nr, shared := make([]byte, 32), make([]byte, 24), make([]byte, 32)
	_, _ = src.Read(ni)
	_, _ = src.Read(nr)
	_, _ = src.Read(shared)
	for _, word := range []string{"prfaesxcbc", "prfaescmac"} {
		c := choose(t, wire.ProtoIKE, "aes256gcm16-"+word+"-x25519")
		seed, err := SKEYSEED(c.PRF(), ni, nr, shared)
		if err != nil {
			t.Fatal(err)
		}
		key := append(append([]byte{}, ni[:8]...), nr[:8]...)
		if want := c.PRF().Sum(nil, key, shared); !bytes.Equal(seed, want) {
			t.Errorf("%s: SKEYSEED %x, want %x", word, []byte(seed), want)
		}
		k, err := DeriveIKE(c, seed, ni, nr, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		all := bytes.Join([][]byte{ni, nr, {0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2}}, nil)
		wantKeys(t, word, c.PRF().Plus(120, seed, all), []int{16, 0, 0, 36, 36, 16, 16}, k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr)
	}
}

// RFC 9370 2.2.2 and 2.2.4: where the secrets of further exchanges stand.
func TestAdditionalExchanges(t *testing.T) {
	prf := PRF{wire.PRFHMACSHA2_256}
	ni, nr, d := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	s0, s1, s2 := secret.Bytes("zero"), secret.Bytes("one"), secret.Bytes("two")
	got, err := UpdateSKEYSEED(prf, d, s1, ni, nr)
	if want := prf.Sum(nil, d, s1, ni, nr); err != nil || !bytes.Equal(got, want) {
		t.Errorf("UpdateSKEYSEED: %x, %v, want %x", []byte(got), err, want)
	}
	got, err = RekeySKEYSEED(prf, d, s0, ni, nr, s1, s2)
	if want := prf.Sum(nil, d, s0, ni, nr, s1, s2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("RekeySKEYSEED: %x, %v, want %x", []byte(got), err, want)
	}
	esp := choose(t, wire.ProtoESP, "aes256gcm16-x25519-ke1_ecp256-ke2_x448")
	k, err := DeriveChild(prf, d, esp, s0, ni, nr, s1, s2)
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "CHILD SA", prf.Plus(72, d, s0, ni, nr, s1, s2), []int{36, 0, 36, 0}, k.Ei, k.Ai, k.Er, k.Ar)
}

func TestKeysBadInput(t *testing.T) {
	prf, n, c := PRF{wire.PRFHMACSHA2_256}, make([]byte, 32), choose(t, wire.ProtoIKE, "aes128-sha256-x25519")
	if _, err := SKEYSEED(prf, n[:7], n, n); err == nil {
		t.Error("a nonce of 7 octets must be refused")
	}
	if _, err := SKEYSEED(PRF{}, n, n, n); err == nil {
		t.Error("no PRF must be refused")
	}
	if _, err := DeriveIKE(c, n, n, make([]byte, 257), 1, 2); err == nil {
		t.Error("a nonce of 257 octets must be refused")
	}
	if _, err := DeriveIKE(Choice{}, n, n, n, 1, 2); err == nil {
		t.Error("an empty choice must be refused")
	}
	if _, err := DeriveChild(prf, n, Choice{Proposal: Proposal{Protocol: wire.ProtoESP}}, nil, n, n); err == nil {
		t.Error("a CHILD SA without algorithms must be refused")
	}
}

func TestKeysWipe(t *testing.T) {
	n := bytes.Repeat([]byte{9}, 32)
	k, err := DeriveIKE(choose(t, wire.ProtoIKE, "aes128-sha256-x25519"), n, n, n, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := DeriveChild(PRF{wire.PRFHMACSHA2_256}, n, choose(t, wire.ProtoESP, "aes128-sha256"), nil, n, n)
	if err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	ck.Wipe()
	for i, b := range []secret.Bytes{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr, ck.Ei, ck.Ai, ck.Er, ck.Ar} {
		if len(b) == 0 || !allZero(b) {
			t.Errorf("key %d isn't wiped", i)
		}
	}
}
