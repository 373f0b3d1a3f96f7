package sa_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

func pfs(c *sa.Connection) {
	c.Children[0].Proposals = []suite.Proposal{satest.Must(suite.ParseESP("aes128gcm16-x25519"))}
}

// established is a pair with a tunnel.
func established(t *testing.T, seed uint64, roundTrip bool, opts ...satest.Option) (*satest.World, *satest.Node, *satest.Node) {
	t.Helper()
	w := satest.New(seed)
	w.RoundTrip = roundTrip
	moon, sun := satest.Pair(w, opts...)
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	return w, moon, sun
}

func noErrors(t *testing.T, nodes ...*satest.Node) {
	t.Helper()
	for _, n := range nodes {
		if f, ok := satest.Find[event.Failed](n); ok {
			t.Errorf("%s: %+v", n.Addr, f)
		}
	}
}

func TestRekeyChild(t *testing.T) {
	for _, c := range []struct {
		name      string
		moon, sun bool // who rekeys
		opts      []satest.Option
	}{
		{"initiator", true, false, nil}, {"responder", false, true, nil}, {"both at once", true, true, nil},
		{"initiator with pfs", true, false, []satest.Option{pfs}}, {"both at once with pfs", true, true, []satest.Option{pfs}},
		{"transport", true, false, []satest.Option{transport}},
	} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				w, moon, sun := established(t, seed, seed%2 == 0, c.opts...)
				old := moon.Live()[0].Info().Children[0]
				_, _, policies := moon.DP.Counts()
				if c.moon {
					moon.Do(0, sa.Rekey{ChildID: old.UniqueID})
				}
				if c.sun {
					sun.Do(0, sa.Rekey{ChildID: sun.Live()[0].Info().Children[0].UniqueID})
				}
				w.Advance(time.Minute)
				assertUp(t, moon, sun)
				noErrors(t, moon, sun)
				now := moon.Live()[0].Info().Children[0]
				if now.SPIIn == old.SPIIn || now.SPIOut == old.SPIOut || now.ReqID == 0 {
					t.Errorf("SPIs before %x/%x, after %x/%x", old.SPIIn, old.SPIOut, now.SPIIn, now.SPIOut)
				}
				for _, n := range []*satest.Node{moon, sun} {
					if s, r, p := n.DP.Counts(); s != 2 || r != 0 || p != policies {
						t.Errorf("%s: %d SAs, %d reserved, %d policies (were %d)", n.Addr, s, r, p, policies)
					}
				}
				sun.Do(0, sa.Terminate{})
				w.Advance(time.Minute)
				assertNothing(t, moon)
				assertNothing(t, sun)
			})
		}
	}
}

// TestRekeyAfterDelete: a child that is to be rekeyed as soon as it is there waits until the one before it is deleted. charon 6.0 does not follow two
// rekeyings and then two deletes: it gives up its outbound policy with the second one, and what it sends is clear text until the next rekeying.
func TestRekeyAfterDelete(t *testing.T) {
	for seed := range uint64(8) {
		w, moon, sun := established(t, seed, seed%2 == 0)
		first := moon.Live()[0].Info().Children[0].UniqueID
		second := uint64(0)
		w.Stepped = func(n *satest.Node) { // before the kernel has done what the step asked for
			if n != moon || second != 0 {
				return
			}
			for _, c := range moon.Live()[0].Info().Children {
				if c.UniqueID != first && c.State == sa.ChildSAInstalled {
					second = c.UniqueID
					moon.Do(0, sa.Rekey{ChildID: second})
				}
			}
		}
		var asked []wire.ExchangeType
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if h := satest.Must(wire.ParseHeader(p.Data)); !h.IsResponse() {
				asked = append(asked, h.Exchange)
			}
			return []satest.Packet{p}
		}
		moon.Do(0, sa.Rekey{ChildID: first})
		w.Settle(100) // with no wait: the delete's answer is what is waited for
		want := []wire.ExchangeType{wire.ExchangeCreateChildSA, wire.ExchangeInformational, wire.ExchangeCreateChildSA, wire.ExchangeInformational}
		if second == 0 || !slices.Equal(asked, want) {
			t.Errorf("seed %d: second %d, asked for %v, expected %v", seed, second, asked, want)
		}
		w.Advance(time.Minute)
		assertUp(t, moon, sun)
		noErrors(t, moon, sun)
		if now := moon.Live()[0].Info().Children[0].UniqueID; now == first || now == second {
			t.Errorf("seed %d: child %d, expected another than %d and %d", seed, now, first, second)
		}
	}
}

