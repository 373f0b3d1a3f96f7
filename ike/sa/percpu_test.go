package sa_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

func perCPU(p sa.PerCPU) satest.Option {
	return func(c *sa.Connection) { c.Children[0].PerCPU = p }
}

// cpuPair is a pair with a tunnel between boxes of so many CPUs.
func cpuPair(t *testing.T, seed uint64, moonCPUs, sunCPUs int, opts ...satest.Option) (*satest.World, *satest.Node, *satest.Node) {
	t.Helper()
	w := satest.New(seed)
	w.RoundTrip = seed%2 == 0
	moon, sun := satest.Pair(w, append([]satest.Option{perCPU(sa.PerCPUYes)}, opts...)...)
	moon.Env.Settings.CPUs, sun.Env.Settings.CPUs = moonCPUs, sunCPUs
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	return w, moon, sun
}

// standing are the CHILD SAs of the node's only session that stand, the fallback
// first, then by CPU.
func standing(n *satest.Node) []sa.ChildInfo {
	var out []sa.ChildInfo
	for _, c := range n.Live()[0].Info().Children {
		if c.State == sa.ChildSAInstalled {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b sa.ChildInfo) int { return cpuOf(a) - cpuOf(b) })
	return out
}

// cpuOf is a child's CPU, -1 for a fallback.
func cpuOf(c sa.ChildInfo) int {
	if c.CPU == nil {
		return -1
	}
	return int(*c.CPU)
}

// split asks as the kernel does for an SA of the CPU.
func split(n *satest.Node, cpu uint32) {
	n.Do(0, sa.SplitChild{ChildID: standing(n)[0].UniqueID, CPU: cpu})
}

