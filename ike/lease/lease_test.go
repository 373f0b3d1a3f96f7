package lease

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func pools(cfg ...*Pool) *Pools {
	p := new(Pools)
	p.Set(cfg)
	return p
}

func rangeOf(name, start, end string) *Pool {
	return &Pool{Name: name, Start: addr(start), End: addr(end)}
}

func (a Ask) by(key string) Ask {
	a.Key, a.Identity = key, key
	return a
}

var ask4 = Ask{Pools: []string{"p"}, V4: true}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		start, end string
		want       uint64
	}{
		{"10.3.0.1", "10.3.0.1", 1},
		{"10.3.0.1", "10.3.0.254", 254},
		{"0.0.0.0", "255.255.255.255", 1 << 32},
		{"fec3::ffff:ffff:ffff:fff0", "fec3::1:0:0:0:0f", 0x20},
		{"fec3::", "fec3::ffff:ffff:ffff:ffff", maxSize},
		{"fec3::", "fec3:0:0:1::", maxSize},
	} {
		p := rangeOf("p", c.start, c.end)
		if got := p.Size(); got != c.want {
			t.Errorf("%s-%s: %d, want %d", c.start, c.end, got, c.want)
		}
		if last := p.at(p.Size() - 1); !p.Contains(last) || p.Size() < maxSize && last != p.End {
			t.Errorf("%s-%s: the last address is %s", c.start, c.end, last)
		}
	}
}

func TestOwnAddressComesBack(t *testing.T) {
	p := pools(rangeOf("p", "10.3.0.1", "10.3.0.3"))
	a, b := p.Take(ask4.by("alice")), p.Take(ask4.by("bob"))
	if a.Addrs[0] != addr("10.3.0.1") || b.Addrs[0] != addr("10.3.0.2") {
		t.Fatal(a.Addrs, b.Addrs)
	}
	p.Release(a)
	if c := p.Take(ask4.by("carol")); c.Addrs[0] != addr("10.3.0.3") {
		t.Errorf("carol got %s while an unused address was left", c.Addrs)
	}
	if again := p.Take(ask4.by("alice")); again.Addrs[0] != addr("10.3.0.1") {
		t.Errorf("alice came back and got %s", again.Addrs)
	}
	p.Release(b)
	// Nothing unused is left: who is gone gives way.
	if d := p.Take(ask4.by("dave")); d.Addrs[0] != addr("10.3.0.2") {
		t.Errorf("dave got %s", d.Addrs)
	}
	if e := p.Take(ask4.by("eve")); len(e.Addrs) != 0 {
		t.Errorf("eve got %s of an exhausted pool", e.Addrs)
	}
}

func TestSharedByOneIdentity(t *testing.T) {
	p := pools(rangeOf("p", "10.3.0.1", "10.3.0.9"))
	first := p.Take(ask4.by("alice"))
	if other := p.Take(ask4.by("alice")); other.Addrs[0] == first.Addrs[0] {
		t.Error("a second session shares the address without asking for it")
	}
	ask := ask4.by("alice")
	ask.Wished = first.Addrs
	second := p.Take(ask)
	if second.Addrs[0] != first.Addrs[0] {
		t.Errorf("the successor asked for %s and got %s", first.Addrs, second.Addrs)
	}
	p.Release(first)
	ask = ask4.by("bob")
	ask.Wished = first.Addrs
	if g := p.Take(ask); g.Addrs[0] == first.Addrs[0] {
		t.Error("the address was given away while the successor holds it")
	}
	ask = ask4.by("alice")
	ask.Takeover = true
	if g := p.Take(ask); g.Addrs[0] != second.Addrs[0] {
		t.Errorf("after INITIAL_CONTACT alice got %s", g.Addrs)
	}
}

func TestWishAndOrderOfPools(t *testing.T) {
	p := pools(rangeOf("p", "10.3.0.1", "10.3.0.1"), rangeOf("q", "10.4.0.1", "10.4.0.9"), rangeOf("six", "fec3::1", "fec3::ffff:ffff:ffff:ffff"))
	ask := Ask{Pools: []string{"p", "six", "q"}, V4: true, V6: true}
	if g := p.Take(ask.by("alice")); !slices.Equal(g.Addrs, []netip.Addr{addr("10.3.0.1"), addr("fec3::1")}) {
		t.Error(g.Addrs)
	}
	ask.Wished = []netip.Addr{addr("0.0.0.0"), addr("fec3::77"), addr("10.4.0.7")}
	if g := p.Take(ask.by("bob")); !slices.Equal(g.Addrs, []netip.Addr{addr("10.4.0.7"), addr("fec3::77")}) {
		t.Error(g.Addrs)
	}
	ask.Wished = []netip.Addr{addr("10.9.9.9")}
	if g := p.Take(ask.by("carol")); g.Addrs[0] != addr("10.4.0.1") {
		t.Error(g.Addrs)
	}
	if g := p.Take(Ask{Pools: []string{"none"}, V4: true}); len(g.Addrs) != 0 {
		t.Error(g.Addrs)
	}
}

