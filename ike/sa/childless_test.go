package sa_test

import (
	"fmt"
	"testing"
	"time"

	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// secondChild adds a child "two", 10.<x>.0.0/17 of networks beside those of "net".
func secondChild(c *sa.Connection) {
	ch := *c.Children[0]
	ch.Name = "two"
	ts := func(s selector.Spec) []selector.Spec {
		a := s.TS.Start.As4()
		return []selector.Spec{satest.Must(selector.Parse(fmt.Sprintf("10.%d.0.0/17", 100+a[1])))}
	}
	ch.LocalTS, ch.RemoteTS = ts(ch.LocalTS[0]), ts(ch.RemoteTS[0])
	c.Children = append(c.Children, &ch)
}

func childless(v sa.Childless) satest.Option {
	return func(c *sa.Connection) { c.Childless = v }
}

// exchanges counts requests by exchange, and those of IKE_AUTH that are longer
// than one without a CHILD SA.
func exchanges(w *satest.World) map[wire.ExchangeType]int {
	seen := map[wire.ExchangeType]int{}
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if h := satest.Must(wire.ParseHeader(p.Data)); !h.IsResponse() {
			seen[h.Exchange]++
		}
		return []satest.Packet{p}
	}
	return seen
}

func TestChildless(t *testing.T) {
	noChildren := func(c *sa.Connection) { c.Children = nil }
	cases := []struct {
		name      string
		moon, sun satest.Option
		none      bool // moon's connection has no children
		creates   int  // CREATE_CHILD_SA exchanges
		children  int
		fails     event.Cause // of moon; the session ends
	}{
		{"allow meets allow", childless(sa.ChildlessAllow), childless(sa.ChildlessAllow), false, 0, 1, ""},
		{"prefer meets allow", childless(sa.ChildlessPrefer), childless(sa.ChildlessAllow), false, 1, 1, ""},
		{"prefer meets never", childless(sa.ChildlessPrefer), childless(sa.ChildlessNever), false, 0, 1, ""},
		{"force meets force", childless(sa.ChildlessForce), childless(sa.ChildlessForce), false, 1, 1, ""},
		{"force meets never", childless(sa.ChildlessForce), childless(sa.ChildlessNever), false, 0, 0, event.PeerError},
		{"allow meets force", childless(sa.ChildlessAllow), childless(sa.ChildlessForce), false, 0, 0, event.PeerError},
		{"no children", noChildren, childless(sa.ChildlessAllow), true, 0, 0, ""},
		{"no children meets never", noChildren, childless(sa.ChildlessNever), true, 0, 0, event.PeerError},
	}
	for _, c := range cases {
		for _, roundTrip := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", c.name, roundTrip), func(t *testing.T) {
				w := satest.New(31)
				w.RoundTrip = roundTrip
				moon, sun := satest.Pair(w, pfs)
				c.moon(moon.Env.Conns.All()[0])
				c.sun(sun.Env.Conns.All()[0])
				seen := exchanges(w)
				moon.Initiate("sun", "", sunAddr)
				w.Settle(100)
				if c.fails != "" {
					w.Advance(time.Minute)
					assertNothing(t, moon)
					assertNothing(t, sun)
					if f, ok := satest.Find[event.Failed](moon); !ok || f.Cause != c.fails {
						t.Errorf("moon: %+v", f)
					}
					return
				}
				if c.children == 1 {
					assertUp(t, moon, sun)
				} else if len(moon.Live()) != 1 || !moon.Live()[0].IsEstablished() || len(sun.Live()[0].Info().Children) != 0 {
					t.Fatalf("no IKE SA alone: %s", dump(moon))
				}
				noErrors(t, moon, sun)
				if seen[wire.ExchangeCreateChildSA] != c.creates {
					t.Errorf("%d CREATE_CHILD_SA exchanges, expected %d", seen[wire.ExchangeCreateChildSA], c.creates)
				}
				if c.creates == 1 && moon.Live()[0].Info().Children[0].Algorithms.KE != wire.KECurve25519 {
					t.Error("the first CHILD SA has no key exchange of its own")
				}
				moon.Do(0, sa.Terminate{})
				w.Advance(time.Minute)
				assertNothing(t, moon)
				assertNothing(t, sun)
			})
		}
	}
}

// A responder whose childless is never refuses an IKE_AUTH without a child, even
// of a peer that was told it need not try.
func TestChildlessNeverRefuses(t *testing.T) {
	w := satest.New(32)
	moon, sun := satest.Pair(w)
	moon.Env.Conns.All()[0].Children = nil
	sun.Env.Conns.All()[0].Childless = sa.ChildlessAllow
	w.Stepped = func(n *satest.Node) {
		if n == sun && len(sun.Live()) == 1 && sun.Live()[0].Phase() == sa.AwaitAuth {
			sun.Env.Conns.All()[0].Childless = sa.ChildlessNever // after the announcement
		}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Minute)
	assertNothing(t, moon)
	assertNothing(t, sun)
	if f, ok := satest.Find[event.Failed](sun); !ok || f.Cause != event.InvalidSyntax {
		t.Errorf("sun: %+v", f)
	}
}

// agree checks that both sides have the same CHILD SAs, n of them.
func agree(t *testing.T, moon, sun *satest.Node, n int) {
	t.Helper()
	if len(moon.Live()) != 1 || len(sun.Live()) != 1 {
		t.Fatalf("%d and %d sessions\n%s\n%s", len(moon.Live()), len(sun.Live()), dump(moon), dump(sun))
	}
	a, b := moon.Live()[0].Info().Children, sun.Live()[0].Info().Children
	if len(a) != n || len(b) != n {
		t.Fatalf("%d and %d children, expected %d\n%s\n%s", len(a), len(b), n, dump(moon), dump(sun))
	}
	for i := range a {
		if a[i].SPIIn != b[i].SPIOut || a[i].SPIOut != b[i].SPIIn || a[i].Name != b[i].Name {
			t.Errorf("child %d: %+v and %+v", i, a[i], b[i])
		}
	}
}