// assertCPUs checks the CPUs of what stands, and that the data plane has the
// same SAs and nothing beside them.
func assertCPUs(t *testing.T, n *satest.Node, want ...int) {
	t.Helper()
	cs := standing(n)
	var got []int
	for _, c := range cs {
		got = append(got, cpuOf(c))
		for _, k := range []dataplane.SAKey{
			{Dst: c.Local.Addr(), Proto: dataplane.ESP, SPI: c.SPIIn}, {Dst: c.Remote.Addr(), Proto: dataplane.ESP, SPI: c.SPIOut},
		} {
			s, ok := n.DP.SA(k)
			switch {
			case !ok:
				t.Errorf("%s: the data plane has no %s of CPU %d", n.Addr, k, cpuOf(c))
			case (s.CPU == nil) != (c.CPU == nil) || s.CPU != nil && *s.CPU != *c.CPU:
				t.Errorf("%s: %s is bound to %v in the data plane, expected %d", n.Addr, k, s.CPU, cpuOf(c))
			case s.ReqID != cs[0].ReqID:
				t.Errorf("%s: request id %d of CPU %d, expected the fallback's %d", n.Addr, s.ReqID, cpuOf(c), cs[0].ReqID)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: CPUs %v, expected %v", n.Addr, got, want)
	}
	if s, r, p := n.DP.Counts(); s != 2*len(want) || r != 0 || p != 3 {
		t.Errorf("%s: %d SAs, %d reserved, %d policies, expected %d, 0, 3", n.Addr, s, r, p, 2*len(want))
	}
}

// acquires reports whether the outbound policy asks for an SA of each CPU.
func acquires(t *testing.T, n *satest.Node) bool {
	t.Helper()
	snap, err := n.DP.List()
	if err != nil {
		t.Fatal(err)
	}
	out := false
	for _, p := range snap.Policies {
		if flag := p.Flags&dataplane.PolicyCPUAcquire != 0; p.Dir == dataplane.Out {
			out = flag
		} else if flag {
			t.Errorf("policy %s %s asks for SAs of CPUs", p.Dir, p.Selector)
		}
	}
	return out
}

// TestArm: the policy asks for SAs of CPUs only as long as one lacks; a report
// takes the flag and the kernel's record away until something came of it.
func TestArm(t *testing.T) {
	for seed := range uint64(2) {
		w, moon, sun := cpuPair(t, seed, 2, 2)
		sun.Env.Settings.MaxPerCPU = 1
		acquire := func(cpu uint32) {
			t.Helper()
			was := len(moon.Forgot)
			moon.Do(0, sa.SplitChild{ChildID: standing(moon)[0].UniqueID, CPU: cpu, Acquired: true})
			if acquires(t, moon) {
				t.Errorf("CPU %d: armed before anything has come of the report", cpu)
			}
			if len(moon.Forgot) != was+1 {
				t.Fatalf("CPU %d: %d records forgotten, expected 1", cpu, len(moon.Forgot)-was)
			}
			r := moon.Forgot[was]
			c := standing(moon)[0]
			if r.CPU == nil || *r.CPU != cpu || r.ReqID != c.ReqID || r.Src != moon.Addr || r.Dst != sun.Addr || r.Mode != c.Mode {
				t.Errorf("forgotten %+v, expected CPU %d", r, cpu)
			}
		}
		acquire(1)
		w.Settle(100)
		if !acquires(t, moon) {
			t.Error("not armed for the other CPU")
		}
		acquire(0) // sun takes no more
		w.Advance(time.Hour)
		assertCPUs(t, sun, -1)
		if acquires(t, sun) != true {
			t.Error("sun is not armed any more")
		}
		if !acquires(t, moon) {
			t.Error("not armed after the first has gone, which leaves room")
		}
		sun.Env.Settings.MaxPerCPU = 9
		acquire(7) // there is none such
		acquire(7)
		w.Advance(25 * time.Second)
		if acquires(t, moon) {
			t.Error("armed at once after a report from which nothing follows")
		}
		w.Advance(10 * time.Second)
		if !acquires(t, moon) {
			t.Error("not armed again")
		}
		acquire(0)
		w.Settle(100)
		acquire(1)
		w.Settle(100)
		if acquires(t, moon) || acquires(t, sun) {
			t.Error("armed although no CPU lacks one")
		}
		assertCPUs(t, moon, -1, 0, 1)
		moon.Do(0, sa.Rekey{ChildID: standing(moon)[0].UniqueID})
		w.Advance(time.Minute)
		if acquires(t, moon) || acquires(t, sun) {
			t.Error("armed by the rekeying of the fallback")
		}
		moon.Do(0, sa.Terminate{ChildID: standing(moon)[1].UniqueID})
		w.Advance(time.Minute)
		if !acquires(t, moon) || !acquires(t, sun) {
			t.Error("not armed although a CPU lacks one")
		}
		noErrors(t, moon, sun)
	}
}

func TestPerCPU(t *testing.T) {
	for seed := range uint64(4) {
		w, moon, sun := cpuPair(t, seed, 4, 2)
		for _, n := range []*satest.Node{moon, sun} {
			if !acquires(t, n) {
				t.Errorf("%s: the policy asks for no SA of a CPU", n.Addr)
			}
			assertCPUs(t, n, -1)
		}
		split(moon, 3)
		split(moon, 3) // as long as it is being made, and
		w.Advance(time.Minute)
		split(moon, 3) // when it stands
		split(moon, 4) // there is none such
		w.Advance(time.Minute)
		assertCPUs(t, moon, -1, 3)
		assertCPUs(t, sun, -1, 0)
		split(sun, 1)
		w.Advance(time.Minute)
		assertCPUs(t, moon, -1, 0, 3)
		assertCPUs(t, sun, -1, 0, 1)
		split(moon, 1) // sun has no CPU without
		split(moon, 2)
		w.Advance(time.Minute)
		assertCPUs(t, moon, -1, 0, 1, 2, 3)
		assertCPUs(t, sun, -1, 0, 0, 1, 1)
		noErrors(t, moon, sun)
		if ev, ok := satest.Find[event.ChildUp](moon); !ok || ev.Child.CPU == nil {
			t.Errorf("event %+v names no CPU", ev)
		}
		moon.Do(0, sa.Terminate{})
		w.Advance(time.Minute)
		assertNothing(t, moon)
		assertNothing(t, sun)
	}
}

// TestPerCPUNotAgreed: without the peer's consent, or a kernel that can, or more
// than one CPU for auto, nothing is asked for.
func TestPerCPUNotAgreed(t *testing.T) {
	for _, c := range []struct {
		name      string
		moon, sun sa.PerCPU
		cpus      int
		lacks     bool
		agreed    bool
	}{
		{"yes both", sa.PerCPUYes, sa.PerCPUYes, 1, false, true},
		{"auto both", sa.PerCPUAuto, sa.PerCPUAuto, 2, false, true},
		{"encap and auto", sa.PerCPUEncap, sa.PerCPUAuto, 2, false, true},
		{"one CPU", sa.PerCPUAuto, sa.PerCPUAuto, 1, false, false},
		{"the peer does not", sa.PerCPUYes, sa.PerCPUNo, 2, false, false},
		{"we do not", sa.PerCPUNo, sa.PerCPUYes, 2, false, false},
		{"the kernel can't", sa.PerCPUYes, sa.PerCPUYes, 2, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(5)
			w.RoundTrip = true
			moon, sun := satest.Pair(w)
			moon.Env.Conns.ByName("sun").Children[0].PerCPU, sun.Env.Conns.ByName("moon").Children[0].PerCPU = c.moon, c.sun
			moon.Env.Settings.CPUs, sun.Env.Settings.CPUs = c.cpus, c.cpus
			moon.Env.Lacks.PerCPU = c.lacks
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			want := []int{-1}
			if c.agreed {
				want = []int{-1, 0}
			}
			for _, n := range []*satest.Node{moon, sun} {
				if got := n.Live()[0].Info().Children[0].PerCPU; got != c.agreed || acquires(t, n) != c.agreed {
					t.Errorf("%s: one SA a CPU: %v, policies ask for it: %v, expected %v", n.Addr, got, acquires(t, n), c.agreed)
				}
			}
			split(moon, 0)
			w.Advance(time.Minute)
			assertCPUs(t, moon, want...)
			assertCPUs(t, sun, want...)
			noErrors(t, moon, sun)
			_, fellBack := satest.Find[event.FellBack](moon)
			if wish := c.moon == sa.PerCPUYes || c.moon == sa.PerCPUEncap; fellBack != (wish && !c.agreed || c.moon == sa.PerCPUEncap) { // without UDP
				t.Errorf("fallback told: %v", fellBack)
			}
		})
	}
}

// TestMaxQueue: a peer that takes no more is asked again only when one is gone, or
// the fallback was rekeyed.
func TestMaxQueue(t *testing.T) {
	w, moon, sun := cpuPair(t, 6, 4, 4)
	sun.Env.Settings.MaxPerCPU = 1
	split(moon, 0)
	w.Advance(time.Minute)
	split(moon, 1)
	split(moon, 2)
	w.Advance(time.Minute)
	refusals := func() (n int) {
		for _, e := range moon.Events {
			if f, ok := e.(event.FellBack); ok {
				n++
				t.Log(f.Wanted, f.Instead)
			}
		}
		return n
	}
	assertCPUs(t, moon, -1, 0)
	assertCPUs(t, sun, -1, 0)
	if n := refusals(); n != 1 {
		t.Fatalf("%d refusals, expected the first to end it", n)
	}
	ids := moon.Live()[0].State().IKE.NextOut
	split(moon, 3)
	w.Advance(time.Minute)
	if now := moon.Live()[0].State().IKE.NextOut; now != ids {
		t.Errorf("%d requests after the peer's TS_MAX_QUEUE, expected none", now-ids)
	}
	moon.Do(0, sa.Terminate{ChildID: standing(moon)[1].UniqueID})
	w.Advance(time.Minute)
	split(moon, 3)
	w.Advance(time.Minute)
	assertCPUs(t, moon, -1, 3)
	split(moon, 2)
	w.Advance(time.Minute)
	if n := refusals(); n != 2 {
		t.Errorf("%d refusals, expected a second one", n)
	}
	sun.Env.Settings.MaxPerCPU = 2
	moon.Do(0, sa.Rekey{ChildID: standing(moon)[0].UniqueID})
	w.Advance(time.Minute)
	split(moon, 2)
	w.Advance(time.Minute)
	assertCPUs(t, moon, -1, 2, 3)
	assertCPUs(t, sun, -1, 0, 1)
	noErrors(t, moon, sun)
}

// TestPerCPULimit: the bound counts whoever asks, and is never passed.
func TestPerCPULimit(t *testing.T) {
	if wire.NotifyTSMaxQueue != 48 || wire.NotifySAResourceInfo != 16444 {
		t.Fatal("not the numbers that IANA gave RFC 9611")
	}
	w, moon, sun := cpuPair(t, 7, 8, 8)
	moon.Env.Settings.MaxPerCPU = 3
	for cpu := range uint32(8) {
		split(moon, cpu)
		split(sun, cpu)
		w.Advance(time.Second)
	}
	w.Advance(time.Minute)
	for _, n := range []*satest.Node{moon, sun} {
		if cs := standing(n); len(cs) != 4 {
			t.Errorf("%s: %d CHILD SAs, expected the fallback and 3", n.Addr, len(cs))
		}
	}
	noErrors(t, moon, sun)
}

func other(n, moon, sun *satest.Node) *satest.Node {
	if n == moon {
		return sun
	}
	return moon
}

func TestRekeyPerCPU(t *testing.T) {
	for seed := range uint64(8) {
		for _, c := range []struct {
			name      string
			moon, sun bool
			which     int // of what stands: 0 the fallback
		}{
			{"initiator", true, false, 1}, {"responder", false, true, 1}, {"both at once", true, true, 1},
			{"the fallback", true, false, 0}, {"the fallback by the responder", false, true, 0}, {"the fallback by both", true, true, 0},
		} {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				w, moon, sun := cpuPair(t, seed, 4, 4, pfs)
				split(moon, 2)
				split(sun, 3)
				w.Advance(2 * time.Second)
				assertCPUs(t, moon, -1, 0, 2)
				assertCPUs(t, sun, -1, 0, 3)
				was := standing(moon)
				same := func(o sa.ChildInfo) bool { return o.SPIIn == was[c.which].SPIOut }
				at := slices.IndexFunc(standing(sun), same)
				old := was[0].UniqueID
				if c.moon {
					moon.Do(0, sa.Rekey{ChildID: was[c.which].UniqueID})
				}
				if c.sun {
					sun.Do(0, sa.Rekey{ChildID: standing(sun)[at].UniqueID})
				}
				w.Advance(3*time.Minute + 30*time.Second) // until the peer surely knows what it has asked for
				assertCPUs(t, moon, -1, 0, 2)
				assertCPUs(t, sun, -1, 0, 3)
				for i, now := range standing(moon) {
					if rekeyed := now.SPIIn != was[i].SPIIn; rekeyed != (i == c.which) {
						t.Errorf("CPU %d: rekeyed %v", cpuOf(now), rekeyed)
					}
				}
				moon.Do(0, sa.SplitChild{ChildID: old, CPU: 1}) // the kernel's report may be older than the rekeying
				w.Advance(2 * time.Second)
				if c.which != 0 {
					assertCPUs(t, moon, -1, 0, 1, 2)
				}
				noErrors(t, moon, sun)
			})
		}
	}
}

