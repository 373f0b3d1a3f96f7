package sa_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/internal/event"
)

// TestUniqueNumbers: each CHILD SA has its own marks and interface ids, on SAs
// and policies, and hands them on when it is rekeyed by either side.
func TestUniqueNumbers(t *testing.T) {
	all := dataplane.Mark{Mask: 1<<32 - 1}
	for _, c := range []struct {
		name string
		opt  satest.Option
		want string // mark and interface id, in and out, of the first CHILD SA
	}{
		{"%unique", child(func(c *sa.ChildConfig) {
			c.MarkIn, c.MarkOut, c.UniqueMarkIn, c.UniqueMarkOut = all, all, sa.UniqueChild, sa.UniqueChild
			c.UniqueIfIDIn, c.UniqueIfIDOut = sa.UniqueChild, sa.UniqueChild
		}), "1 1 1 1"},
		{"%unique-dir", child(func(c *sa.ChildConfig) {
			c.MarkIn, c.MarkOut, c.UniqueMarkIn, c.UniqueMarkOut = all, all, sa.UniqueChildDir, sa.UniqueChildDir
			c.UniqueIfIDIn, c.UniqueIfIDOut = sa.UniqueChildDir, sa.UniqueChildDir
		}), "1 2 1 2"},
		{"of the connection", child(func(c *sa.ChildConfig) { c.UniqueIfIDIn, c.UniqueIfIDOut = sa.UniqueIKE, sa.UniqueIKEDir }),
			fmt.Sprintf("0 0 %d %d", 1<<31|1, 1<<31|2)},
		{"fixed beside unique", child(func(c *sa.ChildConfig) {
			c.MarkOut, c.UniqueMarkIn, c.IfIDIn, c.MarkIn = dataplane.Mark{Value: 7, Mask: 0xff}, sa.UniqueChild, 9, dataplane.Mark{Mask: 1}
		}), "1 7 9 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(1)
			w.RoundTrip = true
			moon, sun := satest.Pair(w, c.opt)
			same := func(c *sa.ChildConfig) { c.SetMarkInSame, c.SetMarkIn.Mask = true, 0xffff }
			same(moon.Env.Conns.All()[0].Children[0])
			numbers := func() string {
				ch := moon.Live()[len(moon.Live())-1].Info().Children[0]
				return fmt.Sprintf("%d %d %d %d", ch.MarkIn.Value, ch.MarkOut.Value, ch.IfIDIn, ch.IfIDOut)
			}
			look := func(want string) {
				t.Helper()
				if got := numbers(); got != want {
					t.Errorf("mark in, out, interface id in, out: %s, want %s", got, want)
				}
			}
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			look(c.want)
			sas, policies := installed(t, moon)
			ch := moon.Live()[0].Info().Children[0]
			if sas[0].SetMark != (dataplane.Mark{Value: ch.MarkIn.Value & 0xffff, Mask: 0xffff}) {
				t.Errorf("mark to set %v", sas[0].SetMark)
			}
			for _, p := range policies {
				wantMark, wantID := ch.MarkIn, ch.IfIDIn
				if p.Dir == dataplane.Out {
					wantMark, wantID = ch.MarkOut, ch.IfIDOut
				}
				if p.Mark != wantMark || p.IfID != wantID {
					t.Errorf("policy %s: mark %v, interface id %d", p.Dir, p.Mark, p.IfID)
				}
			}
			moon.Do(0, sa.Rekey{ChildID: ch.UniqueID})
			w.Advance(time.Minute)
			look(c.want)
			sun.Do(0, sa.Rekey{ChildID: sun.Live()[0].Info().Children[0].UniqueID})
			w.Advance(time.Minute)
			look(c.want)
			noErrors(t, moon, sun)
			// Another CHILD SA has others.
			before := moon.Live()[0].Info()
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			if after := moon.Live()[1].Info().Children[0]; moon.Env.Conns.All()[0].Children[0].UniqueMarkIn == sa.UniqueChildDir && after.MarkIn == before.Children[0].MarkIn ||
				after.IfIDIn == before.Children[0].IfIDIn && after.IfIDIn != 9 {
				t.Errorf("before %+v, then %+v", before.Children[0], after)
			}
			moon.Do(1, sa.Terminate{})
			moon.Do(0, sa.Terminate{})
			w.Advance(time.Minute)
			assertNothing(t, moon)
			assertNothing(t, sun)
		})
	}
}

// TestInterface: the outbound policies are for the interface, by its index of
// the moment, and go with it; without the interface there is no CHILD SA.
func TestInterface(t *testing.T) {
	lan := child(func(c *sa.ChildConfig) { c.Interface = "lan0" })
	w := satest.New(1)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, lan)
	moon.Interfaces, sun.Interfaces = map[string]uint32{"lan0": 7}, map[string]uint32{"lan0": 8}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	look := func(n *satest.Node, index uint32) {
		t.Helper()
		_, policies := installed(t, n)
		for _, p := range policies {
			if want := map[bool]uint32{true: index}[p.Dir == dataplane.Out]; p.IfIndex != want {
				t.Errorf("%s: policy %s for interface %d, want %d", n.Addr, p.Dir, p.IfIndex, want)
			}
		}
		if len(policies) != 3 {
			t.Errorf("%s: %d policies", n.Addr, len(policies))
		}
	}
	assertUp(t, moon, sun)
	look(moon, 7)
	look(sun, 8)
	moon.Interfaces["lan0"] = 17 // it was made anew
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	w.Advance(time.Minute)
	assertUp(t, moon, sun)
	look(moon, 17)
	moon.Do(0, sa.Terminate{})
	w.Advance(time.Minute)
	assertNothing(t, moon)
	assertNothing(t, sun)

	delete(sun.Interfaces, "lan0")
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Minute)
	f, _ := satest.Find[event.Failed](sun)
	if len(moon.Live()) != 1 || len(moon.Live()[0].Info().Children) != 0 || f.Cause != event.KernelRefused || !strings.Contains(facts(f), "lan0") {
		t.Errorf("without the interface: %+v; events: %s", f, dump(moon))
	}
	for _, n := range []*satest.Node{moon, sun} {
		if s, r, p := n.DP.Counts(); s+r+p != 0 {
			t.Errorf("%s: %d SAs, %d reserved, %d policies left", n.Addr, s, r, p)
		}
	}
}
