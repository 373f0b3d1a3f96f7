package engine

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

func blockingSettings() Settings {
	s := DefaultSettings()
	s.BlockLeaks = true
	return s
}

func blocking(o *Options) { o.Settings.BlockLeaks = true }

// kinds counts the policies that block, pass in clear, and protect.
func (b *box) kinds() (block, pass, protect int) {
	snap, err := b.dp.List()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range snap.Policies {
		switch {
		case p.Verdict == dataplane.Block:
			block++
		case len(p.Templates) == 0:
			pass++
		default:
			protect++
		}
	}
	return block, pass, protect
}

func (b *box) wantKinds(when string, block, pass, protect int) {
	b.t.Helper()
	if x, y, z := b.kinds(); x != block || y != pass || z != protect {
		b.t.Errorf("%s: %d policies block, %d pass, %d protect, expected %d, %d, %d", when, x, y, z, block, pass, protect)
	}
}

// TestGuards: with leak = block there is always a policy that blocks, from before
// the start to after the stop; only the configuration takes it away.
func TestGuards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, blocking)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon.wantKinds("at the start", 6, 0, 0)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		moon.wantKinds("with a tunnel", 6, 0, 3)
		// A rekeyed, moved, dead … tunnel never touches them: no operation of a
		// session has their keys.
		if err := moon.Terminate(t.Context(), Target{IKE: moon.infos()[0].UniqueID}, false); err != nil {
			t.Fatal(err)
		}
		moon.wantKinds("without", 6, 0, 0)
		set := moon.opts.Settings
		apply := func(block bool, conns ...*sa.Connection) {
			t.Helper()
			set.BlockLeaks = block
			if err := moon.Apply(conns, testCreds(), set, Changes{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		apply(true)
		moon.wantKinds("no longer configured", 0, 0, 0)
		apply(true, moonConn(), sunConn())
		moon.wantKinds("configured, with a second connection", 12, 0, 0)
		var order []bool // whether each operation was a deletion
		moon.dp.FailNext(func(op dataplane.Op) error {
			_, deletes := op.(dataplane.DeletePolicy)
			order = append(order, deletes)
			return nil
		})
		wider := moonConn()
		wider.Children[0].RemoteTS = []selector.Spec{satest.Must(selector.Parse("10.2.0.0/15"))}
		apply(true, wider)
		if i := slices.Index(order, true); len(order) != 6+12 || i != 6 || slices.Contains(order[i:], false) {
			t.Errorf("order of the changes: %v, expected what is new before what goes", order)
		}
		moon.dp.FailNext(nil)
		apply(false, moonConn())
		moon.wantKinds("leak = pass", 0, 0, 0)
		apply(true, moonConn(trapped))
		moon.wantKinds("beside a trap", 6, 0, 3)
		moon.end()
		moon.wantKinds("after the stop", 6, 0, 0)
		sun.stop()

		// What another run finds there it takes over; Guard alone does the same.
		again := dataplane.NewFake(dataplane.FakeOptions{})
		n, err := Guard(again, []*sa.Connection{moonConn()}, nil, blockingSettings(), zerolog.Nop())
		if _, _, policies := again.Counts(); err != nil || n != 6 || policies != 6 {
			t.Errorf("Guard: %d policies, %v, %d there, expected 6", n, err, policies)
		}
		if n, err := Guard(again, []*sa.Connection{moonConn()}, nil, DefaultSettings(), zerolog.Nop()); n != 0 || err != nil {
			t.Errorf("leak = pass: %d policies, %v", n, err)
		}
	})
}

// TestGuardsAddresses: dynamic selectors count as far as the addresses are known.
func TestGuardsAddresses(t *testing.T) {
	dynamic := func(c *sa.Connection) {
		d := selector.Spec{Dynamic: true, TS: selector.TS{EndPort: 65535}}
		c.Children[0].LocalTS, c.Children[0].RemoteTS = []selector.Spec{d}, []selector.Spec{d}
		c.Children[0].Mode = dataplane.Transport
	}
	from := func(c *sa.Connection) {
		a := netip.MustParseAddr(moonAddr)
		c.LocalAddrs = []sa.AddrSpec{{Start: a, End: a}}
	}
	anybody := func(c *sa.Connection) { c.RemoteAddrs = nil }
	pools := []*lease.Pool{{Name: "p", Start: netip.MustParseAddr("10.9.0.0"), End: netip.MustParseAddr("10.9.0.255")}}
	pooled := func(c *sa.Connection) { c.Pools = []string{"p", "another"} }
	virtual := func(c *sa.Connection) { c.VIPs = []netip.Addr{netip.IPv4Unspecified()} }
	v6 := func(c *sa.Connection) {
		c.Children[0].LocalTS[0], c.Children[0].RemoteTS[0] = satest.Must(selector.Parse("2001:db8:1::/64")), satest.Must(selector.Parse("::/0"))
	}
	for _, c := range []struct {
		opts []satest.Option
		want int
	}{
		{[]satest.Option{v6}, 6 + 4}, // neighbour discovery goes on
		{[]satest.Option{dynamic, from}, 4},
		{[]satest.Option{dynamic}, 0},
		{[]satest.Option{dynamic, from, anybody}, 0},
		{[]satest.Option{dynamic, from, anybody, pooled}, 4},
		{[]satest.Option{dynamic, virtual}, 4},
	} {
		var out bytes.Buffer
		n, err := Guard(dataplane.NewFake(dataplane.FakeOptions{}), []*sa.Connection{moonConn(c.opts...)}, pools, blockingSettings(), zerolog.New(&out))
		if n != c.want || err != nil || strings.Contains(out.String(), "left out") != (c.want == 0) {
			t.Errorf("%d policies, %v, expected %d, said: %s", n, err, c.want, out.String())
		}
	}
	synctest.Test(t, func(t *testing.T) {
		moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{moonConn(dynamic)}, blocking)
		moon.wantKinds("with a route to the peer", 4, 0, 0)
		moon.end()
	})
}