// TestSplitWhileRekeyed: what asks for a bound one in the middle of its
// fallback's rekeying gets it when that is over.
func TestSplitWhileRekeyed(t *testing.T) {
	for seed := range uint64(6) {
		w, moon, sun := cpuPair(t, seed, 4, 4)
		old := standing(moon)[0].UniqueID
		moon.Do(0, sa.Rekey{ChildID: old})
		for range seed {
			w.Deliver()
		}
		moon.Do(0, sa.SplitChild{ChildID: old, CPU: 1})
		w.Advance(time.Minute)
		assertCPUs(t, moon, -1, 1)
		assertCPUs(t, sun, -1, 0)
		noErrors(t, moon, sun)
	}
}

func TestDeletePerCPU(t *testing.T) {
	for _, c := range []struct {
		name  string
		which int
		bySun bool
		want  []int
	}{
		{"one", 1, false, []int{-1, 1}}, {"one by the peer", 1, true, []int{-1, 1}},
		{"the fallback", 0, false, nil}, {"the fallback by the peer", 0, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, moon, sun := cpuPair(t, 8, 2, 2, func(c *sa.Connection) { c.Children[0].CloseAction = sa.FollowStart })
			split(moon, 0)
			split(moon, 1)
			w.Advance(time.Minute)
			n := moon
			if c.bySun {
				n = sun
			}
			gone := standing(n)[c.which]
			n.Do(0, sa.Terminate{ChildID: gone.UniqueID})
			w.Settle(100)
			if c.want != nil {
				// What is under way still arrives.
				for end, spi := range map[*satest.Node]uint32{n: gone.SPIIn, other(n, moon, sun): gone.SPIOut} {
					if _, ok := end.DP.SA(dataplane.SAKey{Dst: end.Addr, Proto: dataplane.ESP, SPI: spi}); !ok {
						t.Errorf("%s: the inbound SA went with the delete", end.Addr)
					}
				}
			}
			w.Advance(time.Minute)
			if c.want == nil {
				for _, n := range []*satest.Node{moon, sun} {
					if s, r, p := n.DP.Counts(); len(standing(n)) != 0 || s+r+p != 0 || !n.Live()[0].IsEstablished() {
						t.Errorf("%s: %d CHILD SAs, %d SAs, %d reserved, %d policies, expected the IKE SA alone", n.Addr, len(standing(n)), s, r, p)
					}
				}
			} else {
				assertCPUs(t, moon, c.want...)
				assertCPUs(t, sun, c.want...)
				if len(moon.Restarts)+len(sun.Restarts) != 0 {
					t.Errorf("close_action for one CPU's: %v, %v", moon.Restarts, sun.Restarts)
				}
			}
			noErrors(t, moon, sun)
		})
	}
}

