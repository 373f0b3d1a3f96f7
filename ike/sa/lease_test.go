package sa_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/dataplane/selector"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// roadwarrior makes sun serve pools and moon ask for addresses: dynamic to
// 10.2.0.0/16 and fd00:2::/32 on moon's side.
func roadwarrior(w *satest.World, vips string, pools ...*lease.Pool) (moon, sun *satest.Node) {
	moon, sun = satest.Pair(w, func(c *sa.Connection) {
		ch := c.Children[0]
		net6 := satest.Must(selector.Parse("fd00:2::/32"))
		if c.Name == "sun" {
			ch.RemoteTS = append(ch.RemoteTS, net6)
			for _, v := range strings.Fields(vips) {
				c.VIPs = append(c.VIPs, netip.MustParseAddr(v))
			}
			ch.LocalTS = []selector.Spec{satest.Must(selector.Parse("dynamic"))}
			return
		}
		ch.LocalTS = append(ch.LocalTS, net6)
		ch.RemoteTS = []selector.Spec{satest.Must(selector.Parse("dynamic"))}
		for _, p := range pools {
			c.Pools = append(c.Pools, p.Name)
		}
		if len(pools) == 0 {
			c.Pools = nil
		}
	})
	sun.ServePools(pools...)
	moon.Env.Settings.InstallRoutes = true
	return moon, sun
}

func pool(name, start, end string, attrs ...wire.CfgAttribute) *lease.Pool {
	return &lease.Pool{Name: name, Start: netip.MustParseAddr(start), End: netip.MustParseAddr(end), Attrs: attrs}
}

func dns(a string) wire.CfgAttribute {
	ip := netip.MustParseAddr(a)
	if ip.Is6() {
		return wire.CfgAttribute{Type: wire.CfgAttrInternalIP6DNS, Value: ip.AsSlice()}
	}
	return wire.CfgAttribute{Type: wire.CfgAttrInternalIP4DNS, Value: ip.AsSlice()}
}

func TestVirtualAddress(t *testing.T) {
	for _, roundTrip := range []bool{false, true} {
		t.Run(fmt.Sprint(roundTrip), func(t *testing.T) {
			w := satest.New(1)
			w.RoundTrip = roundTrip
			moon, sun := roadwarrior(w, "0.0.0.0 ::", pool("four", "10.3.0.1", "10.3.0.9", dns("10.2.0.53")), pool("six", "fec3::1", "fec3::ff"))
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			assertUp(t, moon, sun)
			want := "[10.3.0.1 fec3::1]"
			if got := fmt.Sprint(sun.Live()[0].Info().RemoteVIPs); got != want {
				t.Errorf("the server gave %s, want %s", got, want)
			}
			if got := fmt.Sprint(moon.Live()[0].Info().LocalVIPs); got != want {
				t.Errorf("the client has %s, want %s", got, want)
			}
			if ts := fmt.Sprint(moon.Live()[0].Info().Children[0].LocalTS); ts != "[10.3.0.1/32 fec3::1/128]" {
				t.Errorf("the tunnel is for %s", ts)
			}
			if ev, ok := satest.Find[event.VirtualAddresses](moon); !ok || ev.Given || fmt.Sprint(ev.DNS) != "[10.2.0.53]" {
				t.Errorf("event %+v", ev)
			}
			if got := fmt.Sprint(moon.Net.Addrs()); got != want {
				t.Errorf("on the client's interfaces are %s", got)
			}
			if got := fmt.Sprint(moon.Net.Routes()); got != "[10.2.0.0/16 from 10.3.0.1/32 fd00:2::/32 from fec3::1/128]" {
				t.Errorf("the client's routes are %s", got)
			}
			// Both keep their addresses over every rekeying, by either side.
			for _, n := range []*satest.Node{moon, sun} {
				n.Do(0, sa.Rekey{})
				w.Advance(time.Minute)
				n.Do(0, sa.Rekey{ChildID: n.Live()[0].Info().Children[0].UniqueID})
				w.Advance(time.Minute)
				assertUp(t, moon, sun)
			}
			if got := fmt.Sprint(moon.Net.Addrs()); got != want || fmt.Sprint(sun.Live()[0].Info().RemoteVIPs) != want {
				t.Errorf("after rekeying the client has %s, the server gave %s", got, sun.Live()[0].Info().RemoteVIPs)
			}
			if ts := fmt.Sprint(moon.Live()[0].Info().Children[0].LocalTS); ts != "[10.3.0.1/32 fec3::1/128]" {
				t.Errorf("the rekeyed tunnel is for %s", ts)
			}
			if l := sun.Pools.List(); l[0].Online != 1 || l[1].Online != 1 {
				t.Errorf("the server's pools: %+v", l)
			}
			sun.Do(0, sa.Terminate{})
			w.Advance(time.Minute)
			assertNothing(t, moon)
			assertNothing(t, sun)
			if a, r := moon.Net.Addrs(), moon.Net.Routes(); len(a)+len(r) != 0 {
				t.Errorf("the client kept addresses %s and routes %s", a, r)
			}
			if l := sun.Pools.List(); l[0].Online != 0 || l[0].Offline != 1 {
				t.Errorf("the server's pools afterwards: %+v", l)
			}
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			if got := fmt.Sprint(moon.Net.Addrs()); got != want {
				t.Errorf("the client came back and has %s, want %s", got, want)
			}
		})
	}
}

