package sa_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// natBox stands before one gateway: what it sends comes from public, its ports
// moved by shift. What comes for another mapping is lost.
type natBox struct {
	inside, public netip.Addr
	shift          uint16
}

var publicAddr = netip.MustParseAddr("198.51.100.7")

func (b *natBox) through(p satest.Packet) []satest.Packet {
	if p.From.Addr() == b.inside {
		p.From = netip.AddrPortFrom(b.public, p.From.Port()+b.shift)
	}
	if p.To.Addr() == b.inside {
		return nil // private
	}
	if p.To.Addr() == b.public {
		p.To = netip.AddrPortFrom(b.inside, p.To.Port()-b.shift)
	}
	return []satest.Packet{p}
}

// natted is a pair with a tunnel and a NAT before moon.
func natted(t *testing.T, opts ...satest.Option) (*satest.World, *satest.Node, *satest.Node, *natBox) {
	t.Helper()
	w := satest.New(1)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, opts...)
	box := &natBox{moon.Addr, publicAddr, 1000}
	w.Mangle = box.through
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	for _, n := range []*satest.Node{moon, sun} {
		if len(n.Live()) != 1 || !n.Live()[0].IsEstablished() || len(n.Live()[0].Info().Children) != 1 {
			t.Fatalf("%s: no tunnel: %+v", n.Addr, n.Events)
		}
	}
	return w, moon, sun, box
}

// standsAt checks that the node's only child is in the kernel at a place, both
// SAs and all templates, and nothing of it elsewhere.
func standsAt(t *testing.T, n *satest.Node, local, remote string, encap bool) {
	t.Helper()
	l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	info := n.Live()[0].Info()
	if info.Local != l || info.Remote != r {
		t.Errorf("the session is between %s and %s, expected %s and %s", info.Local, info.Remote, l, r)
	}
	snap, err := n.DP.List()
	if err != nil || len(snap.SAs) != 2 {
		t.Fatalf("%d SAs, %v, expected 2", len(snap.SAs), err)
	}
	for _, s := range snap.SAs {
		src, dst := r, l
		if s.SPI == info.Children[0].SPIOut {
			src, dst = l, r
		}
		if s.Dst != dst.Addr() || s.Src != src.Addr() || (s.Encap != nil) != encap {
			t.Errorf("SA %+v, expected it from %s to %s, encapsulated: %v", s, src, dst, encap)
		}
		if e := s.Encap; e != nil && (e.SrcPort != src.Port() || e.DstPort != dst.Port()) {
			t.Errorf("SA %x in UDP %+v, expected ports of %s and %s", s.SPI, e, src, dst)
		}
	}
	for _, p := range snap.Policies {
		src, dst := r, l
		if p.Dir == dataplane.Out {
			src, dst = l, r
		}
		if tmpl := p.Templates[0]; tmpl.Mode != dataplane.Transport && (tmpl.Src != src.Addr() || tmpl.Dst != dst.Addr()) {
			t.Errorf("policy %+v, expected its template from %s to %s", p, src, dst)
		}
	}
}

// TestPeerMappingMoves: a new request through another mapping moves the session
// and its CHILD SAs; one from the side that is not behind the NAT does not.
func TestPeerMappingMoves(t *testing.T) {
	for _, mode := range []satest.Option{func(*sa.Connection) {}, transport} {
		w, moon, sun, box := natted(t, mode)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:5500", true)
		box.shift = 2000
		sun.Do(0, sa.NetworkChanged{}) // what sun asks does not arrive, and it does not follow
		w.Settle(100)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:5500", true)
		moon.Do(0, sa.NetworkChanged{})
		w.Settle(100)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:6500", true)
		box.public = netip.MustParseAddr("198.51.100.99")
		moon.Do(0, sa.Rekey{}) // whatever it is about, also over the rekeying of the IKE SA
		w.Advance(time.Minute)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.99:6500", true)
		standsAt(t, moon, "192.0.2.1:4500", "192.0.2.2:4500", true)
		moved := 0
		for _, e := range sun.Events {
			if _, ok := e.(event.IKEMoved); ok {
				moved++
			}
		}
		if moved != 2 {
			t.Errorf("%d moves, expected 2", moved)
		}
		noErrors(t, moon, sun)
		moon.Do(0, sa.Terminate{})
		w.Advance(time.Minute)
		for _, n := range []*satest.Node{moon, sun} {
			if sas, reserved, policies := n.DP.Counts(); sas+reserved+policies != 0 {
				t.Errorf("%s: %d SAs, %d SPIs, %d policies left", n.Addr, sas, reserved, policies)
			}
		}
	}
}

