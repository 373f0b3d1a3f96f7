package sa_test

import (
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/internal/event"
)

func volumes(c *sa.Connection) {
	ch := c.Children[0]
	ch.RekeyBytes, ch.RandBytes, ch.LifeBytes = 1e6, 1e5, 1e6+1e5
	ch.RekeyPackets, ch.RandPackets, ch.LifePackets = 1000, 0, 1100
	ch.CloseAction = sa.FollowStart
}

// TestVolumeLimits: the kernel gets the soft limits less a part of the margin.
func TestVolumeLimits(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(2) {
		_, moon, sun := established(t, seed, true, volumes)
		for _, n := range []*satest.Node{moon, sun} {
			c := n.Live()[0].Info().Children[0]
			peer := moon.Addr
			if n == moon {
				peer = sun.Addr
			}
			for _, k := range []dataplane.SAKey{{Dst: n.Addr, Proto: dataplane.ESP, SPI: c.SPIIn}, {Dst: peer, Proto: dataplane.ESP, SPI: c.SPIOut}} {
				s, ok := n.DP.SA(k)
				if !ok {
					t.Fatal("no SA")
				}
				l := s.Limits
				if l.SoftBytes > 1e6 || l.SoftBytes < 9e5 || l.HardBytes != 1e6+1e5 || l.SoftPackets != 1000 || l.HardPackets != 1100 {
					t.Errorf("limits %+v", l)
				}
				seen[l.SoftBytes] = true
			}
		}
	}
	if len(seen) != 2 { // the worlds' data planes give the same SPIs
		t.Errorf("%d different soft limits, expected one for each side", len(seen))
	}
}

func TestExpire(t *testing.T) {
	for _, c := range []struct {
		name           string
		hard           bool
		twice          bool // both directions reach the limit
		same, restarts int
	}{{"soft", false, false, 0, 0}, {"soft, both SAs", false, true, 0, 0}, {"hard", true, false, 0, 1}, {"hard, both SAs", true, true, 0, 1}} {
		t.Run(c.name, func(t *testing.T) {
			w, moon, sun := established(t, 6, true, volumes)
			old := moon.Live()[0].Info().Children[0]
			for range 1 + map[bool]int{true: 1}[c.twice] {
				moon.Do(0, sa.Expired{ChildID: old.UniqueID, Hard: c.hard})
			}
			w.Advance(time.Minute)
			noErrors(t, moon, sun)
			if len(moon.Restarts) != c.restarts || len(sun.Restarts) != c.restarts {
				// The peer's close_action follows our delete, too.
				t.Errorf("%v and %v restarts, expected %d", moon.Restarts, sun.Restarts, c.restarts)
			}
			if c.hard {
				if _, children := up(moon); children != 0 {
					t.Error("the child stands after its hard limit")
				}
				return
			}
			assertOne(t, moon, sun)
			if now := moon.Live()[0].Info().Children[0]; now.SPIIn == old.SPIIn {
				t.Error("not rekeyed")
			}
		})
	}
}

// TestOverTime: an IKE SA whose rekeying always fails ends in time.
func TestOverTime(t *testing.T) {
	w, moon, sun := established(t, 7, true, func(c *sa.Connection) {
		c.Children[0].CloseAction = sa.FollowStart
		if c.Name == "sun" {
			c.RekeyTime, c.OverTime = time.Hour, 10*time.Minute
		}
	})
	sun.Fail = func(s sa.Spec) error { // it answers NO_PROPOSAL_CHOSEN or the like
		if _, ok := s.(sa.EncapsulateKE); ok {
			return errPlanted{}
		}
		return nil
	}
	w.Advance(69 * time.Minute)
	if i, _ := up(moon); i != 1 {
		t.Fatal("ended before over_time was over")
	}
	w.Advance(2 * time.Minute)
	if i, _ := up(moon); i != 0 || len(moon.Restarts) != 1 {
		t.Errorf("%d IKE SAs after over_time, restarts %v", i, moon.Restarts)
	}
	if f, ok := satest.Find[event.Failed](moon); !ok || f.Cause != event.Overdue {
		t.Errorf("failure %+v", f)
	}
	// Rekeyed in time, it lives on.
	sun.Fail = nil
	moon.Initiate("sun", "", sunAddr)
	w.Advance(10 * time.Hour)
	assertOne(t, moon, sun)
}

func TestInactivity(t *testing.T) {
	w, moon, sun := established(t, 8, true, func(c *sa.Connection) {
		c.Children[0].CloseAction = sa.FollowStart
		if c.Name == "sun" {
			c.Children[0].Inactivity = 5 * time.Minute
		}
	})
	c := moon.Live()[0].Info().Children[0]
	for i := range 10 {
		k := dataplane.SAKey{Dst: moon.Addr, Proto: dataplane.ESP, SPI: c.SPIIn}
		if i%2 == 0 {
			k = dataplane.SAKey{Dst: sun.Addr, Proto: dataplane.ESP, SPI: c.SPIOut}
		}
		w.Advance(3 * time.Minute)
		if err := moon.DP.Count(k, 1, 100); err != nil {
			t.Fatalf("closed under traffic: %v", err)
		}
	}
	w.Advance(4*time.Minute + 50*time.Second)
	assertOne(t, moon, sun)
	w.Advance(time.Minute)
	if i, children := up(moon); i != 1 || children != 0 {
		t.Errorf("%d IKE SAs, %d CHILD SAs, expected the child alone to be closed", i, children)
	}
	if len(moon.Restarts) != 0 {
		t.Error("what we close is not set up again")
	}
	noErrors(t, moon, sun)
}