// TestAddressFailure: without an address for the peer there is no child, but the
// IKE SA stands (RFC 7296 3.15.4), and both sides say why.
func TestAddressFailure(t *testing.T) {
	full := pool("full", "10.3.0.1", "10.3.0.1")
	for _, c := range []struct {
		name, vips string
		pools      []*lease.Pool
		notify     string
	}{
		{"no pools", "0.0.0.0", nil, "INTERNAL_ADDRESS_FAILURE"},
		{"exhausted", "0.0.0.0", []*lease.Pool{full}, "INTERNAL_ADDRESS_FAILURE"},
		{"the other family", "::", []*lease.Pool{pool("four", "10.3.0.1", "10.3.0.9")}, "INTERNAL_ADDRESS_FAILURE"},
		{"nothing asked", "", []*lease.Pool{full}, "FAILED_CP_REQUIRED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(1)
			w.RoundTrip = true
			moon, sun := roadwarrior(w, c.vips, c.pools...)
			if c.name == "exhausted" {
				sun.Pools.Take(lease.Ask{Pools: []string{"full"}, Key: "another", V4: true})
			}
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			for _, n := range []*satest.Node{moon, sun} {
				if live := n.Live(); len(live) != 1 || !live[0].IsEstablished() || len(live[0].Info().Children) != 0 {
					t.Fatalf("%s: %s", n.Addr, dump(n))
				}
			}
			if f, ok := satest.Find[event.Failed](sun); !ok || f.Cause != event.AddressFailure || f.ByPeer || f.Fix == "" {
				t.Errorf("the server says %+v", f)
			}
			if f, ok := satest.Find[event.Failed](moon); !ok || !f.ByPeer || !strings.Contains(facts(f), c.notify) {
				t.Errorf("the client says %+v", f)
			}
			if s, reserved, p := moon.DP.Counts(); s+reserved+p != 0 {
				t.Error("the client holds something of the child")
			}
		})
	}
}

// TestNoAddressInReply: a peer that builds the child without a word about an
// address is told to remove it.
func TestNoAddressInReply(t *testing.T) {
	w := satest.New(1)
	moon, sun := satest.Pair(w)
	moon.Initiate("sun", "", sunAddr)
	// The server never sees that an address is asked for.
	w.Stepped = func(n *satest.Node) {
		if live := moon.Live(); n == moon && len(live) == 1 && live[0].Phase() == sa.AuthSent {
			moon.Env.Conns.All()[0].VIPs = []netip.Addr{netip.IPv4Unspecified()}
		}
	}
	w.Advance(time.Minute)
	if f, ok := satest.Find[event.Failed](moon); !ok || f.Cause != event.AddressFailure {
		t.Errorf("the client says %+v", f)
	}
	for _, n := range []*satest.Node{moon, sun} {
		if s, reserved, p := n.DP.Counts(); s+reserved+p != 0 || len(n.Live()) != 1 {
			t.Errorf("%s holds %d SAs, %d reserved SPIs, %d policies; %s", n.Addr, s, reserved, p, dump(n))
		}
	}
}

// TestWideAnswer: a peer that gives an address but leaves the selectors as wide
// as they were offered gets a tunnel for that address alone on our side.
func TestWideAnswer(t *testing.T) {
	w := satest.New(1)
	moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.7", "10.3.0.9"))
	sun.Env.Conns.All()[0].Children[0].RemoteTS = []selector.Spec{satest.Must(selector.Parse("0.0.0.0/0"))}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	if ts := fmt.Sprint(moon.Live()[0].Info().Children[0].LocalTS); ts != "[10.3.0.7/32]" {
		t.Errorf("the tunnel is for %s", ts)
	}
}

