package engine

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// children gives a connection three: net, two and three.
func children(c *sa.Connection) {
	for i, name := range []string{"two", "three"} {
		ch := *c.Children[0]
		ch.Name = name
		l, r := ch.LocalTS[0].TS.Start.As4(), ch.RemoteTS[0].TS.Start.As4()
		n := string(rune('1' + i))
		ch.LocalTS = []selector.Spec{satest.Must(selector.Parse("10.1" + string(rune('0'+l[1])) + n + ".0.0/16"))}
		ch.RemoteTS = []selector.Spec{satest.Must(selector.Parse("10.1" + string(rune('0'+r[1])) + n + ".0.0/16"))}
		c.Children = append(c.Children, &ch)
	}
}

// startAll has every child brought up by start_action.
func startAll(c *sa.Connection) {
	for _, ch := range c.Children {
		ch.Start = true
	}
}

func names(b *box) string {
	var out []string
	for _, i := range b.infos() {
		for _, c := range i.Children {
			out = append(out, c.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestChildrenShareAnIKESA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(children, to(moonAddr))}, fourShards)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(children)}, fourShards)
		ctx := t.Context()
		// Two at once: one sets the IKE SA up, the other joins it half open.
		var wg sync.WaitGroup
		for _, child := range []string{"net", "two"} {
			wg.Go(func() {
				if err := moon.Initiate(ctx, "sun", child, false); err != nil {
					t.Errorf("%s: %v\n%s", child, err, sun.saw())
				}
			})
		}
		wg.Wait()
		// A third from the other side, which did not open the IKE SA.
		if err := sun.Initiate(ctx, "moon", "three", false); err != nil {
			t.Errorf("three: %v\n%s", err, sun.saw())
		}
		synctest.Wait()
		for _, b := range []*box{moon, sun} {
			if n := len(b.infos()); n != 1 || len(strings.Fields(names(b))) != 3 {
				t.Errorf("%d sessions with children %q, expected one with three", n, names(b))
			}
			b.holds(6, 9)
		}
		// One goes and comes again, the others stay.
		info := moon.infos()[0]
		for _, c := range info.Children {
			if c.Name == "two" {
				if err := moon.Terminate(ctx, Target{IKE: info.UniqueID, Child: c.UniqueID}, false); err != nil {
					t.Error(err)
				}
			}
		}
		synctest.Wait()
		sun.holds(4, 6)
		if err := moon.Initiate(ctx, "sun", "two", false); err != nil {
			t.Error(err)
		}
		sun.holds(6, 9)
		moon.stop()
		sun.stop()
	})
}

// A child that the peer refuses says so to who asked for it, and only the second
// time around.
func TestFurtherChildRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(children)}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			err := moon.Initiate(t.Context(), "sun", "two", false)
			if err == nil || !strings.Contains(err.Error(), "TS_UNACCEPTABLE") {
				t.Errorf("got %v", err)
			}
		}
		// What failed before is not what another waits for.
		info := moon.infos()[0]
		if err := moon.Terminate(t.Context(), Target{IKE: info.UniqueID, Child: info.Children[0].UniqueID}, false); err != nil {
			t.Error(err)
		}
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Errorf("net: %v", err)
		}
		moon.stop()
		sun.stop()
	})
}

func TestStartActionOfSeveralChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(children)}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(children, startAll)}, nil)
		synctest.Wait()
		if len(moon.infos()) != 1 || len(strings.Fields(names(moon))) != 3 {
			t.Errorf("%d sessions with children %q", len(moon.infos()), names(moon))
		}
		moon.stop()
		sun.stop()
	})
}

func TestIKESAWithoutChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		none := func(c *sa.Connection) { c.Children = nil }
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(none)}, nil)
		if err := moon.Initiate(t.Context(), "sun", "", false); err != nil {
			t.Fatal(err)
		}
		moon.holds(0, 0)
		if len(sun.infos()) != 1 {
			t.Error("no IKE SA")
		}
		moon.stop()
		sun.stop()
	})
}
