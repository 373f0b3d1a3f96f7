package sa_test

import (
	"slices"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// TestKeepalives: who stands behind a NAT keeps its mapping alive, by the kernel
// where that can, and only when it says nothing else.
func TestKeepalives(t *testing.T) {
	for _, c := range []struct {
		name     string
		encap    bool
		every    time.Duration
		dpd      time.Duration
		lacks    bool // the kernel can't
		daemon   bool // or is not to
		min, max int  // keepalives of the machine in ten minutes
		kernel   time.Duration
	}{
		{name: "kernel", encap: true, every: 20 * time.Second, kernel: 20 * time.Second},
		{name: "kernel, no NAT", every: 20 * time.Second},
		{name: "kernel, off", encap: true},
		{name: "less than the kernel counts", encap: true, every: 900 * time.Millisecond, min: 660, max: 667},
		{name: "behind a NAT", encap: true, every: 20 * time.Second, lacks: true, min: 29, max: 30},
		{name: "the daemon is to", encap: true, every: 20 * time.Second, daemon: true, min: 29, max: 30},
		{name: "no NAT", every: 20 * time.Second, lacks: true},
		{name: "off", encap: true, lacks: true},
		{name: "talking anyway", encap: true, every: 20 * time.Second, dpd: 10 * time.Second, lacks: true, max: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(9)
			w.RoundTrip = true
			moon, sun := satest.Pair(w, func(conn *sa.Connection) {
				if conn.Name == "sun" {
					conn.Encap, conn.DPDDelay = c.encap, c.dpd
				}
			})
			set := *moon.Env.Settings
			set.KeepAlive, set.KernelKeepAlive = c.every, !c.daemon
			moon.Env.Settings, moon.Env.Lacks.NATKeepalive = &set, c.lacks
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			assertUp(t, moon, sun)
			w.Advance(10*time.Minute + time.Second)
			if n := moon.Keepalives; n < c.min || n > c.max {
				t.Errorf("%d keepalives in ten minutes, expected %d to %d", n, c.min, c.max)
			}
			keptBy(t, moon, map[string]time.Duration{"net": c.kernel})
			if sun.Keepalives != 0 {
				t.Errorf("%d keepalives by the side without a NAT", sun.Keepalives)
			}
			keptBy(t, sun, map[string]time.Duration{"net": 0})
			noErrors(t, moon, sun)
		})
	}
}

// keptBy asserts on which outbound SAs of a node's children have the kernel send
// keepalives.
func keptBy(t *testing.T, n *satest.Node, want map[string]time.Duration) {
	t.Helper()
	children := slices.DeleteFunc(n.Live()[0].Info().Children, func(c sa.ChildInfo) bool { return c.State != sa.ChildSAInstalled })
	if len(children) != len(want) {
		t.Fatalf("%d children, expected %d", len(children), len(want))
	}
	for i := range children {
		c, got := &children[i], time.Duration(0)
		out, ok := n.DP.SA(dataplane.SAKey{Dst: c.Remote.Addr(), Proto: dataplane.ESP, SPI: c.SPIOut})
		if !ok {
			t.Fatalf("%s: the outbound SA of %s is not at %s", n.Addr, c.Name, c.Remote)
		}
		if out.Encap != nil {
			got = out.Encap.Keepalive
		}
		if got != want[c.Name] {
			t.Errorf("%s: keepalives for %s every %s, expected %s", n.Addr, c.Name, got, want[c.Name])
		}
	}
}