// shunts is a connection that holds shunts only.
func shunts(drop, install bool) *sa.Connection {
	c := satest.Conn("shunts", "moon.example.org", "sun.example.org", "10.1.0.0/24", "10.2.7.0/24")
	ch := c.Children[0]
	ch.Shunt, ch.Trap = sa.ShuntPass, install
	if drop {
		ch.Shunt = sa.ShuntDrop
	}
	return &sa.Connection{Name: c.Name, Shunts: []*sa.ChildConfig{ch}}
}

func TestShunts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{shunts(false, true), moonConn(trapped)}, nil)
		synctest.Wait()
		moon.wantKinds("a shunt that passes", 0, 3, 3)
		apply := func(conns ...*sa.Connection) {
			t.Helper()
			if err := moon.Apply(conns, testCreds(), moon.opts.Settings, Changes{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		apply(shunts(true, true), moonConn(trapped))
		moon.wantKinds("that drops", 3, 0, 3)
		apply(shunts(true, false), moonConn(trapped))
		moon.wantKinds("not installed", 0, 0, 3)
		if err := moon.Install(t.Context(), "shunts", "net"); err != nil {
			t.Error(err)
		}
		moon.wantKinds("by hand", 3, 0, 3)
		apply(shunts(true, false), moonConn())
		moon.wantKinds("by hand over a reload", 3, 0, 0)
		if err := moon.Uninstall("shunts", "net"); err != nil {
			t.Error(err)
		}
		moon.wantKinds("by hand again", 0, 0, 0)
		apply()
		apply(shunts(false, true))
		moon.wantKinds("configured anew", 0, 3, 0)
		if err := moon.Initiate(t.Context(), "shunts", "net", false); err == nil {
			t.Error("a shunt was initiated")
		}
		moon.stop()
	})
}

func TestBypassLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nets := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
		network := make(chan struct{})
		everything := satest.Conn("sun", "moon.example.org", "sun.example.org", "10.1.0.0/24", "0.0.0.0/0", to(sunAddr), trapped)
		moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{everything}, func(o *Options) {
			o.Settings.BypassLAN, o.NetworkChanges = true, network
			o.Networks = func() ([]netip.Prefix, error) { return nets, nil }
		})
		synctest.Wait()
		moon.wantKinds("two networks", 0, 6, 3)
		snap, _ := moon.dp.List()
		lan, tunnel := uint32(0), uint32(0)
		for _, p := range snap.Policies {
			switch {
			case len(p.Templates) > 0:
				tunnel = p.Priority
			case p.Selector.Src.Addr().Is4():
				lan = p.Priority
				if p.Selector.Src != p.Selector.Dst {
					t.Errorf("%s, expected one network only", p.Selector)
				}
			}
		}
		if lan >= tunnel {
			t.Errorf("priority %d of the local network, expected it before the tunnel's %d", lan, tunnel)
		}
		nets = nets[:1]
		network <- struct{}{}
		time.Sleep(networkSettle)
		synctest.Wait()
		moon.wantKinds("an address went", 0, 3, 3)
		set := moon.opts.Settings
		set.BypassLAN = false
		if err := moon.Apply([]*sa.Connection{everything}, testCreds(), set, Changes{}); err != nil {
			t.Fatal(err)
		}
		moon.wantKinds("bypass_lan = no", 0, 0, 3)
		moon.stop()
	})
}

func TestConnectedNetworks(t *testing.T) {
	nets, err := connectedNetworks()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nets {
		if n != n.Masked() || n.Addr().IsLoopback() || n.IsSingleIP() || len(slices.DeleteFunc(slices.Clone(nets), func(o netip.Prefix) bool { return o != n })) != 1 {
			t.Errorf("%v: %s is no network, or listed twice", nets, n)
		}
	}
}
