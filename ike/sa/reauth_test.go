package sa_test

import (
	"fmt"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

func reauthEvery(d time.Duration) satest.Option {
	return func(c *sa.Connection) { c.ReauthTime = d }
}

// newest is the CHILD SA of a configuration that a node's kernel sends with: of
// those with an outbound SA, the one installed last.
func newest(n *satest.Node, name string) (best sa.ChildInfo, ok bool) {
	for _, m := range n.Live() {
		for _, c := range m.Info().Children {
			if _, there := n.DP.SA(dataplane.SAKey{Dst: m.Remote().Addr(), Proto: dataplane.ESP, SPI: c.SPIOut}); there && c.Name == name && c.UniqueID >= best.UniqueID {
				best, ok = c, true
			}
		}
	}
	return best, ok
}

// neverLost has every step checked: what either side sends with, the other can
// receive.
func neverLost(t *testing.T, w *satest.World, moon, sun *satest.Node, names ...string) {
	w.Stepped = func(*satest.Node) {
		for _, d := range [][2]*satest.Node{{moon, sun}, {sun, moon}} {
			for _, name := range names {
				c, ok := newest(d[0], name)
				if !ok {
					t.Errorf("%s: nothing to send %s with", d[0].Addr, name)
					continue
				}
				if _, ok := d[1].DP.SA(dataplane.SAKey{Dst: d[1].Addr, Proto: dataplane.ESP, SPI: c.SPIOut}); !ok {
					t.Errorf("%s sends %s with %08x, which the other does not have", d[0].Addr, name, c.SPIOut)
				}
			}
		}
		if t.Failed() {
			w.Stepped = nil
		}
	}
}

func TestReauthenticate(t *testing.T) {
	for _, c := range []struct {
		name      string
		opts      []satest.Option
		moon, sun time.Duration // reauth_time
		within    time.Duration
	}{
		{"initiator's time", nil, time.Hour, 0, time.Hour},
		{"responder's time", nil, 0, time.Hour, time.Hour},
		{"the shorter one", nil, 10 * time.Hour, time.Hour, time.Hour},
		{"pfs", []satest.Option{pfs}, time.Hour, 0, time.Hour},
		{"transport", []satest.Option{transport}, time.Hour, 0, time.Hour},
		// What can't be foreseen is not installed before it is asked for: then the
		// responder waits.
		{"unforeseen", []satest.Option{func(c *sa.Connection) { c.Children[0].IPComp = c.Name == "sun" }}, time.Hour, 0, time.Hour},
		{"encapsulated", []satest.Option{func(c *sa.Connection) { c.Encap = true }}, time.Hour, 0, time.Hour},
		{"unique = keep", []satest.Option{unique(sa.UniquenessKeep)}, time.Hour, 0, time.Hour},
		{"unique = keep, encapsulated", []satest.Option{unique(sa.UniquenessKeep), func(c *sa.Connection) { c.Encap = true }}, time.Hour, 0, time.Hour},
	} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				w := satest.New(seed)
				w.RoundTrip = seed%2 == 0
				moon, sun := satest.Pair(w, c.opts...)
				moon.Env.Conns.All()[0].ReauthTime, sun.Env.Conns.All()[0].ReauthTime = c.moon, c.sun
				moon.Initiate("sun", "", sunAddr)
				w.Settle(100)
				assertUp(t, moon, sun)
				old := moon.Live()[0].Info()
				_, _, policies := moon.DP.Counts()
				neverLost(t, w, moon, sun, "net")
				w.Advance(c.within)
				assertUp(t, moon, sun)
				noErrors(t, moon, sun)
				now := moon.Live()[0].Info()
				if now.UniqueID == old.UniqueID || now.Children[0].UniqueID == old.Children[0].UniqueID || now.Children[0].ReqID != old.Children[0].ReqID {
					t.Errorf("before %+v\nafter %+v", old, now)
				}
				for _, n := range []*satest.Node{moon, sun} {
					if s, r, p := n.DP.Counts(); s != 2 || r != 0 || p != policies {
						t.Errorf("%s: %d SAs, %d reserved, %d policies", n.Addr, s, r, p)
					}
					if d, ok := satest.Find[event.IKEDown](n); !ok || n == moon && d.Reason != "reauthenticated" {
						t.Errorf("%s: the old one: %+v", n.Addr, d)
					}
				}
				w.Advance(c.within) // and again
				assertUp(t, moon, sun)
				if again := moon.Live()[0].Info(); again.UniqueID == now.UniqueID {
					t.Error("only once")
				}
				w.Stepped = nil
				sun.Do(len(sun.Sessions)-1, sa.Terminate{})
				w.Advance(time.Minute)
				assertNothing(t, moon)
				assertNothing(t, sun)
			})
		}
	}
}