// TestReplayMovesNothing: a copy of a request, or of an answer, from elsewhere
// moves nobody, nor does a NAT that was not there from the beginning.
func TestReplayMovesNothing(t *testing.T) {
	w, moon, sun, box := natted(t)
	var seen []satest.Packet
	w.Mangle = func(p satest.Packet) []satest.Packet {
		out := box.through(p)
		seen = append(seen, out...)
		return out
	}
	moon.Do(0, sa.NetworkChanged{})
	sun.Do(0, sa.NetworkChanged{})
	w.Settle(100)
	w.Mangle = nil
	if len(seen) != 4 {
		t.Fatalf("%d messages, expected two exchanges", len(seen))
	}
	for _, p := range seen {
		for i, n := range []*satest.Node{moon, sun} {
			n.Do(0, sa.Received{Local: p.To, Remote: netip.MustParseAddrPort([]string{"198.51.100.66:4500", "198.51.100.66:77"}[i]), Data: append([]byte(nil), p.Data...)})
		}
	}
	w.Settle(100)
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:5500", true)
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.2:4500", true)

	w, moon, sun = established(t, 1, true)
	box = &natBox{moon.Addr, publicAddr, 0}
	w.Mangle = box.through
	moon.Do(0, sa.NetworkChanged{})
	w.Settle(100)
	standsAt(t, sun, "192.0.2.2:500", "192.0.2.1:500", false)
}

// mapping is the kernel's word that moon's packets come from elsewhere.
func mapping(n *satest.Node, remote string) sa.Mapped {
	return sa.Mapped{SPI: n.Live()[0].Info().Children[0].SPIIn, Remote: netip.MustParseAddrPort(remote)}
}

func TestKernelSeesMapping(t *testing.T) {
	_, moon, sun, _ := natted(t)
	sun.Do(0, mapping(sun, "198.51.100.7:6000"))
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:6000", true)
	sun.Do(0, mapping(sun, "198.51.100.8:6001"))
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.8:6001", true)
	sun.Do(0, sa.Mapped{SPI: 0x12345, Remote: netip.MustParseAddrPort("198.51.100.7:1")}) // no child of ours
	moon.Do(0, mapping(moon, "198.51.100.9:6000"))                                        // it is behind the NAT itself
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.8:6001", true)
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.2:4500", true)
	noErrors(t, moon, sun)
}

// TestBothBehindNAT: a tunnel comes up, and who is behind a NAT follows nobody;
// who only pretends to be does.
func TestBothBehindNAT(t *testing.T) {
	for _, pretends := range []bool{false, true} {
		w := satest.New(1)
		w.RoundTrip = true
		moon, sun := satest.Pair(w, func(c *sa.Connection) { c.Encap = pretends && c.Name == "moon" })
		public := netip.MustParseAddr("203.0.113.2")
		mine, theirs := &natBox{moon.Addr, publicAddr, 1000}, &natBox{sun.Addr, public, 0}
		peer := public
		w.Mangle = func(p satest.Packet) []satest.Packet {
			var out []satest.Packet
			for _, q := range mine.through(p) {
				out = append(out, theirs.through(q)...)
			}
			return out
		}
		if pretends {
			w.Mangle, peer = mine.through, sun.Addr
		}
		moon.Initiate("sun", "", peer)
		w.Settle(100)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:5500", true)
		standsAt(t, moon, "192.0.2.1:4500", peer.String()+":4500", true)
		if i := sun.Live()[0].Info(); !i.NATLocal || !i.NATRemote || i.NATFake != pretends {
			t.Errorf("sun finds %+v", i)
		}
		mine.shift = 2000
		moon.Do(0, sa.NetworkChanged{})
		w.Settle(100)
		sun.Do(0, mapping(sun, "198.51.100.7:6500"))
		want := "198.51.100.7:5500"
		if pretends {
			want = "198.51.100.7:6500"
		}
		standsAt(t, sun, "192.0.2.2:4500", want, true)
	}
}