// TestIdlePerCPU: a bound one without traffic goes, and its fallback stays as long
// as there is one that has some.
func TestIdlePerCPU(t *testing.T) {
	for _, limit := range []time.Duration{0, 2 * time.Minute} {
		t.Run(limit.String(), func(t *testing.T) {
			w, moon, sun := cpuPair(t, 9, 2, 2, func(c *sa.Connection) {
				if c.Name == "sun" {
					c.Children[0].Inactivity = limit
				}
			})
			split(moon, 0)
			split(moon, 1)
			w.Advance(time.Second)
			busy := standing(moon)[2]
			for range 12 {
				w.Advance(time.Minute)
				for n, k := range map[*satest.Node]dataplane.SAKey{moon: {Dst: sun.Addr, Proto: dataplane.ESP, SPI: busy.SPIOut}, sun: {Dst: sun.Addr, Proto: dataplane.ESP, SPI: busy.SPIOut}} {
					if err := n.DP.Count(k, 1, 100); err != nil {
						t.Fatalf("%s: closed under traffic: %v", n.Addr, err)
					}
				}
			}
			assertCPUs(t, moon, -1, 1)
			assertCPUs(t, sun, -1, 1)
			split(moon, 0) // a packet comes there once more
			w.Advance(time.Second)
			assertCPUs(t, moon, -1, 0, 1)
			w.Advance(11 * time.Minute)
			if limit == 0 {
				assertCPUs(t, moon, -1)
				assertCPUs(t, sun, -1)
			} else if n := len(standing(moon)); n != 0 {
				t.Errorf("%d CHILD SAs without traffic, expected the fallback to follow", n)
			}
			noErrors(t, moon, sun)
		})
	}
}

