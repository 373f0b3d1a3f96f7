package suite

import (
	"testing"

	"espalier/ike/wire"
)

func BenchmarkGenerateKey(b *testing.B) {
	for _, m := range []wire.KEMethod{wire.KECurve25519, wire.KECurve448, wire.KEECP256, wire.KEECP384, wire.KEMODP2048, wire.KEMODP4096} {
		b.Run(keName(m), func(b *testing.B) {
			src := newSource(1)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := GenerateKey(m, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecapsulate(b *testing.B) {
	for _, m := range []wire.KEMethod{wire.KECurve25519, wire.KECurve448, wire.KEECP256, wire.KEECP384, wire.KEMODP2048, wire.KEMODP4096} {
		b.Run(keName(m), func(b *testing.B) {
			pub, _, _ := GenerateKey(m, newSource(1))
			_, priv, _ := GenerateKey(m, newSource(2))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decapsulate(m, priv, pub); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPRF(b *testing.B) {
	for _, id := range []wire.PRFID{wire.PRFHMACSHA2_256, wire.PRFHMACSHA2_512, wire.PRFAES128CMAC} {
		b.Run(id.String(), func(b *testing.B) {
			p, key, data, dst := PRF{id}, make([]byte, 32), make([]byte, 128), make([]byte, 0, 64)
			b.ReportAllocs()
			for b.Loop() {
				p.Sum(dst, key, data)
			}
		})
	}
}

func BenchmarkKeySchedule(b *testing.B) {
	ike, esp := choose(b, wire.ProtoIKE, "aes128gcm16-prfsha256-x25519"), choose(b, wire.ProtoESP, "aes128gcm16")
	n, shared := make([]byte, 32), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		seed, _ := SKEYSEED(ike.PRF(), n, n, shared)
		k, _ := DeriveIKE(ike, seed, n, n, 1, 2)
		if _, err := DeriveChild(ike.PRF(), k.D, esp, nil, n, n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	ours := DefaultIKE()
	theirs := Offer(DefaultIKE(), nil, wire.KENone).Proposals
	b.ReportAllocs()
	for b.Loop() {
		if _, m := Select(ours, theirs, SelectOptions{}); m != nil {
			b.Fatal(m)
		}
	}
}

func BenchmarkNewSealer(b *testing.B) {
	c, enc, integ := keysFor(b, "aes128gcm16")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewSealer(c, enc, integ, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealOpen(b *testing.B) {
	for _, word := range []string{"aes128gcm16", "aes256-sha256", "chacha20poly1305"} {
		b.Run(word, func(b *testing.B) {
			c, enc, integ := keysFor(b, word)
			s, _ := NewSealer(c, enc, integ, 0)
			o, _ := NewOpener(c, enc, integ)
			msg := make([]byte, 32+s.IVLen()+304+s.ICVLen())
			b.ReportAllocs()
			for b.Loop() {
				if s.Seal(msg, 32) != nil {
					b.Fatal("seal")
				}
				if _, err := o.Open(msg, 32); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