// TestMoveWaitsForRemoval: while the kernel takes something out, nothing moves;
// afterwards what is left does.
func TestMoveWaitsForRemoval(t *testing.T) {
	w, moon, sun, _ := natted(t)
	id := moon.Live()[0].Info().Children[0].UniqueID
	var held []sa.Job
	box := &natBox{moon.Addr, publicAddr, 1000}
	w.Mangle = func(p satest.Packet) []satest.Packet {
		for _, q := range box.through(p) {
			if h := satest.Must(wire.ParseHeader(q.Data)); q.To.Addr() == sunAddr && h.Exchange == wire.ExchangeInformational && !h.IsResponse() && held == nil {
				held = jobsOf(sun.Live()[0].Handle(&sun.Env, sa.Received{Local: q.To, Remote: q.From, Data: q.Data}))
				continue
			}
			return []satest.Packet{q}
		}
		return nil
	}
	moon.Do(0, sa.Rekey{ChildID: id})
	w.Settle(100)
	if len(held) != 1 {
		t.Fatalf("%d jobs at the delete of the rekeyed child, expected one", len(held))
	}
	m := sun.Live()[0]
	for _, c := range m.Info().Children {
		if jobs := jobsOf(m.Handle(&sun.Env, sa.Mapped{SPI: c.SPIIn, Remote: netip.MustParseAddrPort("198.51.100.7:6500")})); len(jobs) != 0 {
			t.Errorf("%+v while the kernel takes a child out", jobs)
		}
	}
	if err := sun.DP.Apply(held[0].Spec.(sa.Kernel).Ops); err != nil {
		t.Fatal(err)
	}
	box.shift = 2000
	sun.Do(0, sa.JobDone{ID: held[0].ID})
	w.Advance(time.Minute)
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:6500", true)
	noErrors(t, moon, sun)
}

