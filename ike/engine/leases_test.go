package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// TestLeases: an engine serves a pool, another one uses what it gets, and the
// lease goes when the session goes.
func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		dynamic := []selector.Spec{satest.Must(selector.Parse("dynamic"))}
		pool := func(start, end string) []*lease.Pool {
			return []*lease.Pool{{Name: "rw", Start: netip.MustParseAddr(start), End: netip.MustParseAddr(end)}}
		}
		var network dataplane.FakeNetwork
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(func(c *sa.Connection) {
			c.Pools, c.Children[0].RemoteTS = []string{"rw"}, dynamic
		})}, nil)
		sun.SetPools(pool("10.9.0.1", "10.9.0.9"))
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(func(c *sa.Connection) {
			c.VIPs, c.Children[0].LocalTS = []netip.Addr{netip.IPv4Unspecified()}, dynamic
		})}, func(o *Options) { o.Network, o.Settings.InstallRoutes = &network, true })
		up := func(want string) {
			t.Helper()
			if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
				t.Fatal(err)
			}
			// Whoever waits for the child finds the address in place.
			if got := fmt.Sprint(network.Addrs(), network.Routes()); got != fmt.Sprintf("[%s] [10.2.0.0/16 from %s/32]", want, want) {
				t.Errorf("the box has %s", got)
			}
			synctest.Wait()
			if s := sun.Pools()[0]; s.Online != 1 || s.Leases[len(s.Leases)-1].Addr.String() != want || s.Leases[0].Identity != "moon.example.org" {
				t.Errorf("pool: %+v", s)
			}
		}
		down := func(b *box) {
			t.Helper()
			if err := b.Terminate(t.Context(), Target{IKE: b.infos()[0].UniqueID}, false); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if s := sun.Pools()[0]; s.Online != 0 || len(network.Addrs())+len(network.Routes()) != 0 {
				t.Errorf("afterwards: pool %+v, box %s %s", s, network.Addrs(), network.Routes())
			}
		}
		up("10.9.0.1")
		// A new IKE SA that sun began would be without the address.
		if err := sun.Reauthenticate(t.Context(), sun.infos()[0].UniqueID); err == nil || !strings.Contains(err.Error(), "virtual addresses") {
			t.Errorf("reauthentication by the one who gave a lease: %v", err)
		}
		// A reload that keeps the pool keeps the lease.
		sun.SetPools(pool("10.9.0.1", "10.9.0.4"))
		if s := sun.Pools()[0]; s.Online != 1 || s.Size != 4 {
			t.Errorf("after a reload: %+v", s)
		}
		down(moon)
		up("10.9.0.1")
		// One that takes the address away leaves the session alone.
		sun.SetPools(pool("10.9.0.2", "10.9.0.4"))
		if got := fmt.Sprint(sun.infos()[0].RemoteVIPs); got != "[10.9.0.1]" {
			t.Errorf("after the pool has lost the address the session has %s", got)
		}
		down(sun)
		up("10.9.0.2")
		moon.stop()
		sun.stop()
		if s := sun.Pools()[0]; s.Online != 0 || len(network.Addrs())+len(network.Routes()) != 0 {
			t.Errorf("after the stop: pool %+v, box %s %s", s, network.Addrs(), network.Routes())
		}
	})
}

// TestRoutesSpareLocalNetworks: with bypass_lan the box's routes into tunnels are
// kept off the networks that the policies let pass.
func TestRoutesSpareLocalNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network dataplane.FakeNetwork
		lan := netip.MustParsePrefix("192.0.2.0/24")
		moon := newBox(t, newFabric(), moonAddr, nil, func(o *Options) {
			o.Network, o.Settings.BypassLAN = &network, true
			o.Networks = func() ([]netip.Prefix, error) { return []netip.Prefix{lan}, nil }
		})
		synctest.Wait()
		if got := fmt.Sprint(network.Spared()); got != fmt.Sprintf("[%s]", lan) {
			t.Errorf("spared: %s", got)
		}
		moon.stop()
	})
}