// TestSplitBothWays: both sides want one for each of their CPUs at the same time.
func TestSplitBothWays(t *testing.T) {
	for seed := range uint64(8) {
		w, moon, sun := cpuPair(t, seed, 2, 2)
		for cpu := range uint32(2) {
			split(moon, cpu)
			split(sun, cpu)
		}
		w.Advance(time.Minute)
		for _, n := range []*satest.Node{moon, sun} {
			cs := standing(n)
			if len(cs) < 3 || cpuOf(cs[0]) != -1 || cpuOf(cs[1]) != 0 || cpuOf(cs[len(cs)-1]) != 1 {
				t.Errorf("%s: %d CHILD SAs, expected one for each CPU at least", n.Addr, len(cs))
			}
			if s, r, _ := n.DP.Counts(); s != 2*len(cs) || r != 0 {
				t.Errorf("%s: %d SAs for %d CHILD SAs, %d reserved", n.Addr, s, len(cs), r)
			}
		}
		noErrors(t, moon, sun)
	}
}

// TestReauthPerCPU: the session that takes another's place gets its own.
func TestReauthPerCPU(t *testing.T) {
	w, moon, sun := cpuPair(t, 10, 2, 2)
	split(moon, 1)
	w.Advance(time.Minute)
	moon.Do(0, sa.ReauthenticateNow{})
	w.Advance(time.Minute)
	for _, n := range []*satest.Node{moon, sun} {
		if len(n.Live()) != 1 {
			t.Fatalf("%s: %d sessions", n.Addr, len(n.Live()))
		}
		assertCPUs(t, n, -1)
	}
	moon.Do(len(moon.Sessions)-1, sa.SplitChild{ChildID: standing(moon)[0].UniqueID, CPU: 0})
	w.Advance(time.Minute)
	assertCPUs(t, moon, -1, 0)
	assertCPUs(t, sun, -1, 0)
	noErrors(t, moon, sun)
}

