package sa_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/internal/event"
)

func unique(u sa.Uniqueness) satest.Option { return func(c *sa.Connection) { c.Unique = u } }

// up counts established sessions and installed children of a node.
func up(n *satest.Node) (ikes, children int) {
	for _, m := range n.Live() {
		if m.IsEstablished() {
			ikes++
			for _, c := range m.Info().Children {
				if c.State == sa.ChildSAInstalled {
					children++
				}
			}
		}
	}
	return ikes, children
}

func assertOne(t *testing.T, nodes ...*satest.Node) {
	t.Helper()
	for _, n := range nodes {
		if i, c := up(n); i != 1 || c != 1 {
			t.Errorf("%s: %d IKE SAs with %d CHILD SAs, expected one of each", n.Addr, i, c)
		}
		if s, r, p := n.DP.Counts(); s != 2 || r != 0 || p != 3 {
			t.Errorf("%s: %d SAs, %d reserved, %d policies in the data plane", n.Addr, s, r, p)
		}
	}
}

// TestInitialContact: a peer that has started anew says so, and what it had
// before is gone at once, without waiting for DPD.
func TestInitialContact(t *testing.T) {
	for _, u := range []sa.Uniqueness{sa.UniquenessNo, sa.UniquenessKeep, sa.UniquenessReplace, sa.UniquenessNever} {
		t.Run(fmt.Sprint(u), func(t *testing.T) {
			w, moon, sun := established(t, 1, true, unique(u))
			w.Advance(time.Minute)
			moon.Crash()
			moon.Initiate("sun", "", sunAddr)
			w.Advance(10 * time.Second)
			i, c := up(sun)
			switch u {
			case sa.UniquenessNever:
				if i != 2 || c != 2 {
					t.Errorf("%d IKE SAs, %d CHILD SAs, expected both to stand", i, c)
				}
			default:
				assertOne(t, moon, sun)
				noErrors(t, moon, sun)
			}
		})
	}
}

// TestUniqueSecond: a second IKE SA by a peer that has one, as after its
// configuration was loaded twice.
func TestUniqueSecond(t *testing.T) {
	all := []string{"responder", "initiator", "both"}
	for _, c := range []struct {
		u          sa.Uniqueness
		ikes       int
		moonFailed bool
		by         []string // whose policy it is
		elsewhere  bool     // moon begins the second one from another address
	}{
		{sa.UniquenessNo, 2, false, all, false}, {sa.UniquenessNever, 2, false, all, false}, {sa.UniquenessReplace, 1, false, all, false},
		{sa.UniquenessKeep, 1, true, all, true},
		// From the same address and port it may be a reauthentication, unless it is ours.
		{sa.UniquenessKeep, 2, false, []string{"responder"}, false}, {sa.UniquenessKeep, 1, true, []string{"initiator", "both"}, false},
	} {
		for _, who := range c.by {
			t.Run(fmt.Sprintf("%d by %s, elsewhere %v", c.u, who, c.elsewhere), func(t *testing.T) {
				policy := func(conn *sa.Connection) {
					if who == "both" || (who == "initiator") == (conn.Name == "sun") {
						conn.Unique = c.u
					}
				}
				w, moon, sun := established(t, 2, true, policy)
				w.Advance(time.Minute)
				if c.elsewhere {
					moon.Also, moon.Addr = []netip.Addr{moon.Addr}, netip.MustParseAddr("192.0.2.77")
				}
				moon.Initiate("sun", "", sunAddr)
				w.Advance(time.Minute)
				for _, n := range []*satest.Node{moon, sun} {
					if i, _ := up(n); i != c.ikes {
						t.Errorf("%s: %d IKE SAs, expected %d", n.Addr, i, c.ikes)
					}
				}
				if c.ikes == 1 {
					assertOne(t, moon, sun)
					// Which of them stands is the policy's choice.
					if first := sun.Live()[0].ID() == 1; first != (c.u == sa.UniquenessKeep) {
						t.Errorf("the first one stands: %v", first)
					}
				}
				if _, failed := satest.Find[event.Failed](moon); failed != c.moonFailed {
					t.Errorf("moon failed: %v", failed)
				}
				if len(moon.Restarts)+len(sun.Restarts) != 0 {
					t.Error("what is replaced must not be set up again")
				}
			})
		}
	}
}

// TestBothInitiate: when both sides begin at the same time, one IKE SA stands,
// whatever the order of the messages and the policy.
func TestBothInitiate(t *testing.T) {
	for _, u := range []sa.Uniqueness{sa.UniquenessNo, sa.UniquenessKeep, sa.UniquenessReplace, sa.UniquenessNever} {
		for seed := range uint64(60) {
			w := satest.New(seed)
			w.RoundTrip = seed%4 == 0
			moon, sun := satest.Pair(w, unique(u), func(c *sa.Connection) { c.Children[0].CloseAction = sa.FollowStart })
			var held []satest.Packet
			w.Mangle = func(p satest.Packet) []satest.Packet {
				// Packets wait for one another in a random order.
				held = append(held, p)
				if len(held) > 2 || w.Rand().Uint64()%2 == 0 {
					i := int(w.Rand().Uint64() % uint64(len(held)))
					q := held[i]
					held = append(held[:i], held[i+1:]...)
					return []satest.Packet{q}
				}
				return nil
			}
			moon.Initiate("sun", "", sunAddr)
			if seed%3 == 0 {
				w.Settle(int(seed % 5))
			}
			sun.Initiate("moon", "", moon.Addr)
			w.Advance(2 * time.Minute)
			w.Mangle = nil
			w.Advance(3 * time.Minute)
			for _, n := range []*satest.Node{moon, sun} {
				if i, c := up(n); i != 1 || c != 1 {
					t.Errorf("policy %d, seed %d: %s has %d IKE SAs and %d CHILD SAs, expected one", u, seed, n.Addr, i, c)
				}
			}
			if t.Failed() {
				return
			}
		}
	}
}

// TestNeverAcrossPeers: where several peers share an identity, one that begins an
// IKE SA while we begin one with another of them crosses nothing.
func TestNeverAcrossPeers(t *testing.T) {
	now := time.Unix(1e9, 0)
	ours := sa.Contact{ID: 1, Initiator: true, SPIi: 1, Created: now, Since: now.Add(time.Second), Peer: netip.MustParseAddrPort("192.0.2.1:500")}
	for addr, want := range map[string]sa.Fate{"192.0.2.1:4500": sa.NewOneEnds, "192.0.2.3:500": sa.BothStay} {
		d := sa.Displace{Contact: sa.Contact{ID: 2, SPIi: 2, Created: now, Since: now.Add(2 * time.Second), Peer: netip.MustParseAddrPort(addr)}, Policy: sa.UniquenessNever, Initial: true}
		if got := d.Against(ours); got != want {
			t.Errorf("a peer at %s: fate %d, expected %d", addr, got, want)
		}
	}
}