// TestOldOutboundOutlasts: a packet that the kernel has on its way through the outbound SA that was rekeyed is not lost with it, whoever rekeys: that one
// stays for a moment. The delete is sent and answered at once: charon 6.0 goes wrong when it rekeys the new one before that.
func TestOldOutboundOutlasts(t *testing.T) {
	w, moon, sun := established(t, 1, false)
	keys := map[*satest.Node]dataplane.SAKey{}
	for _, n := range []*satest.Node{moon, sun} {
		c := n.Live()[0].Info().Children[0]
		keys[n] = dataplane.SAKey{Dst: c.Remote.Addr(), Proto: dataplane.ESP, SPI: c.SPIOut}
	}
	has := func(when string, n *satest.Node, want bool) {
		t.Helper()
		if got := satest.Must(n.DP.HasSA(keys[n])); got != want {
			t.Errorf("%s: %s has the old outbound SA: %v, expected %v", when, n.Addr, got, want)
		}
	}
	deletes := 0
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if h := satest.Must(wire.ParseHeader(p.Data)); h.Exchange == wire.ExchangeInformational && !h.IsResponse() {
			deletes++
		}
		return []satest.Packet{p}
	}
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	w.Advance(400 * time.Millisecond)
	if deletes != 1 {
		t.Errorf("%d deletes, expected one", deletes)
	}
	has("0.4 s after the rekeying", moon, true)
	has("0.4 s after the rekeying", sun, true)
	w.Advance(200 * time.Millisecond)
	has("0.6 s after it", moon, false)
	has("0.6 s after it", sun, false)
	w.Advance(time.Minute)
	assertUp(t, moon, sun)
	noErrors(t, moon, sun)
	for _, n := range []*satest.Node{moon, sun} {
		if s, _, _ := n.DP.Counts(); s != 2 {
			t.Errorf("%s: %d SAs at the end", n.Addr, s)
		}
	}
}

func TestRekeyIKE(t *testing.T) {
	for _, c := range []struct {
		name      string
		moon, sun bool
	}{{"initiator", true, false}, {"responder", false, true}, {"both at once", true, true}} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				w, moon, sun := established(t, seed, seed%2 == 0)
				old := moon.Live()[0].Info()
				if c.moon {
					moon.Do(0, sa.Rekey{})
				}
				if c.sun {
					sun.Do(0, sa.Rekey{})
				}
				w.Advance(5 * time.Minute)
				assertUp(t, moon, sun)
				noErrors(t, moon, sun)
				now := moon.Live()[0].Info()
				if now.SPIi == old.SPIi || now.SPIr == old.SPIr || now.Children[0].SPIIn != old.Children[0].SPIIn {
					t.Errorf("before %s/%s, after %s/%s", old.SPIi, old.SPIr, now.SPIi, now.SPIr)
				}
				for _, n := range []*satest.Node{moon, sun} {
					if others := len(n.Live()[0].State().Others); others != 0 {
						t.Errorf("%s: %d other IKE SAs left", n.Addr, others)
					}
				}
				// The new IKE SA carries on: rekey a child over it, then end it.
				sun.Do(0, sa.Rekey{ChildID: sun.Live()[0].Info().Children[0].UniqueID})
				w.Advance(time.Minute)
				assertUp(t, moon, sun)
				moon.Do(0, sa.Terminate{})
				w.Advance(time.Minute)
				assertNothing(t, moon)
				assertNothing(t, sun)
			})
		}
	}
}