// jobsOf are the jobs that a machine asks for.
func jobsOf(acts []sa.Action) (jobs []sa.Job) {
	for _, a := range acts {
		if j, ok := a.(sa.Job); ok {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// TestCrashWhileMoving: whatever of a move was done before a crash, the state
// still says where everything is.
func TestCrashWhileMoving(t *testing.T) {
	for _, done := range []bool{false, true} {
		for _, then := range []string{"goes on", "ends"} {
			_, _, sun, _ := natted(t)
			m := sun.Live()[0]
			jobs := jobsOf(m.Handle(&sun.Env, mapping(sun, "198.51.100.8:6001")))
			if len(jobs) != 1 {
				t.Fatalf("%d jobs, expected the move", len(jobs))
			}
			if p, ok := jobs[0].Spec.(sa.Kernel).Ops[0].(dataplane.InstallPolicy); !ok || p.Policy.Dir != dataplane.Out || p.Policy.Verdict != dataplane.Block {
				t.Errorf("the move begins with %+v, expected that the outbound policy drops meanwhile", jobs[0].Spec.(sa.Kernel).Ops[0])
			}
			if done {
				if err := sun.DP.Apply(jobs[0].Spec.(sa.Kernel).Ops); err != nil {
					t.Fatal(err)
				}
			}
			m, err := sa.Decode(m.Encode(nil), sun.Env.Conns)
			if err != nil {
				t.Fatal(err)
			}
			sun.Sessions[0] = m
			jobs = jobsOf(m.Resume(&sun.Env))
			if len(jobs) != 1 {
				t.Fatalf("%d jobs after the restart, expected the move again", len(jobs))
			}
			if then == "ends" {
				if more := jobsOf(m.Handle(&sun.Env, sa.Abort{})); len(more) != 0 {
					t.Fatalf("%+v while the kernel moves the child", more)
				}
			}
			if err := sun.DP.Apply(jobs[0].Spec.(sa.Kernel).Ops); err != nil {
				t.Fatal(err)
			}
			sun.Do(0, sa.JobDone{ID: jobs[0].ID})
			if then == "goes on" {
				standsAt(t, sun, "192.0.2.2:4500", "198.51.100.8:6001", true)
				sun.Do(0, sa.Abort{})
			}
			if sas, reserved, policies := sun.DP.Counts(); sas+reserved+policies != 0 {
				t.Errorf("%v, %s: %d SAs, %d SPIs, %d policies left", done, then, sas, reserved, policies)
			}
		}
	}
}

// TestChildDeletedWhileMoving: the peer's delete, in the middle of a move, waits
// for it, and nothing is left at either place.
func TestChildDeletedWhileMoving(t *testing.T) {
	w, moon, sun, box := natted(t)
	m := sun.Live()[0]
	move := jobsOf(m.Handle(&sun.Env, mapping(sun, "198.51.100.7:6500")))[0]
	box.shift = 2000
	moon.Do(0, sa.Terminate{Child: "net"})
	w.Settle(100)
	if err := sun.DP.Apply(move.Spec.(sa.Kernel).Ops); err != nil {
		t.Fatal(err)
	}
	sun.Do(0, sa.JobDone{ID: move.ID})
	w.Settle(100)
	for _, n := range []*satest.Node{moon, sun} {
		if sas, reserved, policies := n.DP.Counts(); sas+reserved+policies != 0 {
			t.Errorf("%s: %d SAs, %d SPIs, %d policies left", n.Addr, sas, reserved, policies)
		}
		if len(n.Live()) != 1 || len(n.Live()[0].Info().Children) != 0 {
			t.Errorf("%s: expected the IKE SA without a child", n.Addr)
		}
	}
}

// TestMoveRefused: a child that the kernel can't move is replaced.
func TestMoveRefused(t *testing.T) {
	w, moon, sun, _ := natted(t)
	old := sun.Live()[0].Info().Children[0].UniqueID
	sun.DP.FailNext(func(op dataplane.Op) error {
		if _, ok := op.(dataplane.MoveSA); ok {
			return errors.New("out of memory")
		}
		return nil
	})
	w.Mangle = (&natBox{moon.Addr, publicAddr, 2000}).through
	moon.Do(0, sa.NetworkChanged{})
	w.Advance(time.Minute)
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:6500", true)
	if got := sun.Live()[0].Info().Children[0].UniqueID; got == old {
		t.Error("the child that could not be moved is still there")
	}
	if f, ok := satest.Find[event.Failed](sun); !ok || f.Cause != event.KernelRefused {
		t.Errorf("%+v, expected the kernel's refusal", f)
	}
}

// TestMoveDuringRekey: an exchange that began before a move installs its child
// where its SPI is reserved, and the child follows.
func TestMoveDuringRekey(t *testing.T) {
	for at := range 4 {
		w, moon, sun, _ := natted(t)
		n := 0
		box := &natBox{moon.Addr, publicAddr, 1000}
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if n++; n == at+1 {
				box.shift += 10
			}
			return box.through(p)
		}
		moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
		w.Advance(time.Minute)
		moon.Do(0, sa.NetworkChanged{})
		w.Advance(time.Minute)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:5510", true)
		noErrors(t, moon, sun)
	}
}