// TestOneKeepsTheMapping: one CHILD SA of several carries the keepalives, over
// rekeyings by either side; when it ends without another in its place, the machine
// sends them until one is made.
func TestOneKeepsTheMapping(t *testing.T) {
	const every = 20 * time.Second
	w, moon, sun, box := natted(t, secondChild)
	moon.Do(0, sa.NewChild{Child: "two"})
	w.Settle(100)
	agree(t, moon, sun, 2)
	keptBy(t, moon, map[string]time.Duration{"net": every, "two": 0})
	id := func(n *satest.Node, name string) uint64 {
		for _, c := range n.Live()[0].Info().Children {
			if c.Name == name {
				return c.UniqueID
			}
		}
		t.Fatalf("no child %s", name)
		return 0
	}
	for _, n := range []*satest.Node{moon, sun} {
		for _, name := range []string{"two", "net"} {
			n.Do(0, sa.Rekey{ChildID: id(n, name)})
			w.Advance(time.Minute)
			keptBy(t, moon, map[string]time.Duration{"net": every, "two": 0})
		}
		n.Do(0, sa.Rekey{})
		w.Advance(time.Minute)
	}
	box.shift = 2000 // the peer follows the mapping
	moon.Do(0, sa.Rekey{ChildID: id(moon, "two")})
	w.Advance(time.Minute)
	keptBy(t, moon, map[string]time.Duration{"net": every, "two": 0})
	if moon.Keepalives != 0 || sun.Keepalives != 0 {
		t.Errorf("%d and %d keepalives of the machines, expected none", moon.Keepalives, sun.Keepalives)
	}
	moon.Do(0, sa.Terminate{Child: "net"})
	w.Advance(time.Minute + time.Second)
	keptBy(t, moon, map[string]time.Duration{"two": 0})
	if n := moon.Keepalives; n != 2 && n != 3 {
		t.Errorf("%d keepalives of the machine in the minute after the kernel's, expected 3", n)
	}
	moon.Do(0, sa.Rekey{ChildID: id(moon, "two")})
	w.Advance(time.Second)
	keptBy(t, moon, map[string]time.Duration{"two": every})
	before := moon.Keepalives
	w.Advance(time.Minute)
	if n := moon.Keepalives - before; n != 0 {
		t.Errorf("%d keepalives of the machine beside the kernel's", n)
	}
	noErrors(t, moon, sun)
}

// TestKeepalivesFollowNAT: MOBIKE finds a NAT before us, another mapping of it,
// another address behind it, and that it is gone.
func TestKeepalivesFollowNAT(t *testing.T) {
	const every = 20 * time.Second
	w, moon, sun := mobile(t)
	keptBy(t, moon, map[string]time.Duration{"net": 0})
	for range 2 {
		goTo(moon, "10.9.9.9", sunAddr)
		w.Mangle = (&natBox{moon.Addr, publicAddr, 1000}).through
		w.Settle(100)
		keptBy(t, moon, map[string]time.Duration{"net": every})
		goTo(moon, "10.9.9.10", sunAddr)
		w.Mangle = (&natBox{moon.Addr, publicAddr, 3000}).through
		w.Settle(100)
		keptBy(t, moon, map[string]time.Duration{"net": every})
		w.Mangle = nil
		goTo(moon, "192.0.2.44", sunAddr)
		w.Settle(100)
		keptBy(t, moon, map[string]time.Duration{"net": 0})
		keptBy(t, sun, map[string]time.Duration{"net": 0})
	}
	w.Advance(5 * time.Minute)
	if moon.Keepalives != 0 || sun.Keepalives != 0 {
		t.Errorf("%d and %d keepalives of the machines, expected none", moon.Keepalives, sun.Keepalives)
	}
	noErrors(t, moon, sun)
}

// TestESPKeepsTheMapping: what liveness learns of ESP that was sent is no silence.
func TestESPKeepsTheMapping(t *testing.T) {
	w, moon, sun, _ := natted(t, func(c *sa.Connection) {
		if c.Name == "sun" { // or the peer would have us talk
			c.DPDDelay = 15 * time.Second
		}
	})
	moon.Env.Lacks.NATKeepalive = true
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID}) // without the kernel's
	w.Advance(time.Second)
	keptBy(t, moon, map[string]time.Duration{"net": 0})
	for range 600 {
		children := moon.Live()[0].Info().Children
		c := children[len(children)-1]
		for _, k := range []dataplane.SAKey{{Dst: c.Remote.Addr(), Proto: dataplane.ESP, SPI: c.SPIOut}, {Dst: c.Local.Addr(), Proto: dataplane.ESP, SPI: c.SPIIn}} {
			if err := moon.DP.Count(k, 1, 100); err != nil {
				t.Fatal(err)
			}
		}
		w.Advance(time.Second)
	}
	if moon.Keepalives > 1 {
		t.Errorf("%d keepalives in ten minutes of ESP", moon.Keepalives)
	}
	noErrors(t, moon, sun)
}
