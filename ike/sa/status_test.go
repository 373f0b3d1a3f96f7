package sa_test

import (
	"fmt"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
)

// TestInfoRekeying: what people see of an IKE SA and its child before, while and
// after they are replaced.
func TestInfoRekeying(t *testing.T) {
	limits := func(c *sa.Connection) {
		c.RekeyTime, c.Children[0].RekeyTime, c.Children[0].LifeTime = 4*time.Hour, time.Hour, 2*time.Hour
	}
	w, moon, sun := established(t, 81, true, limits)
	see := func(n *satest.Node) string {
		i := n.Live()[0].Info()
		s := fmt.Sprint(i.State, i.TasksQueued, i.TasksActive, i.TasksPassive)
		for _, c := range i.Children {
			s += fmt.Sprintf(" %s", c.State)
			if c.InboundOnly {
				s += " (inbound only)"
			}
		}
		return s
	}
	expect := func(when string, n *satest.Node, want string) {
		t.Helper()
		if got := see(n); got != want {
			t.Errorf("%s %s: %s, expected %s", n.Addr, when, got, want)
		}
	}
	i := moon.Live()[0].Info()
	if c := i.Children[0]; !i.RekeyAt.Equal(w.Now.Add(4*time.Hour)) || !c.RekeyAt.Equal(w.Now.Add(time.Hour)) || !c.ExpiresAt.Equal(w.Now.Add(2*time.Hour)) {
		t.Errorf("IKE SA rekeyed at %s, child at %s, gone at %s; now is %s", i.RekeyAt, i.Children[0].RekeyAt, i.Children[0].ExpiresAt, w.Now)
	}
	expect("at first", moon, "ESTABLISHED [] [] [] INSTALLED")
	lost := func(ex wire.ExchangeType) {
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if satest.Must(wire.ParseHeader(p.Data)).Exchange == ex {
				return nil
			}
			return []satest.Packet{p}
		}
	}
	lost(wire.ExchangeCreateChildSA)
	moon.Do(0, sa.Rekey{ChildID: i.Children[0].UniqueID})
	w.Settle(20)
	expect("while the child is rekeyed", moon, "ESTABLISHED [] [CHILD_REKEY] [] REKEYING")
	lost(wire.ExchangeInformational)
	w.Advance(5 * time.Second)
	moon.Do(0, sa.Rekey{})
	expect("when the child is replaced", moon, "ESTABLISHED [IKE_REKEY] [CHILD_DELETE] [] DELETING INSTALLED")
	expect("when the child is replaced", sun, "ESTABLISHED [] [] [] REKEYED INSTALLED (inbound only)")
	lost(wire.ExchangeCreateChildSA)
	for i := 0; i < 60 && moon.Live()[0].Info().State != sa.IKERekeying; i++ {
		w.Advance(time.Second)
	}
	expect("while the IKE SA is rekeyed", moon, "REKEYING [] [IKE_REKEY] [] DELETED INSTALLED")
	w.Mangle = nil
	w.Advance(time.Minute)
	expect("at last", moon, "ESTABLISHED [] [] [] INSTALLED")
	assertUp(t, moon, sun)
}
