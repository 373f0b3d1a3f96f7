package sa_test

import (
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/internal/event"
)

func dpd(delay time.Duration) satest.Option {
	return func(c *sa.Connection) { c.DPDDelay = delay }
}

// counted counts the datagrams that node sends from now on.
func counted(w *satest.World, from *satest.Node) *int {
	n := new(int)
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.From.Addr() == from.Addr {
			*n++
		}
		return []satest.Packet{p}
	}
	return n
}

// silence lets nothing pass from now on.
func silence(w *satest.World) { w.Mangle = func(satest.Packet) []satest.Packet { return nil } }

func TestDPDOnlyWhenIdle(t *testing.T) {
	onlyMoon := func(c *sa.Connection) {
		if c.Name == "sun" {
			c.DPDDelay = 30 * time.Second
		}
	}
	w, moon, sun := established(t, 1, true, onlyMoon)
	sent := counted(w, moon)
	w.Advance(29 * time.Second)
	if *sent != 0 {
		t.Errorf("%d messages before dpd_delay", *sent)
	}
	w.Advance(2 * time.Second)
	if *sent != 1 {
		t.Errorf("%d messages after dpd_delay, expected one", *sent)
	}
	// Inbound traffic is a sign of life.
	in := dataplane.SAKey{Dst: moon.Addr, Proto: dataplane.ESP, SPI: moon.Live()[0].Info().Children[0].SPIIn}
	for range 20 {
		w.Advance(10 * time.Second)
		if err := moon.DP.Count(in, 1, 100); err != nil {
			t.Fatal(err)
		}
	}
	if *sent != 1 {
		t.Errorf("%d messages while traffic came in, expected no more than the one", *sent)
	}
	// Outbound traffic is none.
	out := dataplane.SAKey{Dst: sun.Addr, Proto: dataplane.ESP, SPI: moon.Live()[0].Info().Children[0].SPIOut}
	for range 12 {
		w.Advance(5 * time.Second)
		if err := moon.DP.Count(out, 1, 100); err != nil {
			t.Fatal(err)
		}
	}
	if *sent != 3 {
		t.Errorf("%d messages after a minute of outbound traffic alone, expected two more than before", *sent-1)
	}
	noErrors(t, moon, sun)
}

func TestDPDFindsTheDead(t *testing.T) {
	for _, c := range []struct {
		name            string
		action          sa.FollowUp
		restarts, traps int
	}{{"clear", 0, 0, 0}, {"trap", sa.FollowTrap, 0, 1}, {"restart", sa.FollowStart, 1, 0}} {
		t.Run(c.name, func(t *testing.T) {
			w, moon, _ := established(t, 2, true, dpd(30*time.Second), func(conn *sa.Connection) { conn.Children[0].DPDAction = c.action })
			silence(w)
			w.Advance(3*time.Minute + 10*time.Second)
			if len(moon.Live()) != 1 {
				t.Fatal("given up before the last retransmission had its time")
			}
			w.Advance(30 * time.Second)
			assertNothing(t, moon)
			if f, ok := satest.Find[event.Failed](moon); !ok || f.Cause != event.PeerTimeout {
				t.Errorf("failure: %+v", f)
			}
			if len(moon.Restarts) != c.restarts || len(moon.Traps) != c.traps {
				t.Errorf("%d restarts and %d traps, expected %d and %d", len(moon.Restarts), len(moon.Traps), c.restarts, c.traps)
			}
		})
	}
}

