package engine

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
)

// watched answers liveness checks and follows up by restart.
func watched(c *sa.Connection) {
	c.DPDDelay = 20 * time.Second
	c.Children[0].DPDAction = sa.FollowStart
}

func dark(_, _ netip.AddrPort, _ []byte) bool { return false }

// TestRestartAfterDeath: a tunnel whose peer was cut off comes back when the
// network does, however long that takes, and stands once.
func TestRestartAfterDeath(t *testing.T) {
	for name, dead := range map[string]time.Duration{"minutes": 10 * time.Minute, "hours": 5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFabric()
				moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(watched)}, fourShards)
				sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(func(c *sa.Connection) { c.DPDDelay = 20 * time.Second })}, nil)
				if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
					t.Fatal(err)
				}
				f.setPass(dark)
				time.Sleep(dead)
				synctest.Wait()
				sun.holds(0, 0)
				f.setPass(nil)
				// A round of retransmissions and a pause, until the next message.
				time.Sleep(time.Minute + 2*time.Minute)
				synctest.Wait()
				moon.holds(2, 3)
				sun.holds(2, 3)
				if n := moon.Stats().Established; n != 2 {
					t.Errorf("established %d times, expected twice", n)
				}
				moon.stop()
				sun.stop()
			})
		})
	}
}

// initsTo counts IKE_SA_INIT requests by the address they went to.
func initsTo(f *fabric, answer func(to netip.AddrPort) bool) map[string]int {
	n := map[string]int{}
	f.join(sunOther) // addresses where nobody listens
	f.join(sunAddr)
	f.setPass(func(_, to netip.AddrPort, data []byte) bool {
		if h, err := wire.ParseHeader(data); err == nil && opensSession(h) {
			n[to.Addr().String()]++
		}
		return answer(to)
	})
	return n
}

const sunOther = "192.0.2.3"

// twoAddrs: the peer has one more address, which goes first.
func twoAddrs(c *sa.Connection) {
	a := netip.MustParseAddr(sunOther)
	c.RemoteAddrs = append([]sa.AddrSpec{{Start: a, End: a}}, c.RemoteAddrs...)
}

func TestAddressesInTurn(t *testing.T) {
	for name, wait := range map[string]bool{"start_action": false, "on demand": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFabric()
				n := initsTo(f, func(netip.AddrPort) bool { return true }) // nobody is at the first one
				sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
				opts := []satest.Option{twoAddrs}
				if !wait {
					opts = append(opts, started)
				}
				moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(opts...)}, nil)
				if wait {
					if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(4 * time.Minute)
				moon.holds(2, 3)
				if n[sunOther] != 6 || n[sunAddr] != 1 {
					t.Errorf("requests by address: %v, expected a run to the first, then one to the second", n)
				}
				moon.stop()
				sun.stop()
			})
		})
	}
}

func TestKeyingTries(t *testing.T) {
	for _, c := range []struct{ tries, want int }{{1, 6}, {3, 18}, {0, 24}} {
		synctest.Test(t, func(t *testing.T) {
			f := newFabric()
			n := initsTo(f, func(netip.AddrPort) bool { return false })
			var lookups atomic.Int64
			tries := func(conn *sa.Connection) {
				conn.KeyingTries = c.tries
				conn.RemoteAddrs = []sa.AddrSpec{{Host: "sun.example.org"}}
			}
			moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(started, tries)}, func(o *Options) {
				o.Resolve = func(string) ([]netip.Addr, error) {
					lookups.Add(1)
					return []netip.Addr{netip.MustParseAddr(sunAddr)}, nil
				}
			})
			time.Sleep(11 * time.Minute) // four runs of 165 s, less the pauses
			synctest.Wait()
			if n[sunAddr] != c.want {
				t.Errorf("keyingtries %d: %d requests in 11 minutes, expected %d", c.tries, n[sunAddr], c.want)
			}
			if rounds := int64(c.want+5) / 6; lookups.Load() < rounds {
				t.Errorf("keyingtries %d: %d lookups in %d rounds", c.tries, lookups.Load(), rounds)
			}
			moon.stop()
		})
	}
}

// TestNetworkChangeHurries: what waits for its next try need not wait when the
// network has changed.
func TestNetworkChangeHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := make(chan struct{}, 1)
		f := newFabric()
		var there atomic.Bool
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(started)}, func(o *Options) {
			o.NetworkChanges = network
			o.Route = func(netip.Addr) (netip.Addr, error) {
				if !there.Load() {
					return netip.Addr{}, syscall.ENETUNREACH
				}
				return netip.MustParseAddr(moonAddr), nil
			}
		})
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		time.Sleep(10*time.Minute + 30*time.Second)
		there.Store(true)
		network <- struct{}{}
		time.Sleep(networkSettle)
		synctest.Wait()
		if n := moon.Stats().Established; n != 1 {
			t.Errorf("established %d times right after the change, expected once", n)
		}
		moon.stop()
		sun.stop()
	})
}

// TestTerminateEndsTheTries: what its operator ended is not tried again.
func TestTerminateEndsTheTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		n := initsTo(f, func(netip.AddrPort) bool { return false })
		forever := func(c *sa.Connection) { c.KeyingTries = 0 }
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(started, forever)}, nil)
		time.Sleep(10 * time.Second)
		if err := moon.Terminate(t.Context(), Target{IKE: moon.infos()[0].UniqueID}, false); err != nil {
			t.Error(err)
		}
		before := n[sunAddr]
		time.Sleep(time.Hour)
		if n[sunAddr] != before || moon.Stats().Sessions != 0 {
			t.Errorf("%d requests after the end, %d sessions", n[sunAddr]-before, moon.Stats().Sessions)
		}
		if s := moon.saw(); strings.Contains(s, "trying again") {
			t.Error(s)
		}
		moon.stop()
	})
}

// TestCloseActionIsPaced: two peers of which one closes what the other sets up
// again do not turn in a circle.
func TestCloseActionIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		closed := func(c *sa.Connection) { c.Children[0].CloseAction = sa.FollowStart }
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(closed)}, nil)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		for range 600 { // ten minutes in which sun ends whatever comes up
			time.Sleep(time.Second)
			for _, i := range sun.infos() {
				if i.State == sa.IKEEstablished {
					if err := sun.Terminate(t.Context(), Target{IKE: i.UniqueID}, false); err != nil {
						t.Error(err)
					}
				}
			}
		}
		if n := moon.Stats().Established; n < 5 || n > 20 {
			t.Errorf("set up %d times in ten minutes, expected pauses that grow to a minute", n)
		}
		moon.stop()
		sun.stop()
	})
}
