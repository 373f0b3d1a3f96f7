package sa_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

var sunAddr = netip.MustParseAddr("192.0.2.2")

// assertUp checks that both sides agree on one tunnel and that each side's
// outbound keys are the other's inbound ones.
func assertUp(t *testing.T, moon, sun *satest.Node) {
	t.Helper()
	for _, n := range []*satest.Node{moon, sun} {
		live := n.Live()
		if len(live) != 1 || !live[0].IsEstablished() {
			t.Fatalf("%s: %d sessions, events: %s", n.Addr, len(live), dump(n))
		}
		if len(live[0].Info().Children) != 1 {
			t.Fatalf("%s: no child; events: %s", n.Addr, dump(n))
		}
	}
	a, b := moon.Live()[0].Info(), sun.Live()[0].Info()
	if a.SPIi != b.SPIi || a.SPIr != b.SPIr || a.Local != b.Remote || a.Remote != b.Local || a.LocalID != b.RemoteID {
		t.Fatalf("the two sides see different IKE SAs:\n%+v\n%+v", a, b)
	}
	ca, cb := a.Children[0], b.Children[0]
	if ca.SPIIn != cb.SPIOut || ca.SPIOut != cb.SPIIn || ca.Mode != cb.Mode || fmt.Sprint(ca.LocalTS) != fmt.Sprint(cb.RemoteTS) || fmt.Sprint(ca.RemoteTS) != fmt.Sprint(cb.LocalTS) {
		t.Fatalf("the two sides see different CHILD SAs:\n%+v\n%+v", ca, cb)
	}
	sameKeys(t, moon, sun, sun.Addr, ca.SPIOut)
	sameKeys(t, sun, moon, moon.Addr, ca.SPIIn)
}

func sameKeys(t *testing.T, from, to *satest.Node, dst netip.Addr, spi uint32) {
	t.Helper()
	key := dataplane.SAKey{Dst: dst, Proto: dataplane.ESP, SPI: spi}
	x, ok1 := from.DP.SA(key)
	y, ok2 := to.DP.SA(key)
	if !ok1 || !ok2 {
		t.Fatalf("%s is not installed on both sides", key)
	}
	if x.AEAD.Name != y.AEAD.Name || !x.AEAD.Key.Equal(y.AEAD.Key) || !x.Crypt.Key.Equal(y.Crypt.Key) || !x.Auth.Key.Equal(y.Auth.Key) || x.ESN != y.ESN {
		t.Fatalf("%s: keys or algorithms differ", key)
	}
	if len(x.AEAD.Key)+len(x.Crypt.Key) == 0 {
		t.Fatalf("%s has no key", key)
	}
}

// assertNothing checks that a node holds no session and nothing in its kernel.
func assertNothing(t *testing.T, n *satest.Node) {
	t.Helper()
	sas, reserved, policies := n.DP.Counts()
	if len(n.Live()) != 0 || sas+reserved+policies != 0 {
		t.Fatalf("%s: left behind %d sessions, %d SAs, %d reserved SPIs, %d policies; events: %s", n.Addr, len(n.Live()), sas, reserved, policies, dump(n))
	}
}

func dump(n *satest.Node) string {
	var b strings.Builder
	for _, e := range n.Events {
		fmt.Fprintf(&b, "\n  %T %+v", e, e)
	}
	return b.String()
}

func facts(f event.Failed) string {
	var b strings.Builder
	for _, x := range f.Facts {
		b.WriteString(x.Name + "=" + x.Value + " ")
	}
	return b.String()
}