// TestRekeyStorm: random rekeyings and deletes from both sides over a network
// that loses, doubles and delays; afterwards both sides agree.
func TestRekeyStorm(t *testing.T) {
	for seed := range uint64(400) {
		opts, sas := []satest.Option{pfs}, 2
		if seed%8 < 3 {
			opts, sas = append(opts, ipcomp), 4
		}
		w, moon, sun := established(t, seed, seed%4 == 0, opts...)
		var late []satest.Packet
		w.Mangle = func(p satest.Packet) []satest.Packet {
			out := []satest.Packet{p}
			switch w.Rand().Uint64() % 8 {
			case 0:
				out = nil
			case 1:
				out = append(out, p)
			case 2:
				late, out = append(late, p), nil
			case 3:
				out, late = append(out, late...), nil
			}
			return out
		}
		for range 12 {
			for _, n := range []*satest.Node{moon, sun} {
				for i, m := range n.Sessions {
					if m == nil || !m.IsEstablished() {
						continue
					}
					switch w.Rand().Uint64() % 4 {
					case 0:
						n.Do(i, sa.Rekey{})
					case 1, 2:
						if ch := m.Info().Children; len(ch) > 0 {
							n.Do(i, sa.Rekey{ChildID: ch[len(ch)-1].UniqueID})
						}
					}
				}
			}
			for range w.Rand().Uint64() % 6 {
				w.Deliver()
			}
			w.Advance(time.Duration(w.Rand().Uint64()%20) * time.Second)
		}
		w.Mangle = nil
		w.Advance(10 * time.Minute)
		for _, n := range []*satest.Node{moon, sun} {
			for _, e := range n.Events {
				if f, ok := e.(event.Failed); ok && f.Cause != event.PeerTimeout {
					t.Fatalf("seed %d: %s: %+v", seed, n.Addr, f)
				}
			}
		}
		if len(moon.Live()) == 0 && len(sun.Live()) == 0 {
			continue
		}
		if len(moon.Live()) != 1 || len(sun.Live()) != 1 {
			// One side gave up on a network that lost too much; without liveness
			// checks the other does not know yet.
			continue
		}
		a, b := moon.Live()[0].Info(), sun.Live()[0].Info()
		if len(a.Children) != 1 || len(b.Children) != 1 {
			t.Errorf("seed %d: %d and %d children", seed, len(a.Children), len(b.Children))
			continue
		}
		assertUp(t, moon, sun)
		for _, n := range []*satest.Node{moon, sun} {
			if s, r, p := n.DP.Counts(); s != sas || r != 0 || p != 3 {
				t.Fatalf("seed %d: %s: %d SAs, %d reserved, %d policies", seed, n.Addr, s, r, p)
			}
			if o := len(n.Live()[0].State().Others); o != 0 {
				t.Fatalf("seed %d: %s: %d other IKE SAs", seed, n.Addr, o)
			}
		}
	}
}

