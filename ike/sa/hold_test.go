package sa_test

import (
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
)

// TestPeerForgetsToDelete: a peer that rekeys a CHILD SA, and does not delete the one
// that it has replaced, gets what we send on the new one all the same after a while;
// until then, and while it may still use it, the old one stays.
func TestPeerForgetsToDelete(t *testing.T) {
	for seed := range uint64(4) {
		w, moon, sun := established(t, seed, seed%2 == 0)
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if h := satest.Must(wire.ParseHeader(p.Data)); h.Exchange == wire.ExchangeInformational && p.From.Addr() == moon.Addr && !h.IsResponse() {
				return nil
			}
			return []satest.Packet{p}
		}
		moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
		held := func() (held, all int) {
			for _, c := range sun.Live()[0].Info().Children {
				all++
				if c.InboundOnly {
					held++
				}
			}
			return held, all
		}
		w.Advance(28 * time.Second)
		if h, all := held(); h != 1 || all != 2 {
			t.Errorf("seed %d, after 28 s: %d of %d are held back, expected 1 of 2", seed, h, all)
		}
		w.Advance(3 * time.Second)
		if h, all := held(); h != 0 || all != 2 {
			t.Errorf("seed %d, after 31 s: %d of %d are held back, expected 0 of 2", seed, h, all)
		}
		if s, _, _ := sun.DP.Counts(); s != 4 {
			t.Errorf("seed %d: %d SAs in the kernel, expected 4", seed, s)
		}
		w.Mangle = nil
		w.Advance(time.Minute)
		if h, all := held(); h != 0 || all != 1 {
			t.Errorf("seed %d, after the delete came: %d of %d are held back, expected 0 of 1", seed, h, all)
		}
		assertUp(t, moon, sun)
	}
}