// TestSuccessorKeepsAddress: a second session of the same identity that asks for
// the address has it together with the first, on both sides, until both end.
func TestSuccessorKeepsAddress(t *testing.T) {
	w := satest.New(1)
	moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.1", "10.3.0.9"))
	first := moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	m := moon.Prepare("sun", "", sunAddr)
	m.AskFor(first.Info().LocalVIPs)
	moon.Do(len(moon.Sessions)-1, sa.Start{})
	w.Settle(100)
	if len(moon.Live()) != 2 || !slices.Equal(m.Info().LocalVIPs, first.Info().LocalVIPs) {
		t.Fatalf("the first has %s, its successor %s", first.Info().LocalVIPs, m.Info().LocalVIPs)
	}
	moon.Do(0, sa.Terminate{})
	w.Advance(time.Minute)
	if l := sun.Pools.List()[0]; l.Online != 1 || fmt.Sprint(moon.Net.Addrs()) != "[10.3.0.1]" {
		t.Errorf("after the end of the first: pool %+v, client's addresses %s", l, moon.Net.Addrs())
	}
	moon.Do(1, sa.Terminate{})
	w.Advance(time.Minute)
	if l := sun.Pools.List()[0]; l.Online != 0 || len(moon.Net.Addrs()) != 0 {
		t.Errorf("after the end of both: pool %+v, client's addresses %s", l, moon.Net.Addrs())
	}
}

// TestRoutesFollowChildren: each CHILD SA has the box's routes for as long as it
// stands.
func TestRoutesFollowChildren(t *testing.T) {
	w := satest.New(1)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, func(c *sa.Connection) {
		two := *c.Children[0]
		two.Name = "two"
		two.LocalTS, two.RemoteTS = []selector.Spec{satest.Must(selector.Parse("10.11.0.0/16"))}, []selector.Spec{satest.Must(selector.Parse("10.12.0.0/16"))}
		if c.Name == "moon" {
			two.LocalTS, two.RemoteTS = two.RemoteTS, two.LocalTS
		}
		c.Children = append(c.Children, &two)
	})
	moon.Env.Settings.InstallRoutes, sun.Env.Settings.InstallRoutes = true, true
	expect := func(when, ours, theirs string) {
		t.Helper()
		w.Advance(time.Minute)
		if got := fmt.Sprint(moon.Net.Routes(), sun.Net.Routes()); got != ours+" "+theirs {
			t.Errorf("%s: %s", when, got)
		}
	}
	moon.Initiate("sun", "net", sunAddr)
	expect("one child", "[10.2.0.0/16 from 10.1.0.0/16]", "[10.1.0.0/16 from 10.2.0.0/16]")
	moon.Do(0, sa.NewChild{Child: "two"})
	expect("two children", "[10.12.0.0/16 from 10.11.0.0/16 10.2.0.0/16 from 10.1.0.0/16]", "[10.1.0.0/16 from 10.2.0.0/16 10.11.0.0/16 from 10.12.0.0/16]")
	sun.Do(0, sa.Terminate{Child: "net"})
	expect("the other child", "[10.12.0.0/16 from 10.11.0.0/16]", "[10.11.0.0/16 from 10.12.0.0/16]")
	moon.Do(0, sa.Terminate{})
	expect("none", "[]", "[]")
}

// TestBoxLearnsWhereThePeerMoved: the routes' way is the one to where the peer is
// now.
func TestBoxLearnsWhereThePeerMoved(t *testing.T) {
	w, moon, sun, box := natted(t)
	sun.Env.Settings.InstallRoutes = true
	var way netip.Addr
	sun.Fail = func(s sa.Spec) error {
		if n, ok := s.(sa.Network); ok {
			way = n.Wish.Peer
		}
		return nil
	}
	box.public = netip.MustParseAddr("198.51.100.8")
	moon.Do(0, sa.NetworkChanged{})
	w.Settle(100)
	if way != box.public {
		t.Errorf("the box looks for the way to %s, the peer is at %s", way, box.public)
	}
}

// TestReconnectKeepsAddress: a client that lost its memory while the server has
// not noticed gets its address back where the old session gives way; where it
// does not, another one.
func TestReconnectKeepsAddress(t *testing.T) {
	for _, c := range []struct {
		unique  sa.Uniqueness
		initial bool // the client says that it is its first contact
		want    string
	}{
		{sa.UniquenessNo, true, "[10.3.0.1]"}, {sa.UniquenessNo, false, "[10.3.0.2]"},
		{sa.UniquenessReplace, false, "[10.3.0.1]"}, {sa.UniquenessNever, true, "[10.3.0.2]"},
	} {
		w := satest.New(1)
		moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.1", "10.3.0.9"))
		sun.Env.Conns.All()[0].Unique = c.unique
		if !c.initial {
			moon.Env.Conns.All()[0].Unique = sa.UniquenessNever
		}
		moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		assertUp(t, moon, sun)
		moon.Sessions[0] = nil // the crash
		m := moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		if got := fmt.Sprint(m.Info().LocalVIPs); got != c.want {
			t.Errorf("%+v: the client got %s", c, got)
		}
	}
}