// TestCollisions lets both sides begin at once and expects either to see what met what.
func TestCollisions(t *testing.T) {
	child := func(n *satest.Node) uint64 { return n.Live()[0].Info().Children[0].UniqueID }
	rekeyChild := func(n *satest.Node) { n.Do(0, sa.Rekey{ChildID: child(n)}) }
	rekeyIKE := func(n *satest.Node) { n.Do(0, sa.Rekey{}) }
	deleteChild := func(n *satest.Node) { n.Do(0, sa.Terminate{ChildID: child(n)}) }
	deleteIKE := func(n *satest.Node) { n.Do(0, sa.Terminate{}) }
	do := map[event.Exchange]func(*satest.Node){
		event.RekeyChild: rekeyChild, event.RekeyIKE: rekeyIKE, event.DeleteChild: deleteChild, event.DeleteIKE: deleteIKE,
	}
	for _, c := range [][2]event.Exchange{
		{event.RekeyChild, event.RekeyChild}, {event.RekeyIKE, event.RekeyIKE}, {event.RekeyChild, event.RekeyIKE},
		{event.RekeyChild, event.DeleteChild}, {event.DeleteChild, event.DeleteChild}, {event.RekeyIKE, event.DeleteIKE},
		{event.DeleteChild, event.RekeyIKE}, {event.DeleteIKE, event.DeleteIKE}, {event.RekeyChild, event.DeleteIKE},
	} {
		t.Run(string(c[0]+", "+c[1]), func(t *testing.T) {
			w, moon, sun := established(t, 1, true)
			do[c[0]](moon)
			do[c[1]](sun)
			w.Advance(time.Minute)
			if got, ok := satest.Find[event.Collision](moon); !ok || got.Ours != c[0] || got.Theirs != c[1] {
				t.Errorf("moon: expected %s and %s, got %+v", c[0], c[1], got)
			}
			if got, ok := satest.Find[event.Collision](sun); !ok || got.Ours != c[1] || got.Theirs != c[0] {
				t.Errorf("sun: expected %s and %s, got %+v", c[1], c[0], got)
			}
		})
	}
}

// TestRekeyOfTheNewChild: a peer may rekey the CHILD SA that our request has just made before we have it. It is not told that there is none, for then it
// would take it out.
func TestRekeyOfTheNewChild(t *testing.T) {
	w, moon, sun := established(t, 83, true, secondChild)
	var f forger
	var held []satest.Packet
	var answer []wire.NotifyType
	w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		switch from := p.From.Addr(); {
		case h.Exchange != wire.ExchangeCreateChildSA:
		case h.IsResponse() && from == sun.Addr:
			held = append(held, p)
			return nil
		case h.IsResponse():
			f.rewrite(moon, p.Data, func(ps []wire.Payload) []wire.Payload {
				for n := range wire.All[*wire.Notify](ps) {
					answer = append(answer, n.NotifyType)
				}
				return ps
			})
		case from == sun.Addr && len(answer) == 0: // as if it were for the new one
			children := sun.Live()[0].Info().Children
			spi := binary.BigEndian.AppendUint32(nil, children[len(children)-1].SPIIn)
			p.Data = f.rewrite(sun, p.Data, func(ps []wire.Payload) []wire.Payload {
				return append([]wire.Payload{&wire.Notify{Protocol: wire.ProtoESP, SPI: spi, NotifyType: wire.NotifyRekeySA}}, ps...)
			})
		}
		return []satest.Packet{p}
	}
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	w.Settle(100)
	if len(held) != 1 || len(sun.Live()[0].Info().Children) != 2 {
		t.Fatalf("%d answers held, %s", len(held), dump(sun))
	}
	sun.Do(0, sa.NewChild{Child: "two"})
	w.Settle(100)
	if len(answer) != 1 || answer[0] != wire.NotifyTemporaryFailure {
		t.Errorf("answered %v, expected TEMPORARY_FAILURE", answer)
	}
	w.Mangle = nil
	moon.Do(0, sa.Received{Local: held[0].To, Remote: held[0].From, Data: held[0].Data})
	w.Advance(time.Minute)
	for _, n := range []*satest.Node{moon, sun} {
		if _, children := up(n); children != 2 {
			t.Errorf("%d CHILD SAs\n%s", children, dump(n))
		}
	}
}