func TestReloadKeepsWhatThePoolStillHas(t *testing.T) {
	p := pools(rangeOf("p", "10.3.0.1", "10.3.0.9"))
	a, b := p.Take(ask4.by("alice")), p.Take(ask4.by("bob"))
	c := p.Take(ask4.by("carol"))
	p.Release(c)
	p.Set([]*Pool{rangeOf("p", "10.3.0.2", "10.3.0.4")})
	if l := p.List()[0]; l.Online != 1 || l.Offline != 1 {
		t.Errorf("%+v", l)
	}
	p.Release(a) // the pool has its address no more
	if l := p.List()[0]; l.Online != 1 || l.Offline != 1 {
		t.Errorf("after the release of an address that is no longer there: %+v", l)
	}
	if g := p.Take(ask4.by("carol")); g.Addrs[0] != c.Addrs[0] {
		t.Errorf("carol came back after the reload and got %s", g.Addrs)
	}
	if g := p.Take(ask4.by("dave")); g.Addrs[0] != addr("10.3.0.4") {
		t.Errorf("dave got %s", g.Addrs)
	}
	p.Release(b)
	if g := p.Take(ask4.by("alice")); g.Addrs[0] != b.Addrs[0] {
		t.Errorf("alice got %s", g.Addrs)
	}
}

// TestLargePoolForgets: what a pool remembers of those who are gone is bounded.
func TestLargePoolForgets(t *testing.T) {
	p := pools(rangeOf("p", "fec3::", "fec3::ffff:ffff:ffff:ffff"))
	for i := range maxOffline + 1000 {
		p.Release(p.Take(Ask{Pools: []string{"p"}, V6: true}.by(fmt.Sprint(i))))
	}
	if l := p.List()[0]; l.Offline > maxOffline || len(p.byName["p"].byKey) > maxOffline {
		t.Errorf("%d leases of %d identities are remembered, at most %d should", l.Offline, len(p.byName["p"].byKey), maxOffline)
	}
}

// TestNeverTwice: whatever sessions come, go and share, and however the pool
// changes, no two identities hold one address, and the counts add up.
func TestNeverTwice(t *testing.T) {
	type session struct {
		key string
		g   Grant
	}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := pools(rangeOf("p", "10.3.0.0", "10.3.0.15"), rangeOf("q", "fec3::", "fec3::7"))
		var live []session
		for range 300 {
			switch r.IntN(8) {
			case 0, 1, 2, 3:
				ask := Ask{Pools: []string{"p", "q"}, V4: r.IntN(4) > 0, V6: r.IntN(2) > 0, Takeover: r.IntN(8) == 0}.by(fmt.Sprint(r.IntN(24)))
				if r.IntN(2) == 0 {
					ask.Wished = []netip.Addr{p.byName["p"].cfg.at(uint64(r.IntN(20)))}
				}
				live = append(live, session{ask.Key, p.Take(ask)})
			case 4, 5, 6:
				if len(live) > 0 {
					i := r.IntN(len(live))
					p.Release(live[i].g)
					live = slices.Delete(live, i, i+1)
				}
			case 7:
				if r.IntN(10) == 0 {
					p.Set([]*Pool{{Name: "p", Start: addr("10.3.0.0").Next(), End: addr(fmt.Sprintf("10.3.0.%d", 8+r.IntN(12)))}, p.byName["q"].cfg})
				}
			}
			holder := map[netip.Addr]string{}
			for _, s := range live {
				for _, a := range s.g.Addrs {
					if h, ok := holder[a]; ok && h != s.key {
						t.Fatalf("seed %d: %s is held by %s and %s", seed, a, h, s.key)
					}
					holder[a] = s.key
				}
			}
			online := uint64(0)
			for _, l := range p.List() {
				online += l.Online
				if uint64(len(l.Leases)) > l.Size {
					t.Fatalf("seed %d: %d leases in a pool of %d", seed, len(l.Leases), l.Size)
				}
			}
			held := uint64(0)
			for a := range holder {
				if p.byName["p"].cfg.Contains(a) || p.byName["q"].cfg.Contains(a) {
					held++
				}
			}
			if online != held {
				t.Fatalf("seed %d: %d online, sessions hold %d", seed, online, held)
			}
		}
	}
}
