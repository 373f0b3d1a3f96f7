package sa_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"espalier/ike/sa"
)

// TestMatch: the connections for two addresses are those that looking at each
// connection finds, the closest first, and among equals as configured.
func TestMatch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr {
		if rnd.IntN(4) == 0 {
			return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(rnd.IntN(4))})
		}
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(6))})
	}
	resolve := func(host string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(host)} }
	spec := func() sa.AddrSpec {
		switch a := addr(); rnd.IntN(6) {
		case 0:
			return sa.AddrSpec{Host: a.String()}
		case 1:
			return sa.AddrSpec{Family: []uint8{0, 4, 6}[rnd.IntN(3)]}
		case 2:
			p := netip.PrefixFrom(a, a.BitLen()-2).Masked()
			return sa.AddrSpec{Start: p.Addr(), End: p.Addr().Next().Next().Next()}
		default:
			return sa.AddrSpec{Start: a, End: a}
		}
	}
	specs := func() (out []sa.AddrSpec) {
		for range rnd.IntN(4) {
			out = append(out, spec())
		}
		return out
	}
	best := func(specs []sa.AddrSpec, a netip.Addr) (n int) {
		for _, s := range specs {
			n = max(n, s.Matches(a, resolve))
		}
		if len(specs) == 0 {
			n = 1
		}
		return n
	}
	found := 0
	for range 300 {
		var conns []*sa.Connection
		for i := range rnd.IntN(20) {
			c := &sa.Connection{Name: fmt.Sprint(i), LocalAddrs: specs(), RemoteAddrs: specs()}
			if rnd.IntN(8) == 0 {
				c.Shunts = []*sa.ChildConfig{{}}
			} else {
				c.Children = []*sa.ChildConfig{{}}
			}
			conns = append(conns, c)
		}
		set := sa.NewConnSet(conns, resolve)
		for range 10 {
			local, remote := addr(), addr()
			score := func(c *sa.Connection) int {
				l, r := best(c.LocalAddrs, local), best(c.RemoteAddrs, remote)
				if l == 0 || r == 0 || c.OnlyShunts() {
					return 0
				}
				return 4*l + 5*r
			}
			want := slices.DeleteFunc(slices.Clone(conns), func(c *sa.Connection) bool { return score(c) == 0 })
			slices.SortStableFunc(want, func(a, b *sa.Connection) int { return score(b) - score(a) })
			if got := set.Match(local, remote); !slices.Equal(got, want) {
				t.Fatalf("%s, %s: got %d connections, expected %d, or another order", local, remote, len(got), len(want))
			}
			found += len(want)
		}
	}
	if found < 1000 {
		t.Errorf("%d connections found, expected more", found)
	}
}