func TestSetup(t *testing.T) {
	cases := []struct {
		name, kind string
		opts       []satest.Option
	}{
		{"psk", "", nil},
		{"classic", "", []satest.Option{satest.IKE("aes256-sha256-modp2048"), satest.ESP("aes256gcm16-modp2048")}},
		{"cbc esp with esn", "", []satest.Option{satest.IKE("aes128-sha384-ecp384"), satest.ESP("aes256-sha512-esn")}},
		{"chacha", "", []satest.Option{satest.IKE("chacha20poly1305-prfsha512-x448"), satest.ESP("chacha20poly1305")}},
		{"one further key exchange", "", []satest.Option{satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256")}},
		{"two further key exchanges", "", []satest.Option{satest.IKE("aes256-sha256-x25519-ke1_ecp256-ke2_ecp384")}},
		{"rsa", "rsa", nil},
		{"ecdsa", "ecdsa", nil},
		{"ed25519", "ed25519", nil},
		{"certificates over a further key exchange", "ecdsa", []satest.Option{satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256")}},
		{"transport", "", []satest.Option{transport}},
	}
	for _, c := range cases {
		for _, roundTrip := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", c.name, roundTrip), func(t *testing.T) {
				w := satest.New(1)
				w.RoundTrip = roundTrip
				var moon, sun *satest.Node
				if c.kind == "" {
					moon, sun = satest.Pair(w, c.opts...)
				} else {
					moon, sun = satest.PubkeyPair(w, c.kind, c.opts...)
				}
				moon.Initiate("sun", "", sunAddr)
				w.Settle(100)
				assertUp(t, moon, sun)
				if moon.Up != 1 || sun.Up != 1 {
					t.Errorf("Authenticated: %d and %d times, want once each", moon.Up, sun.Up)
				}
				policies := 3
				if c.name == "transport" {
					policies = 2
				}
				if sas, reserved, p := moon.DP.Counts(); sas != 2 || reserved != 0 || p != policies {
					t.Errorf("installed: %d SAs, %d reserved, %d policies", sas, reserved, p)
				}
				moon.Do(0, sa.Terminate{})
				w.Advance(time.Minute)
				assertNothing(t, moon)
				assertNothing(t, sun)
				for _, n := range []*satest.Node{moon, sun} {
					if _, ok := satest.Find[event.ChildDown](n); !ok {
						t.Errorf("%s did not say that the child is gone", n.Addr)
					}
				}
			})
		}
	}
}

func transport(c *sa.Connection) {
	c.Children[0].Mode = dataplane.Transport
	c.Children[0].LocalTS = []selector.Spec{satest.Must(selector.Parse("dynamic[tcp]"))}
	c.Children[0].RemoteTS = c.Children[0].LocalTS
}

// TestExplainedFailures: what people meet is explained where it happens.
func TestExplainedFailures(t *testing.T) {
	wrongPSK := func(moon, sun *satest.Node) {
		b := auth.NewBuilder()
		if err := b.AddShared(secret.Bytes("incorrect horse"), nil, "test"); err != nil {
			t.Fatal(err)
		}
		sun.Env.Creds = b.Build()
	}
	cases := []struct {
		name      string
		kind      string
		moonOpts  []satest.Option // on top, for moon only
		change    func(moon, sun *satest.Node)
		on        string // which side explains
		cause     event.Cause
		say       []string // in the facts
		stillUp   bool     // the IKE SA stands all the same
		otherSide event.Cause
	}{
		{name: "wrong PSK", change: wrongPSK, on: "sun", cause: event.AuthenticationFailed, otherSide: event.AuthenticationFailed,
			say: []string{"check=shared key mismatch", "moon.example.org"}},
		{name: "no common IKE proposal", moonOpts: []satest.Option{satest.IKE("aes256-sha512-modp4096")}, on: "sun", cause: event.NoProposalChosen, otherSide: event.NoProposalChosen,
			say: []string{"ours=aes128gcm16-prfsha256-x25519", "peer=aes256-sha512", "part_on="}},
		{name: "no common ESP proposal", moonOpts: []satest.Option{satest.ESP("aes256-sha512")}, on: "sun", cause: event.NoProposalChosen, otherSide: event.NoProposalChosen, stillUp: true,
			say: []string{"ours=aes128gcm16", "peer=aes256-sha512", "part_on="}},
		{name: "selectors", moonOpts: []satest.Option{func(c *sa.Connection) {
			c.Children[0].RemoteTS = []selector.Spec{satest.Must(selector.Parse("10.9.0.0/16"))}
		}}, on: "sun", cause: event.TSUnacceptable, otherSide: event.TSUnacceptable, stillUp: true,
			say: []string{"10.2.0.0/16 === 10.1.0.0/16", "10.9.0.0/16 === 10.1.0.0/16"}},
		{name: "untrusted certificate", kind: "ecdsa", change: func(moon, sun *satest.Node) {
			other := satest.NewCA("ecdsa", satest.New(7).Rand(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
			moon.Env.Creds = other.Credentials("moon.example.org")
		}, on: "sun", cause: event.AuthenticationFailed, otherSide: event.AuthenticationFailed, say: []string{"check=chain", "peer_id=moon.example.org"}},
		{name: "unknown identity", moonOpts: []satest.Option{func(c *sa.Connection) { c.Local[0].ID = satest.Must(auth.ParseID("mars.example.org")) }},
			on: "sun", cause: event.AuthenticationFailed, otherSide: event.AuthenticationFailed, say: []string{"check=identity", "mars.example.org", "remote moon.example.org"}},
		{name: "no connection for the address", change: func(_, sun *satest.Node) {
			sun.Env.Conns = sa.NewConnSet(nil, nil)
		}, on: "sun", cause: event.NoConnection, otherSide: event.NoProposalChosen, say: []string{"peer=aes128gcm16"}},
		{name: "responder's identity", moonOpts: []satest.Option{func(c *sa.Connection) { c.Remote[0].ID = satest.Must(auth.ParseID("*.example.net")) }},
			on: "moon", cause: event.AuthenticationFailed, otherSide: event.AuthenticationFailed, say: []string{"check=identity", "sun.example.org"}},
		{name: "kernel", change: func(_, sun *satest.Node) {
			sun.Fail = func(s sa.Spec) error {
				if _, ok := s.(sa.Kernel); ok && len(s.(sa.Kernel).Ops) == 5 {
					return errors.New("algorithm rfc4106(gcm(aes)) missing")
				}
				return nil
			}
		}, on: "sun", cause: event.KernelRefused, otherSide: event.NoProposalChosen, stillUp: true, say: []string{"step=install", "rfc4106(gcm(aes)) missing"}},
		{name: "initiator's kernel", change: func(moon, _ *satest.Node) {
			moon.Fail = func(s sa.Spec) error {
				if k, ok := s.(sa.Kernel); ok && len(k.Ops) == 5 {
					return errors.New("planted")
				}
				return nil
			}
		}, on: "moon", cause: event.KernelRefused, stillUp: true, say: []string{"step=install", "planted"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(2)
			w.RoundTrip = true
			var moon, sun *satest.Node
			if c.kind == "" {
				moon, sun = satest.Pair(w)
			} else {
				moon, sun = satest.PubkeyPair(w, c.kind)
			}
			conn := *moon.Env.Conns.All()[0]
			child := *conn.Children[0]
			conn.Children = []*sa.ChildConfig{&child}
			conn.Local, conn.Remote = append([]auth.Local(nil), conn.Local...), append([]auth.Remote(nil), conn.Remote...)
			for _, o := range c.moonOpts {
				o(&conn)
			}
			moon.Env.Conns = sa.NewConnSet([]*sa.Connection{&conn}, nil)
			if c.change != nil {
				c.change(moon, sun)
			}
			moon.Initiate("sun", "", sunAddr)
			w.Advance(5 * time.Second)
			explains, other := sun, moon
			if c.on == "moon" {
				explains, other = moon, sun
			}
			f, ok := satest.Find[event.Failed](explains)
			if !ok || f.Cause != c.cause || f.ByPeer {
				t.Fatalf("explained as %q (found %v), want %q by us; events: %s", f.Cause, ok, c.cause, dump(explains))
			}
			for _, s := range c.say {
				if !strings.Contains(facts(f), s) {
					t.Errorf("facts %q do not say %q", facts(f), s)
				}
			}
			if strings.Contains(dump(moon)+dump(sun), "horse") {
				t.Error("an event holds the secret")
			}
			if o, ok := satest.Find[event.Failed](other); c.otherSide != "" && (!ok || o.Cause != c.otherSide || !o.ByPeer) {
				t.Errorf("the other side says %q (found %v, by peer %v), want %q", o.Cause, ok, o.ByPeer, c.otherSide)
			}
			if c.stillUp {
				if len(moon.Live()) != 1 || len(sun.Live()) != 1 || !moon.Live()[0].IsEstablished() {
					t.Errorf("the IKE SA should stand without a child: %s", dump(moon))
				}
				for _, n := range []*satest.Node{moon, sun} {
					if s, r, p := n.DP.Counts(); s+r+p != 0 {
						t.Errorf("%s: %d SAs, %d reserved, %d policies left of the failed child", n.Addr, s, r, p)
					}
				}
				return
			}
			w.Advance(time.Minute)
			assertNothing(t, moon)
			assertNothing(t, sun)
		})
	}
}

func TestUnreachablePeer(t *testing.T) {
	w := satest.New(3)
	moon, _ := satest.Pair(w)
	var sent []time.Duration
	start := w.Now
	w.Mangle = func(satest.Packet) []satest.Packet { sent = append(sent, w.Now.Sub(start)); return nil }
	moon.Initiate("sun", "", sunAddr)
	w.Advance(10 * time.Minute)
	assertNothing(t, moon)
	// strongSwan's published schedule: 0, 4, 11, 24, 47, 89 seconds, given up after 165.
	if got := fmt.Sprint(len(sent), sent[1].Round(time.Second), sent[5].Round(time.Second)); got != "6 4s 1m29s" {
		t.Errorf("transmissions: %v", sent)
	}
	if f, _ := satest.Find[event.Failed](moon); f.Cause != event.PeerTimeout {
		t.Errorf("explained as %q", f.Cause)
	}
}

// TestBadNetwork: losses, doubles and late arrivals change nothing.
func TestBadNetwork(t *testing.T) {
	for seed := range uint64(200) {
		w := satest.New(seed)
		moon, sun := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256"))
		var late []satest.Packet
		w.Mangle = func(p satest.Packet) []satest.Packet {
			out := []satest.Packet{p}
			switch w.Rand().Uint64() % 5 {
			case 0:
				out = nil
			case 1:
				out = append(out, p)
			case 2:
				late = append(late, p)
			case 3:
				out, late = append(out, late...), nil
			}
			return out
		}
		moon.Initiate("sun", "", sunAddr)
		w.Advance(3 * time.Minute)
		if len(moon.Live()) == 1 && moon.Live()[0].IsEstablished() {
			assertUp(t, moon, sun)
			sun.Do(0, sa.Terminate{})
		}
		w.Advance(10 * time.Minute)
		for _, n := range []*satest.Node{moon, sun} {
			for i := range n.Sessions {
				if n.Sessions[i] != nil && !n.Sessions[i].IsEstablished() {
					t.Fatalf("seed %d: %s stuck in %s", seed, n.Addr, n.Sessions[i].Phase())
				}
			}
		}
	}
}

func TestInvalidKEIsRetriedOnce(t *testing.T) {
	w := satest.New(4)
	moon, sun := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ecp256"))
	sun.Env.Conns.All()[0].Proposals = []suite.Proposal{satest.Must(suite.ParseIKE("aes128gcm16-prfsha256-ecp256"))}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	r, ok := satest.Find[event.Retrying](moon)
	if !ok || r.Facts[0].Value == r.Facts[1].Value {
		t.Errorf("the retry does not name both groups: %+v", r)
	}

	// A peer that keeps asking for another group is refused with both named.
	w = satest.New(5)
	moon, _ = satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ecp256"))
	moon.Initiate("sun", "", sunAddr)
	group := uint16(wire.KEECP256)
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.To.Addr() != sunAddr {
			return []satest.Packet{p}
		}
		msg := satest.Must(wire.ParseMessage(p.Data))
		reply := wire.AppendMessage(nil, wire.Header{SPIi: msg.SPIi, Exchange: msg.Exchange, Flags: wire.FlagResponse},
			[]wire.Payload{&wire.Notify{NotifyType: wire.NotifyInvalidKEPayload, Data: []byte{byte(group >> 8), byte(group)}}})
		group = uint16(wire.KECurve25519)
		return []satest.Packet{{From: p.To, To: p.From, Data: reply}}
	}
	w.Settle(100)
	f, _ := satest.Find[event.Failed](moon)
	if f.Cause != event.InvalidKEPayload || !strings.Contains(facts(f), "sent=") || !strings.Contains(facts(f), "peer_wants=") {
		t.Errorf("second INVALID_KE_PAYLOAD: %+v", f)
	}
	assertNothing(t, moon)
}

func TestCookie(t *testing.T) {
	w := satest.New(6)
	w.RoundTrip = true
	moon, sun := satest.Pair(w)
	key := []byte("cookie secret")
	asked := 0
	w.Mangle = func(p satest.Packet) []satest.Packet {
		msg := satest.Must(wire.ParseMessage(p.Data))
		if p.To.Addr() != sunAddr || msg.Exchange != wire.ExchangeIKESAInit {
			return []satest.Packet{p}
		}
		ni, _ := wire.First[*wire.Nonce](msg.Payloads)
		want := sa.Cookie(key, 1, ni.Data, p.From.Addr(), msg.SPIi)
		if string(sa.CookieOf(msg)) == string(want) {
			return []satest.Packet{p}
		}
		asked++
		return []satest.Packet{{From: p.To, To: p.From, Data: sa.CookieReply(msg, want)}}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	if asked != 1 {
		t.Errorf("asked for the cookie %d times", asked)
	}
}

// TestNAT: the initiator stands behind a NAT, then the responder, then both
// pretend.
func TestNAT(t *testing.T) {
	public := netip.MustParseAddr("198.51.100.7")
	w := satest.New(8)
	moon, sun := satest.Pair(w)
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.From.Addr() == moon.Addr {
			p.From = netip.AddrPortFrom(public, p.From.Port()+20000)
		} else if p.To.Addr() == public {
			p.To = netip.AddrPortFrom(moon.Addr, p.To.Port()-20000)
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	if len(sun.Live()) != 1 || !sun.Live()[0].IsEstablished() {
		t.Fatal("no tunnel through the NAT", dump(moon), dump(sun))
	}
	a, b := moon.Live()[0].Info(), sun.Live()[0].Info()
	if !a.NATLocal || a.NATRemote || b.NATLocal || !b.NATRemote {
		t.Errorf("NAT seen by initiator: %v/%v, by responder %v/%v", a.NATLocal, a.NATRemote, b.NATLocal, b.NATRemote)
	}
	if a.Local.Port() != 4500 || a.Remote.Port() != 4500 || b.Remote != netip.AddrPortFrom(public, 24500) || !a.Children[0].Encap || !b.Children[0].Encap {
		t.Errorf("ports: %v %v", a, b)
	}
	in, _ := sun.DP.SA(dataplane.SAKey{Dst: sun.Addr, Proto: dataplane.ESP, SPI: b.Children[0].SPIIn})
	if in.Encap == nil || in.Encap.SrcPort != 24500 || in.Encap.DstPort != 4500 || in.Src != public {
		t.Errorf("inbound SA of the responder: %+v", in.Encap)
	}

	w = satest.New(9)
	moon, sun = satest.Pair(w, func(c *sa.Connection) { c.Encap = true })
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	if i := sun.Live()[0].Info(); !i.Children[0].Encap || i.Local.Port() != 4500 {
		t.Errorf("forced encapsulation: %+v", i)
	}
}

func TestDeleteChild(t *testing.T) {
	for _, roundTrip := range []bool{false, true} {
		w := satest.New(10)
		w.RoundTrip = roundTrip
		moon, sun := satest.Pair(w)
		moon.Initiate("sun", "net", sunAddr)
		w.Settle(100)
		assertUp(t, moon, sun)
		// Both at once: the deletes cross (RFC 7296 1.4.1).
		moon.Do(0, sa.Terminate{Child: "net"})
		sun.Do(0, sa.Terminate{Child: "net"})
		w.Settle(100)
		for _, n := range []*satest.Node{moon, sun} {
			if s, r, p := n.DP.Counts(); s+r+p != 0 || len(n.Live()) != 1 || len(n.Live()[0].Info().Children) != 0 {
				t.Fatalf("%s: %d %d %d left", n.Addr, s, r, p)
			}
		}
		moon.Do(0, sa.Terminate{})
		sun.Do(0, sa.Terminate{})
		w.Advance(time.Minute)
		assertNothing(t, moon)
		assertNothing(t, sun)
	}
}

func TestHalfOpenExpires(t *testing.T) {
	w := satest.New(11)
	moon, sun := satest.Pair(w)
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.To.Addr() == moon.Addr {
			return nil
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Second)
	if len(sun.Live()) != 1 {
		t.Fatal("no half-open session")
	}
	w.Advance(10 * time.Minute)
	assertNothing(t, sun)
	if f, _ := satest.Find[event.Failed](sun); f.Cause != event.HalfOpenTimeout {
		t.Errorf("explained as %q", f.Cause)
	}
}

// TestAbortAtEveryStep: whenever a session is aborted, nothing stays behind.
func TestAbortAtEveryStep(t *testing.T) {
	for n := range 40 {
		w := satest.New(uint64(n))
		moon, sun := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256"))
		moon.Initiate("sun", "", sunAddr)
		w.Settle(n / 4)
		for _, x := range []*satest.Node{moon, sun} {
			for i := range x.Sessions {
				if n%2 == 0 {
					x.Do(i, sa.Abort{Reason: "test"})
				} else {
					x.Do(i, sa.Terminate{})
				}
			}
		}
		w.Advance(5 * time.Minute)
		assertNothing(t, moon)
		assertNothing(t, sun)
	}
}

// TestWhoIsWho: which of several connections an initiator gets.
func TestWhoIsWho(t *testing.T) {
	remote := func(id string) satest.Option {
		return func(c *sa.Connection) { c.Remote[0].ID = satest.Must(auth.ParseID(id)) }
	}
	for _, c := range []struct{ peer, want string }{
		{"moon.example.org", "exact"}, {"mars.example.org", "wild"}, {"carol@example.net", "any"}, {"*", ""}, {"*.example.org", ""},
	} {
		w := satest.New(14)
		moon, sun := satest.Pair(w)
		var conns []*sa.Connection
		for name, id := range map[string]string{"any": "%any", "wild": "*.example.org", "exact": "moon.example.org"} {
			if c.want == "" && name != "exact" {
				continue // a peer whose name is a pattern must not match a plain name
			}
			conns = append(conns, satest.Conn(name, "sun.example.org", "x", "10.2.0.0/16", "10.1.0.0/16", remote(id)))
		}
		sun.Env.Conns = sa.NewConnSet(conns, nil)
		moon.Env.Conns.All()[0].Local[0].ID = satest.Must(auth.ParseID(c.peer))
		moon.Initiate("sun", "", sunAddr)
		w.Settle(50)
		got := ""
		if live := sun.Live(); len(live) == 1 && live[0].IsEstablished() {
			got = live[0].ConnName()
		}
		if got != c.want {
			t.Errorf("peer %s: got connection %q, want %q; %s", c.peer, got, c.want, dump(sun))
		}
	}
}

// TestLostAnswer: an answer that got lost is sent again for the same request.
func TestLostAnswer(t *testing.T) {
	for lost := range 3 { // IKE_SA_INIT, IKE_INTERMEDIATE, IKE_AUTH
		w := satest.New(15)
		moon, sun := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256"))
		answers := 0
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if p.From.Addr() == sunAddr {
				if answers++; answers == lost+1 {
					return nil
				}
			}
			return []satest.Packet{p}
		}
		moon.Initiate("sun", "", sunAddr)
		w.Advance(5 * time.Second)
		assertUp(t, moon, sun)
		if answers != 4 {
			t.Errorf("%d answers, want 3 and a repetition", answers)
		}
	}
}

// TestSecretOfThePeer: a shared key that names only the peer is found by the
// initiator, too, which signs before the peer has said who it is.
func TestSecretOfThePeer(t *testing.T) {
	w := satest.New(16)
	moon, sun := satest.Pair(w)
	creds := func(id string) *auth.Credentials {
		b := auth.NewBuilder()
		if err := b.AddShared(secret.Bytes("the one"), []auth.ID{satest.Must(auth.ParseID(id))}, "test"); err != nil {
			t.Fatal(err)
		}
		return b.Build()
	}
	moon.Env.Creds, sun.Env.Creds = creds("sun.example.org"), creds("moon.example.org")
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
}
