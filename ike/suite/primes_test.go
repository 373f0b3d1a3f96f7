package suite

import (
	"math/big"
	"testing"

	"espalier/ike/wire"
)

// arccot gives 2^bits times arccot x.
func arccot(x int64, bits uint) *big.Int {
	term := new(big.Int).Lsh(big.NewInt(1), bits)
	term.Div(term, big.NewInt(x))
	sum, square := new(big.Int).Set(term), big.NewInt(x*x)
	for k := int64(3); term.Sign() != 0; k += 2 {
		term.Div(term, square)
		part := new(big.Int).Div(term, big.NewInt(k))
		if k%4 == 3 {
			sum.Sub(sum, part)
		} else {
			sum.Add(sum, part)
		}
	}
	return sum
}

// floorPi is the integer part of 2^bits times pi, by Machin's formula with 64 bits to spare.
func floorPi(bits uint) *big.Int {
	const spare = 64
	pi := arccot(5, bits+spare)
	pi.Mul(pi, big.NewInt(4)).Sub(pi, arccot(239, bits+spare)).Mul(pi, big.NewInt(4))
	return pi.Rsh(pi, spare)
}

// RFC 3526 2 to 7: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + k), and safe.
func TestPrimes(t *testing.T) {
	for m, v := range map[wire.KEMethod]struct {
		n uint
		k int64
	}{
		wire.KEMODP1024: {1024, 129093}, wire.KEMODP1536: {1536, 741804}, wire.KEMODP2048: {2048, 124476}, wire.KEMODP3072: {3072, 1690314}, wire.KEMODP4096: {4096, 240904},
		wire.KEMODP6144: {6144, 929484}, wire.KEMODP8192: {8192, 4743158},
	} {
		p, ok := new(big.Int).SetString(primes[m], 16)
		if !ok {
			t.Fatal("not hexadecimal")
		}
		one := big.NewInt(1)
		want := new(big.Int).Add(floorPi(v.n-130), big.NewInt(v.k))
		want.Lsh(want, 64).Add(want, new(big.Int).Lsh(one, v.n)).Sub(want, new(big.Int).Lsh(one, v.n-64)).Sub(want, one)
		if p.Cmp(want) != 0 {
			t.Errorf("%s isn't what its formula gives", m)
		}
		q := new(big.Int).Rsh(p, 1)
		for _, x := range []*big.Int{p, q} { // Fermat's test, which a number that isn't prime passes by a miracle only
			if big.NewInt(3).Cmp(new(big.Int).Exp(big.NewInt(3), x, x)) != 0 {
				t.Errorf("%s isn't a safe prime", m)
			}
		}
	}
}
