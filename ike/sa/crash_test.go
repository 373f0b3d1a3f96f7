package sa_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// withTokens gives both gateways secrets of their own and has them answer for IKE
// SAs that they do not know.
func withTokens(moon, sun *satest.Node) {
	moon.Env.Settings.CrashSecret = secret.Bytes(bytes.Repeat([]byte{'m'}, 32))
	sun.Env.Settings.CrashSecret = secret.Bytes(bytes.Repeat([]byte{'s'}, 32))
	moon.Refuses, sun.Refuses = true, true
}

// tokens is a pair with a tunnel and crash detection.
func tokens(t *testing.T, seed uint64, opts ...satest.Option) (*satest.World, *satest.Node, *satest.Node) {
	t.Helper()
	w := satest.New(seed)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, opts...)
	withTokens(moon, sun)
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	return w, moon, sun
}

// unprotected is the notice of a gateway that does not know the IKE SA, made for
// whom knows it.
func unprotected(k *sa.IKE, ps ...wire.Payload) []byte {
	h := wire.Header{SPIi: k.SPIi, SPIr: k.SPIr, Exchange: wire.ExchangeInformational, Flags: wire.FlagResponse}
	if !k.Initiator {
		h.Flags |= wire.FlagInitiator
	}
	return wire.AppendMessage(nil, h, ps)
}

// shown captures the tokens that pass the network in clear.
func shown(w *satest.World) *[][]byte {
	var got [][]byte
	w.Mangle = func(p satest.Packet) []satest.Packet {
		msg := satest.Must(wire.ParseMessage(p.Data))
		if n, ok := wire.FindNotify(msg.Clear(), wire.NotifyQuickCrashDetection); ok {
			got = append(got, bytes.Clone(n.Data))
		}
		return []satest.Packet{p}
	}
	return &got
}

// TestCrashIsFound: the first message to a gateway that has lost the IKE SA ends it,
// be it rekeyed or not and whoever has done that, and dpd_action follows.
func TestCrashIsFound(t *testing.T) {
	restart := func(c *sa.Connection) { c.Children[0].DPDAction = sa.FollowStart | sa.FollowTrap }
	for _, c := range []struct {
		name      string
		moon, sun int // rekeyings of the IKE SA by each
		both      bool
	}{{name: "new"}, {"rekeyed by the one who stays", 1, 0, false}, {"rekeyed by the one who crashes", 0, 1, false}, {"both in turn", 2, 1, false}, {"both at once", 0, 0, true}} {
		for _, moonDies := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", c.name, moonDies), func(t *testing.T) {
				w, moon, sun := tokens(t, 71, restart)
				stays, dies := moon, sun
				if moonDies {
					stays, dies = sun, moon
				}
				for range c.moon {
					stays.Do(0, sa.Rekey{})
					w.Advance(5 * time.Minute)
				}
				for range c.sun {
					dies.Do(0, sa.Rekey{})
					w.Advance(5 * time.Minute)
				}
				if c.both {
					moon.Do(0, sa.Rekey{})
					sun.Do(0, sa.Rekey{})
					w.Advance(5 * time.Minute)
				}
				assertUp(t, moon, sun)
				noErrors(t, moon, sun)
				dies.Crash()
				stays.Do(0, sa.NetworkChanged{}) // asks at once
				w.Settle(10)
				w.Advance(11 * time.Second) // its last answer lingers
				assertNothing(t, stays)
				f, ok := satest.Find[event.Failed](stays)
				if !ok || f.Cause != event.PeerLostIKE || f.ByPeer {
					t.Errorf("failure: %+v", f)
				}
				if len(stays.Restarts) != 1 || len(stays.Traps) != 1 {
					t.Errorf("restarts %v, traps %v: expected dpd_action's", stays.Restarts, stays.Traps)
				}
			})
		}
	}
}

// TestCrashWithoutTokens: where one side has crash detection off or no secret, there
// is no token, and DPD does it all.
func TestCrashWithoutTokens(t *testing.T) {
	for name, change := range map[string]func(moon, sun *satest.Node){
		"taker off":            func(moon, _ *satest.Node) { moon.Env.Settings.CrashDetection = false },
		"maker off":            func(_, sun *satest.Node) { sun.Env.Settings.CrashDetection = false },
		"maker without secret": func(_, sun *satest.Node) { sun.Env.Settings.CrashSecret = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := satest.New(72)
			moon, sun := satest.Pair(w)
			withTokens(moon, sun)
			change(moon, sun)
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			assertUp(t, moon, sun)
			moon.Do(0, sa.Rekey{})
			w.Settle(100)
			sun.Crash()
			moon.Do(0, sa.NetworkChanged{})
			w.Settle(10)
			if !moon.Live()[0].IsEstablished() {
				t.Error("ended without a token that counts")
			}
			if m := moon.Live()[0].State(); m.IKE.PeerToken != [32]byte{} {
				t.Error("a token was kept")
			}
		})
	}
}

