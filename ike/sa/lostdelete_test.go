package sa_test

import (
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// TestLoserDeletesEarly: the peer that lost a collision of two IKE rekeyings
// deletes its new IKE SA before we have its answer to ours, as strongSwan does;
// that ends nothing.
func TestLoserDeletesEarly(t *testing.T) {
	early := 0
	for seed := range uint64(16) {
		w, moon, sun := established(t, seed, seed%2 == 0)
		var held []satest.Packet
		w.Mangle = func(p satest.Packet) []satest.Packet {
			h := satest.Must(wire.ParseHeader(p.Data))
			switch {
			case p.From.Addr() != sun.Addr:
			case h.Exchange == wire.ExchangeCreateChildSA && h.IsResponse():
				held = append(held, p)
				return nil
			case h.Exchange == wire.ExchangeInformational && len(held) > 0:
				if !h.IsResponse() {
					early++
				}
				out := append([]satest.Packet{p}, held...)
				held = nil
				return out
			}
			return []satest.Packet{p}
		}
		moon.Do(0, sa.Rekey{})
		sun.Do(0, sa.Rekey{})
		w.Settle(1000)
		w.Mangle = nil
		w.Advance(10 * time.Minute)
		for _, n := range []*satest.Node{moon, sun} {
			if e, ok := satest.Find[event.IKEDown](n); ok {
				t.Fatalf("seed %d: %s: %+v", seed, n.Addr, e)
			}
		}
		assertUp(t, moon, sun)
		noErrors(t, moon, sun)
	}
	if early == 0 {
		t.Error("no delete came early: the test shows nothing")
	}
}
