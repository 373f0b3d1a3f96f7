package engine

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
)

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