// TestSplitTemporaryFailure: what the peer can't do now it is asked for later.
func TestSplitTemporaryFailure(t *testing.T) {
	w, moon, sun := cpuPair(t, 11, 2, 2)
	sun.Do(0, sa.Rekey{})
	// Its rekeying of the IKE SA is under way: moon's request meets it.
	split(moon, 1)
	w.Advance(2 * time.Minute)
	assertCPUs(t, moon, -1, 1)
	assertCPUs(t, sun, -1, 0)
	noErrors(t, moon, sun)
}

// TestFallbackBothWays: two requests for the fallback that cross, in whatever order
// they arrive, end in one, and none is taken for one of a CPU.
func TestFallbackBothWays(t *testing.T) {
	for seed := range uint64(12) {
		w, moon, sun := cpuPair(t, seed, 2, 2)
		moon.Do(0, sa.Terminate{ChildID: standing(moon)[0].UniqueID})
		w.Advance(time.Minute)
		moon.Do(0, sa.NewChild{Child: "net"})
		for range seed / 4 {
			w.Deliver()
		}
		sun.Do(0, sa.NewChild{Child: "net"})
		if seed%2 == 1 { // sun's request is late: moon has its own by then
			var late []satest.Packet
			w.Mangle = func(p satest.Packet) []satest.Packet {
				if p.From.Addr() == sun.Addr && len(late) == 0 {
					late = append(late, p)
					return nil
				}
				return []satest.Packet{p}
			}
			w.Settle(100)
			w.Mangle = nil
			for _, p := range late {
				w.Inject(p)
			}
		}
		w.Advance(time.Minute)
		assertCPUs(t, moon, -1)
		assertCPUs(t, sun, -1)
		split(sun, 1)
		w.Advance(time.Minute)
		assertCPUs(t, sun, -1, 1)
		noErrors(t, moon, sun)
	}
}

// TestRekeyedWhileDeleted: the peer deletes an SA of one CPU while our rekeying of it waits for the answer. What comes of that is the CPU's as well, on both
// sides, and no second fallback on ours; without a fallback it goes.
func TestRekeyedWhileDeleted(t *testing.T) {
	for _, fallback := range []bool{true, false} {
		for seed := range uint64(4) {
			w, moon, sun := cpuPair(t, seed, 2, 2)
			split(moon, 1)
			w.Settle(100)
			mine, theirs := standing(moon), standing(sun)
			if len(mine) != 2 || len(theirs) != 2 {
				t.Fatalf("seed %d: %d and %d CHILD SAs", seed, len(mine), len(theirs))
			}
			w.Mangle = func(p satest.Packet) []satest.Packet {
				if h := satest.Must(wire.ParseHeader(p.Data)); h.IsResponse() && h.Exchange == wire.ExchangeCreateChildSA && p.From.Addr() == sun.Addr {
					return nil
				}
				return []satest.Packet{p}
			}
			moon.Do(0, sa.Rekey{ChildID: mine[1].UniqueID})
			w.Settle(100)
			sun.Do(0, sa.Terminate{ChildID: theirs[1].UniqueID})
			if !fallback {
				sun.Do(0, sa.Terminate{ChildID: theirs[0].UniqueID})
			}
			w.Advance(10 * time.Second) // the old inbound SA goes, too
			w.Mangle = nil
			w.Advance(time.Minute)
			noErrors(t, moon, sun)
			if fallback {
				assertCPUs(t, moon, -1, 1)
				assertCPUs(t, sun, -1, cpuOf(theirs[1]))
				continue
			}
			for _, n := range []*satest.Node{moon, sun} {
				if s, r, p := n.DP.Counts(); s != 0 || r != 0 || p != 0 {
					t.Errorf("seed %d: %s: %d SAs, %d reserved, %d policies, expected none\n%s", seed, n.Addr, s, r, p, dump(n))
				}
			}
		}
	}
}
