package sa_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// A lost response to an encrypted request must be sent again when the request
// is repeated (RFC 7296 2.1).
func TestHostileLostAnswerIsRepeated(t *testing.T) {
	w := satest.New(100)
	moon, sun := satest.Pair(w)
	lost := false
	w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		if h.Exchange == wire.ExchangeIKEAuth && h.IsResponse() && !lost {
			lost = true
			return nil
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Minute)
	if !lost {
		t.Fatal("nothing was lost")
	}
	assertUp(t, moon, sun)
}

// A malformed IKE_SA_INIT request must not leave a session behind for ever.
func TestHostileMalformedInitEnds(t *testing.T) {
	w := satest.New(101)
	_, sun := satest.Pair(w)
	// Next payload SA (33), whose length is beyond the message.
	data := wire.Header{SPIi: 1, Next: wire.PayloadSA, Version: 0x20, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagInitiator, Length: wire.HeaderLen + 4}.Append(nil)
	data = append(data, 0, 0, 0xff, 0xff)
	sun.Env.Now = w.Now
	m := sa.NewResponder(1, 2, netip.MustParseAddrPort("192.0.2.2:500"), netip.MustParseAddrPort("192.0.2.1:500"))
	m.Handle(&sun.Env, sa.Received{Local: m.Local(), Remote: m.Remote(), Data: data})
	if m.Phase() != sa.Ended && m.Deadline().IsZero() {
		t.Fatalf("phase %s without deadline: never ends, counted as half open", m.Phase())
	}
}