// TestWrongTokens: nothing but the token of the very IKE SA does anything.
func TestWrongTokens(t *testing.T) {
	w, moon, sun := tokens(t, 73)
	got := shown(w)
	// The token of an IKE SA that is gone, shown as it should be.
	moon.Do(0, sa.NetworkChanged{})
	sun.Crash()
	w.Settle(10)
	if len(*got) != 1 {
		t.Fatalf("%d tokens shown, expected one", len(*got))
	}
	old := (*got)[0]
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	moon.Sessions, sun.Sessions = moon.Live(), sun.Live()
	assertUp(t, moon, sun)
	moon.Events = nil

	k := &moon.Live()[0].State().IKE
	lost := notify(wire.NotifyInvalidIKESPI)
	qcd := func(token []byte) wire.Payload { return notify(wire.NotifyQuickCrashDetection, token...) }
	before := moon.Live()[0].Encode(nil)
	for name, ps := range map[string][]wire.Payload{
		"none":            {lost},
		"replayed":        {lost, qcd(old)},
		"zeros":           {lost, qcd(make([]byte, 32))},
		"empty":           {lost, qcd(nil)},
		"the digest":      {lost, qcd(k.PeerToken[:])},
		"ours":            {lost, qcd(sa.CrashToken(moon.Env.Settings.CrashSecret, k.SPIi, k.SPIr))},
		"a ninth":         append(append([]wire.Payload{lost}, repeat(qcd(old), 8)...), qcd(sa.CrashToken(sun.Env.Settings.CrashSecret, k.SPIr, k.SPIi))),
		"without the SPI": {qcd(sa.CrashToken(sun.Env.Settings.CrashSecret, k.SPIr, k.SPIi))},
	} {
		moon.Do(0, sa.Received{Local: k.Local, Remote: k.Remote, Data: unprotected(k, ps...)})
		if !bytes.Equal(before, moon.Live()[0].Encode(nil)) {
			t.Errorf("%s: the state changed", name)
		}
	}
	wrong := 0
	for _, e := range moon.Events {
		if d, ok := e.(event.Discarded); ok && d.Reason == sa.WrongToken {
			wrong++
		}
	}
	if wrong != 6 || len(moon.Events) != 8 {
		t.Errorf("%d events, %d of wrong tokens, expected 8 and 6: %+v", len(moon.Events), wrong, moon.Events)
	}
	// Up to eight are looked at, and the fourth must count.
	right := qcd(sa.CrashToken(sun.Env.Settings.CrashSecret, k.SPIr, k.SPIi))
	moon.Do(0, sa.Received{Local: k.Local, Remote: k.Remote, Data: unprotected(k, append(append([]wire.Payload{lost}, repeat(qcd(old), 3)...), right)...)})
	w.Settle(10)
	assertNothing(t, moon)
}

func repeat(p wire.Payload, n int) (ps []wire.Payload) {
	for range n {
		ps = append(ps, p)
	}
	return ps
}

// TestTokenOfLiveSAIsNotShown: however a stranger turns the header of a message, it
// gets no token by which the SA that lives could be ended.
func TestTokenOfLiveSAIsNotShown(t *testing.T) {
	_, moon, sun := tokens(t, 74)
	tokenOf := func(n *satest.Node) [32]byte { return n.Live()[0].State().IKE.PeerToken }
	for _, n := range []*satest.Node{moon, sun} {
		k := &n.Live()[0].State().IKE
		for _, flags := range []wire.Flags{0, wire.FlagInitiator, wire.FlagResponse, wire.FlagResponse | wire.FlagInitiator} {
			h := wire.Header{SPIi: k.SPIi, SPIr: k.SPIr, Exchange: wire.ExchangeInformational, Next: wire.PayloadSK, Flags: flags}
			if n.Live()[0].Owns(sa.OwnSPI(h)) {
				continue // the session gets it
			}
			msg := satest.Must(wire.ParseMessage(sa.RefuseUnknown(n.Env.Settings, 0, h)))
			shown, ok := wire.FindNotify(msg.Payloads, wire.NotifyQuickCrashDetection)
			if !ok {
				t.Errorf("flags %v: no token of an SA that we seem not to know", flags)
				continue
			}
			for _, other := range []*satest.Node{moon, sun} {
				if sha256.Sum256(shown.Data) == tokenOf(other) {
					t.Errorf("flags %v: the token of a live SA", flags)
				}
			}
		}
	}
}

