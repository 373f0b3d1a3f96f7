package engine

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
)

// TestAddressesInARow: a session whose address is gone waits neither for the pause
// between two checks of all paths nor for the timer of what it said last; one that
// still has its address does wait.
func TestAddressesInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := make(chan struct{}, 1)
		f := newFabric()
		mine := atomic.Pointer[netip.Addr]{}
		with := func(c *sa.Connection) { c.MOBIKE = true }
		here := netip.MustParseAddr(moonAddr)
		mine.Store(&here)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(with)}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(with)}, func(o *Options) {
			o.NetworkChanges = network
			o.Route = func(netip.Addr) (netip.Addr, error) { return *mine.Load(), nil }
			o.Addrs = func() ([]netip.Addr, error) { return []netip.Addr{*mine.Load()}, nil }
		})
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			next := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
			mine.Store(&next)
			f.mu.Lock()
			f.ends[next] = f.ends[here]
			delete(f.ends, here)
			f.mu.Unlock()
			here = next
			network <- struct{}{}
			time.Sleep(2 * networkSettle)
			synctest.Wait()
			if now := theInfo(t, moon); now.Local.Addr() != here || now.Children[0].Local.Addr() != here {
				t.Errorf("move %d: the session is at %s, its child at %s, expected both at %s", i, now.Local, now.Children[0].Local, here)
			}
		}
		time.Sleep(2 * networkPause)
		network <- struct{}{}
		time.Sleep(networkSettle)
		synctest.Wait()
		before := sun.Stats().Received
		for range 8 { // nothing happens to its address
			network <- struct{}{}
			time.Sleep(networkPause / 10)
		}
		synctest.Wait()
		if n := sun.Stats().Received - before; n != 0 {
			t.Errorf("%d messages in a pause, expected none", n)
		}
		time.Sleep(networkPause / 2)
		synctest.Wait()
		if n := sun.Stats().Received - before; n != 1 {
			t.Errorf("%d messages after a pause, expected one", n)
		}
		moon.stop()
		sun.stop()
	})
}

// TestAddressChange: the box gets another address in the place of its own, and
// its tunnels move there with MOBIKE, or are set up anew from there.
func TestAddressChange(t *testing.T) {
	for _, mobike := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			network, other := make(chan struct{}, 1), netip.MustParseAddr("192.0.2.90")
			f := newFabric()
			mine := atomic.Pointer[netip.Addr]{}
			first := netip.MustParseAddr(moonAddr)
			mine.Store(&first)
			with := func(c *sa.Connection) { c.MOBIKE = mobike }
			sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(with)}, nil)
			moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(with)}, func(o *Options) {
				o.NetworkChanges = network
				o.Route = func(netip.Addr) (netip.Addr, error) { return *mine.Load(), nil }
				o.Addrs = func() ([]netip.Addr, error) { return []netip.Addr{*mine.Load()}, nil }
			})
			if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			was := theInfo(t, moon)
			mine.Store(&other)
			f.mu.Lock()
			f.ends[other] = f.ends[first]
			delete(f.ends, first)
			f.mu.Unlock()
			network <- struct{}{}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			now, peers := theInfo(t, moon), sun.infos()
			if now.Local.Addr() != other || now.Children[0].Local.Addr() != other {
				t.Errorf("MOBIKE %v: the session is at %s, its child at %s, expected both at %s", mobike, now.Local, now.Children[0].Local, other)
			}
			if same := now.SPIi == was.SPIi; same != mobike {
				t.Errorf("MOBIKE %v: the same IKE SA: %v", mobike, same)
			}
			if p := peers[len(peers)-1]; p.Remote.Addr() != other && peers[0].Remote.Addr() != other {
				t.Errorf("MOBIKE %v: sun sees moon at %s", mobike, p.Remote)
			}
			moon.stop()
			sun.stop()
		})
	}
}