// TestRekeyOfTheOutcome: what has taken over from a child is not rekeyed by the peer as long as we have not deleted that one, or the one that lost to it;
// then it is. Sun's engine would wait by itself, so a request of it for another child is made one for this.
func TestRekeyOfTheOutcome(t *testing.T) {
	for _, both := range []bool{false, true} {
		for seed := range uint64(6) {
			w, moon, sun := established(t, seed, true, secondChild)
			var f forger
			var target []byte // what sun's request is for
			var answers []wire.NotifyType
			w.Mangle = func(p satest.Packet) []satest.Packet {
				h := satest.Must(wire.ParseHeader(p.Data))
				switch from := p.From.Addr(); {
				case target == nil && from == moon.Addr && h.Exchange == wire.ExchangeInformational && !h.IsResponse():
					return nil // the delete is under way for long enough to ask
				case target == nil || h.Exchange != wire.ExchangeCreateChildSA:
				case from == sun.Addr && !h.IsResponse():
					p.Data = f.rewrite(sun, p.Data, func(ps []wire.Payload) []wire.Payload {
						return append([]wire.Payload{&wire.Notify{Protocol: wire.ProtoESP, SPI: target, NotifyType: wire.NotifyRekeySA}}, ps...)
					})
				case from == moon.Addr && h.IsResponse():
					f.rewrite(moon, p.Data, func(ps []wire.Payload) []wire.Payload {
						for n := range wire.All[*wire.Notify](ps) {
							answers = append(answers, n.NotifyType)
						}
						return ps
					})
				}
				return []satest.Packet{p}
			}
			moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
			if both {
				sun.Do(0, sa.Rekey{ChildID: sun.Live()[0].Info().Children[0].UniqueID})
			}
			w.Settle(100)
			for _, c := range moon.Live()[0].Info().Children {
				if c.State == sa.ChildSAInstalled {
					target = binary.BigEndian.AppendUint32(nil, c.SPIOut) // the newest is the last
				}
			}
			sun.Do(0, sa.NewChild{Child: "two"})
			w.Settle(100)
			if len(answers) != 1 || answers[0] != wire.NotifyTemporaryFailure {
				t.Errorf("both %v, seed %d: before the delete answered %v, expected TEMPORARY_FAILURE\n%s", both, seed, answers, dump(moon))
			}
			w.Advance(time.Minute) // the delete is sent again, and sun asks again
			if len(answers) < 2 || answers[len(answers)-1] == wire.NotifyTemporaryFailure {
				t.Errorf("both %v, seed %d: at last answered %v, expected no more TEMPORARY_FAILURE\n%s", both, seed, answers, dump(moon))
			}
		}
	}
}

// TestNewIKEDeletedFirst: the peer has rekeyed the IKE SA, and ends the session on the new one while its delete of the old one is lost. That is not the loser
// of a collision, but all that there is.
func TestNewIKEDeletedFirst(t *testing.T) {
	for seed := range uint64(4) {
		w, moon, sun := established(t, seed, seed%2 == 0)
		old := moon.Live()[0].State().IKE.SPIi
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if h := satest.Must(wire.ParseHeader(p.Data)); h.SPIi == old && h.Exchange == wire.ExchangeInformational {
				return nil
			}
			return []satest.Packet{p}
		}
		moon.Do(0, sa.Rekey{})
		w.Settle(100)
		moon.Do(0, sa.Terminate{})
		w.Advance(10 * time.Second)
		assertNothing(t, moon)
		assertNothing(t, sun)
	}
}

// TestDeleteBeforeOtherTasks: what was rekeyed is deleted before anything else is asked for: until then the peer may not rekey what came of it.
func TestDeleteBeforeOtherTasks(t *testing.T) {
	for seed := range uint64(4) {
		w, moon, sun := established(t, seed, true, secondChild)
		var asked []wire.ExchangeType
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if h := satest.Must(wire.ParseHeader(p.Data)); !h.IsResponse() && p.From.Addr() == moon.Addr {
				asked = append(asked, h.Exchange)
			}
			return []satest.Packet{p}
		}
		moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
		moon.Do(0, sa.NewChild{Child: "two"})
		w.Settle(100)
		if want := []wire.ExchangeType{wire.ExchangeCreateChildSA, wire.ExchangeInformational, wire.ExchangeCreateChildSA}; !slices.Equal(asked, want) {
			t.Errorf("seed %d: asked for %v, expected %v", seed, asked, want)
		}
		noErrors(t, moon, sun)
	}
}