func TestFurtherChild(t *testing.T) {
	for seed := range uint64(4) {
		w := satest.New(seed)
		w.RoundTrip = seed%2 == 0
		moon, sun := satest.Pair(w, secondChild)
		if seed < 2 {
			for _, n := range []*satest.Node{moon, sun} {
				n.Env.Conns.All()[0].Childless = sa.ChildlessForce
			}
		}
		moon.Initiate("sun", "", sunAddr)
		moon.Do(0, sa.NewChild{Child: "two"}) // before it is established
		moon.Do(0, sa.NewChild{Child: "two"}) // once more is once
		w.Settle(100)
		agree(t, moon, sun, 2)
		noErrors(t, moon, sun)
		moon.Do(0, sa.Terminate{Child: "two"})
		w.Settle(100)
		agree(t, moon, sun, 1)
		sun.Do(0, sa.NewChild{Child: "two"}) // from the other side, and established
		w.Settle(100)
		agree(t, moon, sun, 2)
		moon.Do(0, sa.NewChild{Child: "three"})
		if f, ok := satest.Find[event.Failed](moon); !ok || f.Cause != event.NoConnection || f.ChildName != "three" {
			t.Errorf("a child that is not configured: %+v", f)
		}
		sun.Do(0, sa.Terminate{})
		w.Advance(time.Minute)
		assertNothing(t, moon)
		assertNothing(t, sun)
	}
}

// A child that came with a reload joins the IKE SA that was there before.
func TestFurtherChildAfterReload(t *testing.T) {
	w, moon, sun := established(t, 33, false)
	for _, n := range []*satest.Node{moon, sun} {
		c := *n.Env.Conns.All()[0]
		secondChild(&c)
		n.Env.Conns = sa.NewConnSet([]*sa.Connection{&c}, nil)
	}
	sun.Do(0, sa.NewChild{Child: "net"}) // is there already
	w.Settle(100)
	moon.Do(0, sa.NewChild{Child: "two"})
	w.Advance(20 * time.Second)
	noErrors(t, moon, sun)
	agree(t, moon, sun, 2)
}

// A peer that has no time now is asked again.
func TestFurtherChildAfterTemporaryFailure(t *testing.T) {
	w := satest.New(34)
	moon, sun := satest.Pair(w, secondChild)
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	sun.Do(0, sa.Rekey{}) // its request is under way: RFC 7296 2.25.2
	moon.Do(0, sa.NewChild{Child: "two"})
	w.Advance(30 * time.Second)
	agree(t, moon, sun, 2)
}

// SINGLE_PAIR_REQUIRED, in IKE_AUTH or in CREATE_CHILD_SA: the same child with
// one selector a side (RFC 7296 2.9.2).
func TestSinglePairRequired(t *testing.T) {
	for _, ex := range []wire.ExchangeType{wire.ExchangeIKEAuth, wire.ExchangeCreateChildSA} {
		w := satest.New(35)
		w.RoundTrip = true
		moon, sun := satest.Pair(w, secondChild)
		for _, n := range []*satest.Node{moon, sun} {
			c := n.Env.Conns.All()[0]
			if ex == wire.ExchangeCreateChildSA {
				c.Childless = sa.ChildlessForce
			}
			ch := c.Children[1]
			ch.LocalTS = append(ch.LocalTS, satest.Must(selector.Parse("10.77.0.0/16")))
			ch.RemoteTS = append(ch.RemoteTS, satest.Must(selector.Parse("10.77.0.0/16")))
		}
		var f forger
		answer := refuseChild(wire.NotifySinglePairRequired)
		if ex == wire.ExchangeCreateChildSA {
			answer = only(notify(wire.NotifySinglePairRequired))
		}
		done := f.answerOnce(w, sun, ex, answer)
		moon.Initiate("sun", "two", sunAddr)
		w.Settle(100)
		c := moon.Live()[0].Info().Children
		if !*done || len(c) != 1 || len(c[0].LocalTS) != 1 || len(c[0].RemoteTS) != 1 {
			t.Fatalf("%s: %+v\n%s", ex, c, dump(moon))
		}
		if r, ok := satest.Find[event.Retrying](moon); !ok || r.Cause != event.TSUnacceptable {
			t.Errorf("not told: %+v", r)
		}
		// The peer says so even now: no third attempt.
		moon.Do(0, sa.Terminate{Child: "two"})
		w.Settle(100)
		w.Mangle = func(p satest.Packet) []satest.Packet {
			h := satest.Must(wire.ParseHeader(p.Data))
			if p.From.Addr() == sun.Addr && h.Exchange == wire.ExchangeCreateChildSA && h.IsResponse() {
				p.Data = f.rewrite(sun, p.Data, only(notify(wire.NotifySinglePairRequired)))
			}
			return []satest.Packet{p}
		}
		before := len(moon.Events)
		moon.Do(0, sa.NewChild{Child: "two"})
		w.Advance(time.Minute)
		retries, failed := 0, 0
		for _, e := range moon.Events[before:] {
			switch e.(type) {
			case event.Retrying:
				retries++
			case event.Failed:
				failed++
			}
		}
		if retries != 1 || failed != 1 || len(moon.Live()[0].Info().Children) != 0 {
			t.Errorf("%s: %d retries, %d failures", ex, retries, failed)
		}
	}
}
