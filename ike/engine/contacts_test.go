package engine

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// TestPeerStartsAnew: a peer that lost everything connects again; what it had
// goes at once, in whichever shards the two sessions are.
func TestPeerStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, fourShards)
		var last *box
		for i := range uint64(9) { // a crashed box: it is never heard of again
			moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, func(o *Options) {
				o.DataPlane = dataplane.NewFake(dataplane.FakeOptions{Seed: i}) // other SPIs
			})
			if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			sun.holds(2, 3)
			last = moon
		}
		if n := sun.Stats().Displaced; n != 8 {
			t.Errorf("%d sessions superseded, expected 8", n)
		}
		last.stop()
		time.Sleep(time.Minute)
		sun.stop()
		if n := len(sun.reg.contacts.peers); n != 0 {
			t.Errorf("%d pairs of identities left", n)
		}
	})
}

// TestBothStart: two boxes that set up the same child on start end with one.
func TestBothStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		again := func(c *sa.Connection) {
			c.Children[0].Start = true
			c.Children[0].CloseAction, c.Children[0].DPDAction = sa.FollowStart, sa.FollowStart
			c.KeyingTries = 0
		}
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(again)}, fourShards)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(again, to(moonAddr))}, fourShards)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		moon.holds(2, 3)
		sun.holds(2, 3)
		for _, b := range []*box{moon, sun} {
			if n := b.Stats().Established; n > 3 {
				t.Errorf("established %d times, expected at most a few", n)
			}
		}
		moon.stop()
		sun.stop()
	})
}

// TestContactsCostNoMore: what a set-up looks at does not grow with the sessions
// that the two identities have already. Those that end are looked at once.
func TestContactsCostNoMore(t *testing.T) {
	for _, c := range []struct {
		name    string
		policy  sa.Uniqueness
		initial int  // each such set-up is a first contact; 0: none
		looks   int  // a set-up, at most
		again   bool // the peer begins all of them at one address and port
	}{
		{"no", sa.UniquenessNo, 0, 0, false}, {"never", sa.UniquenessNever, 1, 0, false}, {"keep", sa.UniquenessKeep, 0, 1, false},
		{"keep, reauthenticated", sa.UniquenessKeep, 0, 0, true},
		{"replace", sa.UniquenessReplace, 0, 2, false}, {"initial contact", sa.UniquenessNo, 500, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, now := newRegistry(), time.Unix(1e9, 0)
			up, n := map[uint64]*contact{}, 2000
			for i := range n {
				x, now := new(contact), now.Add(time.Duration(i)*time.Second)
				a := sa.Contact{ID: uint64(i + 1), Local: auth.ID{Type: wire.IDFQDN, Data: "sun"}, Initiator: i%2 == 0, SPIi: wire.SPI(i), Created: now}
				if c.again {
					a.Initiator, a.Peer = false, netip.MustParseAddrPort(moonAddr+":500")
				}
				r.firstContact(x, a)
				if got, want := r.admitContact(a, c.policy), c.policy != sa.UniquenessKeep || c.again || i == 0; got != want {
					t.Fatalf("set-up %d: admitted %v", i, got)
				}
				a.Since = now.Add(time.Second / 2)
				up[a.ID] = x
				for _, f := range r.displaced(x, sa.Displace{Contact: a, Policy: c.policy, Initial: c.initial > 0 && i%c.initial == c.initial-1}) {
					r.leaveContact(up[f.id])
					delete(up, f.id)
				}
			}
			if r.contacts.looks > c.looks*n {
				t.Errorf("%d contacts looked at for %d set-ups, expected at most %d for each", r.contacts.looks, n, c.looks)
			}
			want := map[string]int{"replace": 1, "initial contact": 1}[c.name]
			if want == 0 {
				want = n
			}
			if len(up) != want {
				t.Errorf("%d sessions are left, expected %d", len(up), want)
			}
		})
	}
}

// TestContacts: of sessions begun by either side, finished in any order, the
// registry says what comparing each with all others does.
func TestContacts(t *testing.T) {
	seen := map[sa.Fate]int{}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := newRegistry()
		var all []*contact
		address := func() netip.AddrPort { // mostly the first one
			return netip.AddrPortFrom(netip.MustParseAddr(moonAddr), uint16(500+max(rnd.IntN(12)-8, 0)))
		}
		instant := func(s int) time.Time { return time.Unix(1e9+int64(s), 0) }
		for i := range 60 {
			c := sa.Contact{
				ID: uint64(i + 1), Local: auth.ID{Type: wire.IDFQDN, Data: "sun"}, Remote: auth.ID{Type: wire.IDFQDN, Data: fmt.Sprint(rnd.IntN(2))},
				Initiator: rnd.IntN(2) == 0, SPIi: wire.SPI(rnd.Uint64()), Created: instant(i), Replacement: rnd.IntN(6) == 0,
				Peer: address(),
			}
			if len(all) > 0 && rnd.IntN(4) == 0 {
				r.moveContact(all[rnd.IntN(len(all))], address())
			}
			x := new(contact)
			others := func(up bool) (out []sa.Contact) {
				for _, o := range all {
					if o.ID != c.ID && o.Local == c.Local && o.Remote == c.Remote && (!up || !o.Since.IsZero()) {
						out = append(out, o.Contact)
					}
				}
				return out
			}
			if got, want := r.firstContact(x, c), len(others(false)) > 0; got != want {
				t.Fatalf("seed %d: another session: %v, expected %v", seed, got, want)
			}
			all = append(all, x)
			if rnd.IntN(4) == 0 {
				continue // never finished
			}
			policy := sa.Uniqueness(rnd.IntN(4))
			refused := policy == sa.UniquenessKeep && slices.ContainsFunc(others(true), func(o sa.Contact) bool { return o.Refuses(c) })
			if got := r.admitContact(c, policy); got == refused {
				t.Fatalf("seed %d, session %d: admitted %v", seed, c.ID, got)
			}
			c.Since = instant(i + rnd.IntN(8))
			d := sa.Displace{Contact: c, Policy: policy, Initial: rnd.IntN(8) == 0}
			var want []fate
			for _, o := range others(true) {
				switch f := d.Against(o); f {
				case sa.BothStay:
				case sa.NewOneEnds:
					want = append(want, fate{Fate: f, id: c.ID})
				default:
					want = append(want, fate{Fate: f, id: o.ID})
				}
			}
			got := r.displaced(x, d)
			slices.SortFunc(got, func(a, b fate) int { return cmp.Compare(a.id, b.id) })
			slices.SortFunc(want, func(a, b fate) int { return cmp.Compare(a.id, b.id) })
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, session %d: got %v, expected %v", seed, c.ID, got, want)
			}
			for _, f := range got {
				seen[f.Fate]++
				i := slices.IndexFunc(all, func(o *contact) bool { return o.ID == f.id })
				if i >= 0 { // the new one may have to end for several
					r.leaveContact(all[i])
					all = slices.Delete(all, i, i+1)
				}
			}
		}
		for _, x := range all {
			r.leaveContact(x)
			r.leaveContact(x)
		}
		if n := len(r.contacts.peers); n != 0 {
			t.Fatalf("seed %d: %d pairs of identities left", seed, n)
		}
	}
	if len(seen) != 3 {
		t.Errorf("fates seen: %v, expected three kinds", seen)
	}
}