// A responder whose initiator does not heed AUTH_LIFETIME does it itself.
func TestReauthenticateFromResponder(t *testing.T) {
	w := satest.New(41)
	moon, sun := satest.Pair(w)
	sun.Env.Conns.All()[0].ReauthTime = time.Hour
	var f forger
	w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		if h.Exchange == wire.ExchangeIKEAuth && h.IsResponse() {
			p.Data = f.rewrite(sun, p.Data, func(ps []wire.Payload) (out []wire.Payload) {
				for _, q := range ps {
					if n, ok := q.(*wire.Notify); !ok || n.NotifyType != wire.NotifyAuthLifetime {
						out = append(out, q)
					}
				}
				if len(out) == len(ps) {
					t.Error("no AUTH_LIFETIME")
				}
				return out
			})
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	w.Mangle = nil
	w.Advance(59 * time.Minute)
	if len(sun.Sessions) != 1 {
		t.Error("too early")
	}
	w.Advance(10 * time.Minute)
	assertUp(t, moon, sun)
	if !sun.Live()[0].Initiator() || moon.Live()[0].Initiator() {
		t.Error("the responder did not become the initiator")
	}
}

// AUTH_LIFETIME in an INFORMATIONAL of an established SA (RFC 4478 3).
func TestAuthLifetimeLater(t *testing.T) {
	w, moon, sun := established(t, 42, true)
	var f forger
	k := &sun.Live()[0].State().IKE
	say := func(data ...byte) {
		b := f.say(k, wire.ExchangeInformational, k.NextOut, false, notify(wire.NotifyAuthLifetime, data...))
		k.NextOut++
		w.Inject(satest.Packet{From: k.Local, To: k.Remote, Data: b})
		w.Settle(10)
	}
	say(1, 2, 3) // of the wrong length: heeded by nobody
	if !moon.Live()[0].Info().ReauthAt.IsZero() {
		t.Error("three octets are no lifetime")
	}
	say(0, 0, 0x0e, 0x10)
	if at := moon.Live()[0].Info().ReauthAt; at.Before(w.Now.Add(50*time.Minute)) || !at.Before(w.Now.Add(time.Hour)) {
		t.Errorf("reauthentication at %s, now %s, expected within the last part of an hour", at, w.Now)
	}
}

// An interrupted reauthentication leaves the old session as it was, and is tried
// again.
func TestReauthenticateInterrupted(t *testing.T) {
	w, moon, sun := established(t, 43, true, reauthEvery(time.Hour))
	old := moon.Live()[0].Info()
	block := true
	w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		if block && h.SPIi != old.SPIi && h.Exchange == wire.ExchangeIKEAuth {
			return nil
		}
		return []satest.Packet{p}
	}
	neverLost(t, w, moon, sun, "net")
	w.Advance(70 * time.Minute)
	if moon.Live()[0].Info().SPIi != old.SPIi || !moon.Live()[0].IsEstablished() {
		t.Fatalf("the old session is gone: %s", dump(moon))
	}
	if n := len(moon.Live()); n > 2 {
		t.Errorf("%d sessions", n)
	}
	block = false
	w.Advance(10 * time.Minute)
	assertUp(t, moon, sun)
	if moon.Live()[0].Info().SPIi == old.SPIi {
		t.Error("never tried again")
	}
}

// What the peer took the last time is not taken any more: the whole offer
// follows, in an exchange of its own.
func TestReauthenticateOtherProposal(t *testing.T) {
	w, moon, sun := established(t, 44, true, satest.ESP("aes128gcm16", "aes256gcm16"))
	ch := *sun.Env.Conns.All()[0].Children[0]
	ch.Proposals = ch.Proposals[1:]
	c := *sun.Env.Conns.All()[0]
	c.Children = []*sa.ChildConfig{&ch}
	sun.Env.Conns = sa.NewConnSet([]*sa.Connection{&c}, nil)
	moon.Do(0, sa.ReauthenticateNow{})
	w.Advance(time.Minute)
	assertUp(t, moon, sun)
	if a := moon.Live()[0].Info().Children[0].Algorithms; a.EncrBits != 256 {
		t.Errorf("%+v", a)
	}
	for _, n := range []*satest.Node{moon, sun} {
		if s, r, p := n.DP.Counts(); s != 2 || r != 0 || p != 3 {
			t.Errorf("%s: %d SAs, %d reserved, %d policies", n.Addr, s, r, p)
		}
	}
}