func TestRefuseUnknown(t *testing.T) {
	set := sa.DefaultSettings()
	set.CrashSecret = secret.Bytes(bytes.Repeat([]byte{1}, 32))
	const own, peer = wire.SPI(0x0107_0000_0000_0001), wire.SPI(0x0203_0000_0000_0002)
	for _, c := range []struct {
		name  string
		next  wire.PayloadType
		node  uint8
		peer  wire.SPI
		token bool
	}{
		{"protected", wire.PayloadSK, 7, peer, true}, {"a fragment", wire.PayloadSKF, 7, peer, true},
		{"in clear", wire.PayloadNotify, 7, peer, false}, {"empty", wire.PayloadNone, 7, peer, false},
		{"of another node", wire.PayloadSK, 8, peer, false}, {"without the peer's SPI", wire.PayloadSK, 7, 0, false},
	} {
		h := wire.Header{SPIi: c.peer, SPIr: own, Next: c.next, Exchange: wire.ExchangeCreateChildSA, MessageID: 9, Flags: wire.FlagInitiator}
		msg := satest.Must(wire.ParseMessage(sa.RefuseUnknown(&set, c.node, h)))
		_, lost := wire.FindNotify(msg.Payloads, wire.NotifyInvalidIKESPI)
		n, token := wire.FindNotify(msg.Payloads, wire.NotifyQuickCrashDetection)
		if !lost || token != c.token || !msg.IsResponse() || msg.IsInitiator() || msg.MessageID != 9 {
			t.Errorf("%s: %+v", c.name, msg)
		}
		if token && (n.Protocol != wire.ProtoIKE || len(n.SPI) != 0 || len(n.Data) != 32) {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
	set.CrashDetection = false
	h := wire.Header{SPIi: peer, SPIr: own, Next: wire.PayloadSK, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator}
	if msg := satest.Must(wire.ParseMessage(sa.RefuseUnknown(&set, 7, h))); len(msg.Payloads) != 1 {
		t.Errorf("a token although crash detection is off: %+v", msg)
	}
}

// TestLostOfReplaced: the peer does not know a replaced IKE SA any more, and that is
// all right; the session goes on, and the peer is asked on the new one.
func TestLostOfReplaced(t *testing.T) {
	w, moon, sun := tokens(t, 75)
	k := moon.Live()[0].State().IKE
	w.Mangle = func(p satest.Packet) []satest.Packet { // the deletes of the old one are lost
		h := satest.Must(wire.ParseHeader(p.Data))
		if h.Exchange == wire.ExchangeInformational && h.SPIi == k.SPIi {
			return nil
		}
		return []satest.Packet{p}
	}
	// moon deletes, and its delete does not arrive; sun has not moved on yet, but for
	// the token that tells it.
	moon.Do(0, sa.Rekey{})
	w.Settle(100)
	if n := len(moon.Live()[0].State().Others); n != 1 {
		t.Fatalf("%d replaced IKE SAs, expected the old one", n)
	}
	old := moon.Live()[0].State().Others[0]
	moon.Do(0, sa.Received{Local: k.Local, Remote: k.Remote, Data: unprotected(old, notify(wire.NotifyInvalidIKESPI),
		notify(wire.NotifyQuickCrashDetection, sa.CrashToken(sun.Env.Settings.CrashSecret, old.SPIr, old.SPIi)...))})
	w.Settle(100)
	w.Advance(time.Second)
	if n := len(moon.Live()[0].State().Others); n != 0 {
		t.Errorf("%d replaced IKE SAs, expected it to be forgotten", n)
	}
	assertUp(t, moon, sun)
	noErrors(t, moon, sun)
}

// TestLostBeforeMovedOn: the peer has rekeyed, deleted the old IKE SA and forgotten
// it, without our having heard of the delete: we move on, too, instead of ending.
func TestLostBeforeMovedOn(t *testing.T) {
	w, moon, sun := tokens(t, 76)
	old := moon.Live()[0].State().IKE
	drop := true
	w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		if drop && p.From.Addr() == sun.Addr && h.Exchange == wire.ExchangeInformational {
			return nil
		}
		return []satest.Packet{p}
	}
	sun.Do(0, sa.Rekey{})
	w.Settle(100)
	if st := moon.Live()[0].State(); st.IKE.SPIi != old.SPIi || len(st.Others) != 1 {
		t.Fatal("moon has moved on already")
	}
	drop = false
	moon.Do(0, sa.Received{Local: old.Local, Remote: old.Remote, Data: unprotected(&old, notify(wire.NotifyInvalidIKESPI),
		notify(wire.NotifyQuickCrashDetection, sa.CrashToken(sun.Env.Settings.CrashSecret, old.SPIr, old.SPIi)...))})
	w.Advance(time.Minute)
	if st := moon.Live()[0].State(); st.IKE.SPIi == old.SPIi || len(st.Others) != 0 {
		t.Errorf("IKE SA %s, %d others", st.IKE.SPIi, len(st.Others))
	}
	assertUp(t, moon, sun)
	noErrors(t, moon, sun)
	if st := moon.Live()[0].State(); st.IKE.PeerToken == ([32]byte{}) || st.IKE.PeerToken == old.PeerToken {
		t.Error("the token of the new IKE SA has not come")
	}
}

// TestLostWhileClosing: a peer that is gone need not confirm our delete.
func TestLostWhileClosing(t *testing.T) {
	w, moon, sun := tokens(t, 77, func(c *sa.Connection) { c.Children[0].DPDAction = sa.FollowStart })
	sun.Crash()
	moon.Do(0, sa.Terminate{})
	w.Settle(10)
	assertNothing(t, moon)
	noErrors(t, moon)
	if len(moon.Restarts) != 0 {
		t.Error("what was ended by us was set up again")
	}
}