// A second copy of INVALID_KE_PAYLOAD (our request was repeated) is not a
// second refusal.
func TestHostileDoubledInvalidKE(t *testing.T) {
	w := satest.New(102)
	moon, sun := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ecp256"))
	satest.IKE("aes128gcm16-prfsha256-ecp256")(sun.Env.Conns.All()[0])
	w.Mangle = func(p satest.Packet) []satest.Packet {
		m := satest.Must(wire.ParseMessage(p.Data))
		if _, ok := wire.FindNotify(m.Payloads, wire.NotifyInvalidKEPayload); ok {
			return []satest.Packet{p, p}
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(20 * time.Second)
	assertUp(t, moon, sun)
}

// The responder asks for certificates whichever of several connections the
// peer will turn out to have.
func TestHostileCertReqOfSecondConnection(t *testing.T) {
	w := satest.New(103)
	moon, sun := satest.PubkeyPair(w, "ecdsa", func(c *sa.Connection) { c.Local[0].SendCert = auth.SendIfAsked })
	psk := satest.Conn("road", "sun.example.org", "mars.example.org", "10.2.0.0/16", "10.3.0.0/16")
	sun.Env.Conns = sa.NewConnSet(append([]*sa.Connection{psk}, sun.Env.Conns.All()...), nil)
	moon.Initiate("sun", "", sunAddr)
	w.Advance(20 * time.Second)
	assertUp(t, moon, sun)
}

// A state whose child is not configured any more must be refused, not panic.
func TestHostileDecodeWithoutChild(t *testing.T) {
	for stop := 0; stop < 6; stop++ {
		w := satest.New(104)
		moon, sun := satest.Pair(w)
		moon.Initiate("sun", "", sunAddr)
		w.Settle(stop)
		if len(moon.Live()) == 0 || moon.Live()[0].Phase() >= sa.Established {
			return
		}
		b := moon.Live()[0].Encode(nil)
		c := *moon.Env.Conns.All()[0]
		ch := *c.Children[0]
		ch.Name = "renamed"
		c.Children = []*sa.ChildConfig{&ch}
		moon.Env.Conns = sa.NewConnSet([]*sa.Connection{&c}, nil)
		m, err := sa.Decode(b, moon.Env.Conns)
		if err != nil {
			continue
		}
		func() {
			defer func() {
				if r := recover(); r != nil {
					t.Errorf("%s: panic: %v", m.Phase(), r)
				}
			}()
			moon.Sessions[0] = m
			w.Advance(20 * time.Second)
		}()
		_ = sun
	}
}

// Settings changed by a reload must not keep policies in the kernel.
func TestHostileFewerSelectorsAfterReload(t *testing.T) {
	w := satest.New(105)
	moon, sun := satest.Pair(w, func(c *sa.Connection) {
		p := satest.Must(selector.Parse("10.0.0.0/8[tcp/1-6]"))
		c.Children[0].LocalTS, c.Children[0].RemoteTS = []selector.Spec{p}, []selector.Spec{p}
	})
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	assertUp(t, moon, sun)
	moon.Env.Settings.MaxSelectors = 1
	moon.Do(0, sa.Terminate{})
	w.Advance(time.Minute)
	assertNothing(t, moon)
}

// What never came up does not go down.
func TestHostileDownWithoutUp(t *testing.T) {
	w := satest.New(106)
	moon, _ := satest.Pair(w)
	c := moon.Env.Conns.All()[0]
	c.Remote[0].ID = satest.Must(auth.ParseID("*.example.net"))
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Minute)
	if _, up := satest.Find[event.IKEUp](moon); up {
		t.Fatal("up?")
	}
	if d, down := satest.Find[event.IKEDown](moon); down {
		t.Errorf("IKEDown without IKEUp: %+v", d)
	}
}

// A refused child's SPI is released under the mark that it was reserved with.
func TestHostileMarkedOrphan(t *testing.T) {
	w := satest.New(107)
	moon, sun := satest.Pair(w, func(c *sa.Connection) {
		c.Children[0].MarkIn, c.Children[0].MarkInSA = dataplane.Mark{Value: 7, Mask: 0xff}, true
	})
	sun.Fail = func(s sa.Spec) error {
		if k, ok := s.(sa.Kernel); ok && len(k.Ops) == 5 {
			return errPlanted{}
		}
		return nil
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(20 * time.Second)
	if a, r, p := sun.DP.Counts(); a+r+p != 0 {
		t.Errorf("%d SAs, %d reserved, %d policies left", a, r, p)
	}
}

type errPlanted struct{}

func (errPlanted) Error() string { return "planted" }

// RFC 7296 2.11: a request is answered to where it came from.
func TestHostileAnswerGoesToSource(t *testing.T) {
	w := satest.New(108)
	moon, sun := satest.Pair(w, func(c *sa.Connection) { c.Encap = true })
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	assertUp(t, moon, sun)
	// moon's NAT maps it to another port from now on; the old mapping is dead.
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.From.Addr() == moon.Addr {
			p.From = netip.AddrPortFrom(moon.Addr, 61234)
		} else if p.To.Port() == 61234 {
			p.To = netip.AddrPortFrom(moon.Addr, 4500)
		} else {
			return nil
		}
		return []satest.Packet{p}
	}
	moon.Do(0, sa.Terminate{Child: "net"})
	w.Advance(30 * time.Second)
	if live := moon.Live(); len(live) != 1 || len(live[0].Info().Children) != 0 {
		t.Errorf("the answer went to the dead mapping: %s", dump(moon))
	}
}

// A long list of selectors from an authenticated peer must not hold a shard.
func TestHostileManySelectors(t *testing.T) {
	w := satest.New(110)
	moon, sun := satest.Pair(w, func(c *sa.Connection) {
		all := satest.Must(selector.Parse("::/0"))
		c.Children[0].LocalTS, c.Children[0].RemoteTS = []selector.Spec{all}, []selector.Spec{all}
	})
	ch := moon.Env.Conns.All()[0].Children[0]
	ch.LocalTS, ch.RemoteTS = nil, nil
	for i := range 255 {
		a := netip.AddrFrom16([16]byte{0x20, 1, byte(i), 15: 1})
		b := netip.AddrFrom16([16]byte{0x20, 1, byte(i), 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe})
		ts := selector.TS{Proto: 6, StartPort: 1, EndPort: 65534, Start: a, End: b}
		ch.LocalTS = append(ch.LocalTS, selector.Fixed(ts))
		ch.RemoteTS = append(ch.RemoteTS, selector.Fixed(ts))
	}
	moon.Env.Settings.MaxSelectors = 1 << 30
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	if f, ok := satest.Find[event.Failed](sun); !ok || f.Cause != event.TSUnacceptable || len(facts(f)) > 100_000 {
		t.Errorf("selectors that would take millions of policies: %+v", f)
	}
}

// A second round of the peer's authentication that is configured must not be
// left out: the connection asks for more than the peer showed.
func TestHostileSecondRemoteRound(t *testing.T) {
	w := satest.New(111)
	moon, sun := satest.Pair(w)
	c := sun.Env.Conns.All()[0]
	c.Remote = append(c.Remote, auth.Remote{Method: auth.MethodPubkey, ID: satest.Must(auth.ParseID("alice@example.org"))})
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	if len(sun.Live()) == 1 && sun.Live()[0].IsEstablished() {
		t.Error("established after the first of two rounds")
	}
}

// manyConns are a gateway's connections, each for one peer's identity from any address.
func manyConns(n int, opts ...satest.Option) []*sa.Connection {
	var out []*sa.Connection
	for i := range n {
		out = append(out, satest.Conn(fmt.Sprintf("peer%d", i), "sun.example.org", fmt.Sprintf("peer%d.example.org", i), "10.2.0.0/16", "10.1.0.0/16", opts...))
	}
	return out
}

// One IKE_SA_INIT request of an unknown peer must not hold a shard.
func TestHostileCostOfInit(t *testing.T) {
	for _, conns := range []int{1, 100, 1000} {
		w := satest.New(113)
		_, sun := satest.Pair(w)
		sun.Env.Conns = sa.NewConnSet(manyConns(conns, satest.IKE("aes128-aes192-aes256-sha256-sha384-sha512-x25519-ecp256-ecp384-modp2048-modp3072-modp4096")), nil)
		sun.Env.Now = w.Now
		var ps []wire.Proposal
		for n := range 29 {
			p := wire.Proposal{Number: uint8(n + 1), Protocol: wire.ProtoIKE}
			for i := range 255 {
				p.Transforms = append(p.Transforms, wire.Transform{Type: wire.TransformType(1 + i%4), ID: uint16(60000 + i)})
			}
			ps = append(ps, p)
		}
		data := wire.AppendMessage(nil, wire.Header{SPIi: 1, Exchange: wire.ExchangeIKESAInit, Version: 0x20, Flags: wire.FlagInitiator},
			[]wire.Payload{&wire.SA{Proposals: ps}, &wire.KE{Method: wire.KECurve25519, Data: make([]byte, 32)}, &wire.Nonce{Data: make([]byte, 32)}})
		m := sa.NewResponder(1, 2, netip.MustParseAddrPort("192.0.2.2:500"), netip.MustParseAddrPort("192.0.2.1:500"))
		for _, a := range m.Handle(&sun.Env, sa.Received{Local: m.Local(), Remote: m.Remote(), Data: data}) {
			if p, ok := a.(sa.Publish); ok {
				if _, ok := p.Event.(event.Failed); ok {
					t.Errorf("%d connections: a request of %d octets was compared with the proposals", conns, len(data))
				}
			}
		}
		if m.Phase() != sa.Ended {
			t.Errorf("phase %s", m.Phase())
		}
	}
}

// One IKE_AUTH request of a peer without any secret must not hold a shard.
func TestHostileCostOfUnknownIdentity(t *testing.T) {
	w := satest.New(114)
	moon, sun := satest.Pair(w)
	sun.Env.Conns = sa.NewConnSet(manyConns(10000), nil)
	moon.Initiate("sun", "", sunAddr)
	w.Settle(4)
	if f, ok := satest.Find[event.Failed](sun); !ok || len(facts(f)) > 2000 {
		t.Errorf("an explanation of %d octets", len(facts(f)))
	}
}

// A wait that does not fit a Duration must not become one in the past.
func TestHostileManyRetransmissions(t *testing.T) {
	w := satest.New(115)
	moon, _ := satest.Pair(w)
	moon.Env.Settings.RetransmitTries, moon.Env.Settings.RetransmitBase = 20, 10 // the most that the configuration takes
	w.Mangle = func(satest.Packet) []satest.Packet { return nil }
	moon.Initiate("sun", "", sunAddr)
	for range 21 {
		if len(moon.Live()) == 0 {
			return
		}
		d := moon.Live()[0].Deadline()
		if !d.After(w.Now) {
			t.Fatalf("next try at %v, now %v", d, w.Now)
		}
		w.Now = d
		moon.Do(0, sa.Tick{})
	}
}

// A peer's selector that the kernel can't match is left out, not the others.
func TestHostileOpaqueFirst(t *testing.T) {
	w := satest.New(116)
	moon, sun := satest.Pair(w)
	ch := moon.Env.Conns.All()[0].Children[0]
	ch.LocalTS = []selector.Spec{satest.Must(selector.Parse("10.1.0.0/17[tcp/opaque]")), satest.Must(selector.Parse("10.1.128.0/17"))}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	if len(sun.Live()[0].Info().Children) != 1 {
		f, _ := satest.Find[event.Failed](sun)
		t.Errorf("refused: %s", facts(f))
	}
}

// To end one CHILD SA is not to end the session that is being set up.
func TestHostileTerminateChildOfHalfOpen(t *testing.T) {
	w := satest.New(118)
	moon, sun := satest.Pair(w)
	moon.Initiate("sun", "", sunAddr)
	w.Settle(1)
	sun.Do(0, sa.Terminate{ChildID: 4711})
	if p := sun.Live()[0].Phase(); p >= sa.Closing {
		t.Errorf("phase %s", p)
	}
}

// A CHILD SA that was never installed must not take another session's outbound
// SA with it: its SPI and its address are the peer's choice.
func TestHostileForeignOutboundSA(t *testing.T) {
	w := satest.New(120)
	moon, sun := satest.Pair(w)
	mars := w.Add("192.0.2.1", moon.Env.Conns.All(), moon.Env.Creds) // behind the same NAT
	mars.DP = dataplane.NewFake(dataplane.FakeOptions{Seed: 1})      // and choosing moon's SPI
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	assertUp(t, moon, sun)
	before, _, _ := sun.DP.Counts()
	sun.Fail = func(s sa.Spec) error {
		if _, ok := s.(sa.SignAuth); ok {
			return errPlanted{} // mars announced hashes that we don't have
		}
		return nil
	}
	mars.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	if after, _, _ := sun.DP.Counts(); after != before {
		t.Errorf("%d SAs before the other's failed set-up, %d after it", before, after)
	}
}

// After a crash between the kernel's work and its answer, the job that Resume
// issues again must come out as if it had run once.
func TestHostileInstallTwice(t *testing.T) {
	w := satest.New(112)
	moon, sun := satest.Pair(w)
	var state []byte
	w.Stepped = func(n *satest.Node) {
		if live := n.Live(); n == sun && len(live) == 1 && live[0].Phase() == sa.Installing {
			state = live[0].Encode(nil)
		}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	assertUp(t, moon, sun)
	m := satest.Must(sa.Decode(state, sun.Env.Conns))
	for _, a := range m.Resume(&sun.Env) {
		if j, ok := a.(sa.Job); ok {
			if err := sun.DP.Apply(j.Spec.(sa.Kernel).Ops); err != nil {
				t.Fatal(err)
			}
		}
	}
	assertUp(t, moon, sun)
	if sas, reserved, policies := sun.DP.Counts(); sas != 2 || reserved != 0 || policies != 3 {
		t.Errorf("%d SAs, %d reserved, %d policies", sas, reserved, policies)
	}
}

// Who has authenticated the peer tells it when giving up, or the peer keeps an
// SA that leads nowhere.
func TestHostileTerminateWhileInstalling(t *testing.T) {
	w := satest.New(119)
	moon, sun := satest.Pair(w)
	asked := false
	w.Stepped = func(n *satest.Node) {
		if n == moon && !asked && moon.Sessions[0].Phase() == sa.Installing {
			asked = true
			moon.Do(0, sa.Terminate{})
		}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(5 * time.Minute)
	if !asked {
		t.Fatal("never installing")
	}
	assertNothing(t, moon)
	assertNothing(t, sun)
}