// All children move; one that came while the new session was set up, too.
func TestReauthenticateSeveralChildren(t *testing.T) {
	for seed := range uint64(4) {
		w := satest.New(seed)
		w.RoundTrip = seed%2 == 0
		moon, sun := satest.Pair(w, secondChild, pfs)
		moon.Initiate("sun", "", sunAddr)
		late := seed >= 2
		if !late {
			moon.Do(0, sa.NewChild{Child: "two"})
		}
		w.Settle(100)
		if !late {
			neverLost(t, w, moon, sun, "net", "two")
		}
		moon.Do(0, sa.ReauthenticateNow{})
		if late {
			moon.Do(0, sa.NewChild{Child: "two"}) // on the old one
		}
		w.Advance(time.Minute)
		agree(t, moon, sun, 2)
		if moon.Live()[0].ID() == 1 {
			t.Errorf("seed %d: still the old session", seed)
		}
		noErrors(t, moon, sun)
	}
}

// Loss, doubles and disorder: whatever happens there is one session in the end,
// and both sides agree on it.
func TestReauthenticateStorm(t *testing.T) {
	done := 0
	for seed := range uint64(100) {
		w, moon, sun := established(t, seed, seed%4 == 0, reauthEvery(2*time.Minute))
		var late []satest.Packet
		w.Mangle = func(p satest.Packet) []satest.Packet {
			switch w.Rand().Uint64() % 6 {
			case 0:
				return nil
			case 1:
				return []satest.Packet{p, p}
			case 2:
				late = append(late, p)
				return nil
			case 3:
				out := append([]satest.Packet{p}, late...)
				late = nil
				return out
			}
			return []satest.Packet{p}
		}
		w.Advance(10 * time.Minute)
		w.Mangle = nil
		for _, n := range []*satest.Node{moon, sun} {
			n.Env.Conns.All()[0].ReauthTime = 0 // the next session has none
		}
		w.Advance(10 * time.Minute)
		if len(moon.Live()) != 1 || len(sun.Live()) != 1 {
			continue // a side gave up on the other, which does not know: no liveness checks here
		}
		done++
		assertUp(t, moon, sun)
		for _, n := range []*satest.Node{moon, sun} {
			if s, r, p := n.DP.Counts(); s != 2 || r != 0 || p != 3 {
				t.Fatalf("seed %d: %s: %d SAs, %d reserved, %d policies", seed, n.Addr, s, r, p)
			}
		}
	}
	if done < 90 {
		t.Errorf("only %d of 100 ended with one session", done)
	}
}

// A peer that came back without its old session, and without saying so, is sent
// to with the new one soon.
func TestHeldBackForAMoment(t *testing.T) {
	w, moon, sun := established(t, 45, true)
	moon.Sessions[0] = nil // the box lost its power
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	m := sun.Live()[1]
	if !m.IsEstablished() || !m.Holds() {
		t.Fatalf("phase %s, holds %v", m.Phase(), m.Holds())
	}
	w.Advance(1500 * time.Millisecond)
	m = sun.Live()[1]
	c := m.Info().Children[0]
	if _, ok := sun.DP.SA(dataplane.SAKey{Dst: moon.Addr, Proto: dataplane.ESP, SPI: c.SPIOut}); m.Holds() || !ok {
		t.Errorf("holds %v, outbound SA there: %v", m.Holds(), ok)
	}
}

// No deadline of these stays in the past, whatever else is under way.
func TestReauthenticationMovesItsDeadlines(t *testing.T) {
	w, moon, _ := established(t, 46, true, reauthEvery(time.Hour))
	w.Mangle = func(satest.Packet) []satest.Packet { return nil }
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID}) // the window is taken
	moon.Do(0, sa.Terminate{})
	moon.Live()[0].State().Reauth.At = w.Now
	moon.Do(0, sa.Tick{})
	if d := moon.Live()[0].Deadline(); !d.After(w.Now) {
		t.Errorf("next deadline %v, now %v", d, w.Now)
	}
	if n := len(moon.Live()); n != 1 {
		t.Errorf("%d sessions: one that is about to go is not replaced", n)
	}
}
