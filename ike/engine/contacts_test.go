package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// TestPeerStartsAnew: a peer that lost everything connects again; what it had
// goes at once, in whichever shards the two sessions are.
func TestPeerStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, fourShards)
		var last *box
		for i := range uint64(9) { // a crashed box: it is never heard of again
			moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, func(o *Options) {
				o.DataPlane = dataplane.NewFake(dataplane.FakeOptions{Seed: i}) // other SPIs
			})
			if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			sun.holds(2, 3)
			last = moon
		}
		if n := sun.Stats().Displaced; n != 8 {
			t.Errorf("%d sessions superseded, expected 8", n)
		}
		last.stop()
		time.Sleep(time.Minute)
		sun.stop()
		if n := len(sun.reg.contacts); n != 0 {
			t.Errorf("%d pairs of identities left", n)
		}
	})
}

// TestBothStart: two boxes that set up the same child on start end with one.
func TestBothStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		again := func(c *sa.Connection) {
			c.Children[0].Start = true
			c.Children[0].CloseAction, c.Children[0].DPDAction = sa.FollowStart, sa.FollowStart
			c.KeyingTries = 0
		}
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(again)}, fourShards)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(again, to(moonAddr))}, fourShards)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		moon.holds(2, 3)
		sun.holds(2, 3)
		for _, b := range []*box{moon, sun} {
			if n := b.Stats().Established; n > 3 {
				t.Errorf("established %d times, expected at most a few", n)
			}
		}
		moon.stop()
		sun.stop()
	})
}