// TestReauthenticationKeepsAddress: the box has the address and the route at
// every moment of a reauthentication, which loses nothing.
func TestReauthenticationKeepsAddress(t *testing.T) {
	for seed := range uint64(4) {
		w := satest.New(seed)
		w.RoundTrip = seed%2 == 0
		moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.1", "10.3.0.9"))
		moon.Env.Conns.All()[0].ReauthTime = time.Hour
		moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		assertUp(t, moon, sun)
		old := moon.Live()[0].Info()
		neverLost(t, w, moon, sun, "net")
		check := w.Stepped
		w.Stepped = func(n *satest.Node) {
			check(n)
			if fmt.Sprint(moon.Net.Addrs(), moon.Net.Routes()) != "[10.3.0.1] [10.2.0.0/16 from 10.3.0.1/32]" {
				t.Errorf("seed %d: the box has %s and %s", seed, moon.Net.Addrs(), moon.Net.Routes())
			}
		}
		w.Advance(time.Hour)
		assertUp(t, moon, sun)
		if now := moon.Live()[0].Info(); now.UniqueID == old.UniqueID || fmt.Sprint(now.LocalVIPs) != "[10.3.0.1]" {
			t.Errorf("seed %d: before %+v\nafter %+v", seed, old, now)
		}
		if l := sun.Pools.List()[0]; l.Online != 1 || l.Offline != 0 {
			t.Errorf("seed %d: pool %+v", seed, l)
		}
	}
}

// TestBoxFollowsMoves: when the way to the peer changes, the box looks its
// addresses and routes over; when the peer moves, it learns the new address.
func TestBoxFollowsMoves(t *testing.T) {
	w := satest.New(1)
	moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.1", "10.3.0.9"))
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	asked := 0
	moon.Fail = func(s sa.Spec) error {
		if n, ok := s.(sa.Network); ok {
			asked++
			if n.Wish.Peer != sunAddr || len(n.Wish.Addrs) != 1 || len(n.Wish.Routes) != 1 {
				t.Errorf("the box is asked for %+v", n.Wish)
			}
		}
		return nil
	}
	moon.Do(0, sa.NetworkChanged{})
	w.Settle(100)
	if asked != 1 {
		t.Errorf("the box was asked %d times after a change of its network", asked)
	}
	moon.Do(0, sa.Rekey{})
	w.Advance(time.Minute)
	if asked != 1 {
		t.Errorf("the box was asked again by a rekeying, which changes nothing")
	}
}

// TestHostRefusesAddress: the tunnel comes up all the same, and the log says so.
func TestHostRefusesAddress(t *testing.T) {
	w := satest.New(1)
	w.RoundTrip = true
	moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.1", "10.3.0.9"))
	moon.Fail = func(s sa.Spec) error {
		if _, ok := s.(sa.Network); ok {
			return fmt.Errorf("planted")
		}
		return nil
	}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	if f, ok := satest.Find[event.Failed](moon); !ok || f.Cause != event.KernelRefused {
		t.Errorf("the client says %+v", f)
	}
	moon.Do(0, sa.Terminate{})
	w.Advance(time.Minute)
	assertNothing(t, moon)
	assertNothing(t, sun)
}

// TestHostileReply: addresses that nobody may have, or more than asked for, are
// not taken.
func TestHostileReply(t *testing.T) {
	w := satest.New(1)
	bad := make([]wire.CfgAttribute, 0, 8)
	for _, a := range []string{"127.0.0.1", "224.0.0.1", "255.255.255.255", "10.3.0.77"} {
		bad = append(bad, wire.CfgAttribute{Type: wire.CfgAttrInternalIP4Address, Value: netip.MustParseAddr(a).AsSlice()})
	}
	bad = append(bad, wire.CfgAttribute{Type: wire.CfgAttrInternalIP4Address, Value: []byte{1}},
		wire.CfgAttribute{Type: wire.CfgAttrInternalIP6Address, Value: append(netip.MustParseAddr("fec3::1").AsSlice(), 128)}, dns("127.0.0.53"))
	moon, sun := roadwarrior(w, "0.0.0.0", pool("four", "10.3.0.1", "10.3.0.9", bad...))
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	if ev, _ := satest.Find[event.VirtualAddresses](moon); fmt.Sprint(ev.Addrs) != "[10.3.0.1]" || len(ev.DNS) != 0 {
		t.Errorf("taken: %+v", ev)
	}
}
