package engine

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestOutbound: CHILD SAs are found by outbound SPIs that several peers have
// chosen, whichever comes and goes.
func TestOutbound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	o, there := newOutbound(), map[spiPair]bool{}
	for step := range 20_000 {
		p := spiPair{in: rnd.Uint32N(12), out: rnd.Uint32N(3)}
		if rnd.IntN(2) == 0 {
			o.add(p)
			there[p] = true
		} else {
			o.remove(p)
			delete(there, p)
		}
		for out := range uint32(3) {
			var want []uint32
			for p := range there {
				if p.out == out {
					want = append(want, p.in)
				}
			}
			got := slices.Sorted(o.of(out))
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Fatalf("step %d: with outbound SPI %d found %v, expected %v", step, out, got, want)
			}
		}
	}
	for p := range there {
		o.remove(p)
	}
	if len(o.inbound)+len(o.more) != 0 {
		t.Errorf("%d and %d entries are left", len(o.inbound), len(o.more))
	}
}
