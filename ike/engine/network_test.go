package engine

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestNetworkChange: each change of the box's network has every session ask its
// peer at once, and a burst of changes is few rounds.
func TestNetworkChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := make(chan struct{}, 1)
		f := newFabric()
		moon, sun := pair(t, f, func(o *Options) { o.NetworkChanges = network })
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		before := sun.Stats().Received
		network <- struct{}{}
		time.Sleep(networkSettle)
		synctest.Wait()
		// The channel is both boxes': one of them took the change.
		if n := sun.Stats().Received + moon.Stats().Received - before; n < 2 {
			t.Errorf("%d messages after a change, expected a question and its answer", n)
		}
		begin := moon.Stats().NetworkChanges + sun.Stats().NetworkChanges
		for range 50 {
			select {
			case network <- struct{}{}:
			default:
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := moon.Stats().NetworkChanges + sun.Stats().NetworkChanges - begin; n > 12 || n < 4 {
			t.Errorf("%d rounds of checks in 5 s, expected at most one a second and box", n)
		}
		moon.stop()
		sun.stop()
	})
}