// TestCloseAction: what goes unasked is followed by close_action, what we or our
// operator end is not.
func TestCloseAction(t *testing.T) {
	both := func(c *sa.Connection) {
		c.Children[0].CloseAction = sa.FollowTrap | sa.FollowStart
		c.Children[0].DPDAction = sa.FollowStart
	}
	for _, c := range []struct {
		name string
		end  func(w *satest.World, moon, sun *satest.Node)
		want int
	}{
		{"peer deletes the child", func(_ *satest.World, _, sun *satest.Node) { sun.Do(0, sa.Terminate{Child: "net"}) }, 1},
		{"peer deletes the IKE SA", func(_ *satest.World, _, sun *satest.Node) { sun.Do(0, sa.Terminate{}) }, 1},
		{"we delete the child", func(_ *satest.World, moon, _ *satest.Node) { moon.Do(0, sa.Terminate{Child: "net"}) }, 0},
		{"we delete the IKE SA", func(_ *satest.World, moon, _ *satest.Node) { moon.Do(0, sa.Terminate{}) }, 0},
		{"we delete it and nobody answers", func(w *satest.World, moon, _ *satest.Node) {
			silence(w)
			moon.Do(0, sa.Terminate{})
		}, 0},
		{"we rekey", func(_ *satest.World, moon, _ *satest.Node) {
			moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
		}, 0},
		{"the peer rekeys", func(_ *satest.World, _, sun *satest.Node) {
			sun.Do(0, sa.Rekey{ChildID: sun.Live()[0].Info().Children[0].UniqueID})
		}, 0},
		{"both delete at once", func(_ *satest.World, moon, sun *satest.Node) {
			moon.Do(0, sa.Terminate{Child: "net"})
			sun.Do(0, sa.Terminate{Child: "net"})
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, moon, sun := established(t, 3, true, both)
			c.end(w, moon, sun)
			w.Advance(5 * time.Minute)
			if len(moon.Restarts) != c.want || len(moon.Traps) != c.want {
				t.Errorf("%d restarts and %d traps, expected %d", len(moon.Restarts), len(moon.Traps), c.want)
			}
		})
	}
}

func TestNetworkChangedChecksAtOnce(t *testing.T) {
	w, moon, sun := established(t, 4, true)
	sent := counted(w, moon)
	moon.Do(0, sa.NetworkChanged{})
	w.Settle(10)
	if *sent != 1 {
		t.Errorf("%d messages after a change of the network, expected one", *sent)
	}
	noErrors(t, moon, sun)
	silence(w)
	moon.Do(0, sa.NetworkChanged{})
	w.Settle(10)
	n := 0
	w.Mangle = func(satest.Packet) []satest.Packet { n++; return nil }
	moon.Do(0, sa.NetworkChanged{})
	w.Settle(10)
	if n != 1 {
		t.Errorf("%d messages while the first waits for its answer, expected its repetition", n)
	}
	w.Mangle = nil
	w.Advance(time.Minute)
	assertUp(t, moon, sun)
}

// TestRetransmitBackOff: the waits between transmissions are those of the
// settings.
func TestRetransmitBackOff(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(*sa.Settings)
		min, max []float64 // seconds
	}{
		{"defaults", func(*sa.Settings) {}, []float64{4, 7.2, 12.96, 23.328, 41.99, 75.58}, []float64{4, 7.2, 12.96, 23.328, 41.991, 75.583}},
		{"limit", func(s *sa.Settings) { s.RetransmitLimit = 10 * time.Second }, []float64{4, 7.2, 10, 10, 10, 10}, []float64{4, 7.2, 10, 10, 10, 10}},
		{"jitter", func(s *sa.Settings) { s.RetransmitBase, s.RetransmitJitter = 1, 20 }, []float64{3.2, 3.2, 3.2, 3.2, 3.2, 3.2}, []float64{3.999, 3.999, 3.999, 3.999, 3.999, 3.999}},
		{"few", func(s *sa.Settings) { s.RetransmitTries, s.RetransmitTimeout = 1, time.Second }, []float64{1, 1.8}, []float64{1, 1.8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(5)
			moon, _ := satest.Pair(w)
			set := *moon.Env.Settings
			c.change(&set)
			moon.Env.Settings = &set
			var at []time.Time
			w.Mangle = func(satest.Packet) []satest.Packet {
				at = append(at, w.Now)
				return nil
			}
			moon.Initiate("sun", "", sunAddr)
			w.Settle(10)
			for len(moon.Live()) > 0 {
				w.Advance(10 * time.Millisecond)
			}
			if at = append(at, w.Now); len(at) != len(c.min)+1 {
				t.Fatalf("%d transmissions, expected %d", len(at)-1, len(c.min))
			}
			for i := range c.min {
				if d := at[i+1].Sub(at[i]).Seconds(); d < c.min[i]-0.011 || d > c.max[i]+0.011 {
					t.Errorf("wait %d: %.3f s, expected %.3f to %.3f", i, d, c.min[i], c.max[i])
				}
			}
		})
	}
}
