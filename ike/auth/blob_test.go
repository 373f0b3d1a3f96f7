package auth

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"testing"

	"espalier/ike/wire"
)

// The AlgorithmIdentifiers of RFC 7427 appendix A and RFC 8420 appendix A, octet for octet.
func TestAlgorithmIdentifiers(t *testing.T) {
	for _, tt := range []struct {
		alg algorithm
		hex string
	}{
		{algorithm{KeyRSA, wire.HashSHA2_256, false, 0}, "300d06092a864886f70d01010b0500"},
		{algorithm{KeyRSA, wire.HashSHA2_384, false, 0}, "300d06092a864886f70d01010c0500"},
		{algorithm{KeyRSA, wire.HashSHA2_512, false, 0}, "300d06092a864886f70d01010d0500"},
		{algorithm{KeyECDSA, wire.HashSHA2_256, false, 0}, "300a06082a8648ce3d040302"},
		{algorithm{KeyECDSA, wire.HashSHA2_384, false, 0}, "300a06082a8648ce3d040303"},
		{algorithm{KeyECDSA, wire.HashSHA2_512, false, 0}, "300a06082a8648ce3d040304"},
		{algorithm{KeyEd25519, wire.HashIdentity, false, 0}, "300506032b6570"},
		{algorithm{KeyRSA, wire.HashSHA2_256, true, 32}, "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"},
	} {
		got, err := appendAlgorithm(nil, tt.alg)
		if err != nil || hex.EncodeToString(got[1:]) != tt.hex || int(got[0]) != len(got)-1 {
			t.Errorf("%v: %x, %v", tt.alg, got, err)
			continue
		}
		alg, sig, err := parseDigitalSignature(append(got, 's'))
		if err != nil || alg != tt.alg || string(sig) != "s" {
			t.Errorf("%v: read back as %v %q, %v", tt.alg, alg, sig, err)
		}
	}
	if _, err := appendAlgorithm(nil, algorithm{KeyRSA, wire.HashSHA1, false, 0}); err == nil {
		t.Error("SHA-1 has an AlgorithmIdentifier that we send")
	}
	if _, err := appendAlgorithm(nil, algorithm{KeyRSA, wire.HashSHA1, true, 20}); err == nil {
		t.Error("RSASSA-PSS with SHA-1 has an AlgorithmIdentifier that we send")
	}
}

func TestDigitalSignatureBlobs(t *testing.T) {
	const (
		hash = "300d06096086480165030402010500"
		mgf  = "301a06092a864886f70d010108" + hash
	)
	pss := func(params string) string {
		return "30" + length(len(params)/2+13) + "06092a864886f70d01010a30" + length(len(params)/2) + params
	}
	for name, tt := range map[string]struct {
		hex string
		ok  bool
	}{
		"RSA without NULL":       {"300b06092a864886f70d01010b", true},
		"ECDSA with NULL":        {"300c06082a8648ce3d0403020500", false},
		"RSA with SHA-1":         {"300d06092a864886f70d0101050500", false},
		"PSS":                    {pss("a00f" + hash + "a11c" + mgf + "a203020120"), true},
		"PSS, written trailer":   {pss("a00f" + hash + "a11c" + mgf + "a203020120" + "a303020101"), true},
		"PSS, other trailer":     {pss("a00f" + hash + "a11c" + mgf + "a203020120" + "a303020102"), false},
		"PSS, hash without NULL": {pss("a00d300b0609608648016503040201" + "a11c" + mgf + "a203020120"), true},
		"PSS, defaults: SHA-1":   {pss(""), false},
		"PSS, no parameters":     {"300b06092a864886f70d01010a", false},
		"PSS, other MGF hash":    {pss("a00f" + hash + "a11c301a06092a864886f70d010108300d06096086480165030402020500" + "a203020120"), false},
		"PSS, salt 0":            {pss("a00f" + hash + "a11c" + mgf + "a203020100"), false},
		"PSS, negative salt":     {pss("a00f" + hash + "a11c" + mgf + "a2030201ff"), false},
		"PSS, no salt":           {pss("a00f" + hash + "a11c" + mgf), false},
		"PSS, more":              {pss("a00f" + hash + "a11c" + mgf + "a203020120" + "0500"), false},
		"no DER":                 {"ffff", false},
		"long form of length":    {"30810d06092a864886f70d01010b0500", false},
	} {
		der := must(hex.DecodeString(tt.hex))
		_, _, err := parseDigitalSignature(append(append([]byte{byte(len(der))}, der...), 's'))
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "\x00s", "\x05", "\x0f" + derRSA256, "\xff" + derRSA256 + "s"} {
		if _, _, err := parseDigitalSignature([]byte(bad)); err == nil {
			t.Errorf("%x accepted", bad)
		}
	}
}

func length(n int) string { return hex.EncodeToString([]byte{byte(n)}) }

func TestPlainECDSA(t *testing.T) {
	for _, tt := range []struct {
		r, s []byte
	}{{[]byte{1}, []byte{2}}, {bytes.Repeat([]byte{0xff}, 32), []byte{0x80}}} {
		der := must(derECDSA(tt.r, tt.s))
		got, err := plainECDSA(der, 256)
		want := make([]byte, 64)
		copy(want[32-len(tt.r):], tt.r)
		copy(want[64-len(tt.s):], tt.s)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x: %x, %v", der, got, err)
		}
	}
	for _, bad := range [][]byte{nil, {0x30, 0}, must(derECDSA(bytes.Repeat([]byte{1}, 33), []byte{1}))} {
		if got, err := plainECDSA(bad, 256); err == nil {
			t.Errorf("%x gives %x", bad, got)
		}
	}
}

// No AUTH data may panic, and none may pass for a signature.
func FuzzSignature(f *testing.F) {
	keys := []crypto.Signer{ec256(), ec521(), ed25519Key(), rsa2048()}
	var pubs []crypto.PublicKey
	for i, k := range keys {
		pubs = append(pubs, k.Public())
		for _, hashes := range [][]wire.HashAlgorithm{allHashes, nil} {
			for _, s := range [][]Scheme{nil, {{Key: KeyRSA, PSS: true}}} {
				p, ok := planFor(k.Public(), &SignJob{Local: Local{Schemes: s}, PeerHashes: hashes})
				if !ok {
					continue
				}
				a, err := p.sign(k, testOctets, rand.Reader)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(uint8(i), uint8(a.Method), a.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, key, method uint8, data []byte) {
		p, err := parseSignature(wire.Auth{Method: wire.AuthMethod(method), Data: data}, pubs[int(key)%len(pubs)])
		if err != nil {
			return
		}
		if _, err := p.check([]byte("not what was signed")); err == nil {
			t.Errorf("%x passes for a signature", data)
		}
	})
}
