package sa_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

func mobike(c *sa.Connection) { c.MOBIKE = true }

// mobile is a pair with a tunnel where both do MOBIKE.
func mobile(t *testing.T, opts ...satest.Option) (*satest.World, *satest.Node, *satest.Node) {
	t.Helper()
	w := satest.New(1)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, append([]satest.Option{mobike}, opts...)...)
	moon.Env.Addrs, sun.Env.Addrs = []netip.Addr{moon.Addr}, []netip.Addr{sun.Addr}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.2:4500", false)
	return w, moon, sun
}

// goTo gives a node another address, and tells it the paths from there.
func goTo(n *satest.Node, addr string, peers ...netip.Addr) {
	n.Addr = netip.MustParseAddr(addr)
	n.Env.Addrs = []netip.Addr{n.Addr}
	var paths []sa.Ends
	for _, p := range peers {
		paths = append(paths, sa.Ends{Local: n.Addr, Remote: p})
	}
	n.Do(0, sa.NetworkChanged{Paths: paths})
}

// count counts the datagrams of a world.
func count(w *satest.World) *int {
	n := new(int)
	w.Mangle = func(p satest.Packet) []satest.Packet {
		*n++
		return []satest.Packet{p}
	}
	return n
}

// TestInitiatorMoves: an address change is one exchange of ours and one of the
// peer's, over rekeyings by either side, too.
func TestInitiatorMoves(t *testing.T) {
	for _, before := range []string{"", "moon rekeys", "sun rekeys"} {
		w, moon, sun := mobile(t)
		switch before {
		case "moon rekeys":
			moon.Do(0, sa.Rekey{})
		case "sun rekeys":
			sun.Do(0, sa.Rekey{})
		}
		w.Advance(time.Minute)
		n := count(w)
		for i := range 3 {
			*n = 0
			addr := fmt.Sprintf("192.0.2.%d", 90+i)
			goTo(moon, addr, sunAddr)
			w.Settle(100)
			standsAt(t, moon, addr+":4500", "192.0.2.2:4500", false)
			standsAt(t, sun, "192.0.2.2:4500", addr+":4500", false)
			if *n != 4 {
				t.Errorf("%s: %d messages, expected UPDATE_SA_ADDRESSES and COOKIE2 with their answers", before, *n)
			}
		}
		noErrors(t, moon, sun)
	}
}

// TestRoutesMoveAlong: a session that moves asks for routes by way of its new
// address, and no more for those by way of the one that is gone.
func TestRoutesMoveAlong(t *testing.T) {
	w, moon, sun := mobile(t)
	set := *moon.Env.Settings
	set.InstallRoutes = true
	moon.Env.Settings = &set
	var asked []netip.Addr
	moon.Fail = func(s sa.Spec) error {
		if n, ok := s.(sa.Network); ok {
			asked = append(asked, n.Wish.Local)
		}
		return nil
	}
	var want []netip.Addr
	for _, addr := range []string{"192.0.2.90", "192.0.2.91", "192.0.2.92"} {
		goTo(moon, addr, sunAddr)
		w.Settle(100)
		want = append(want, moon.Addr)
	}
	moon.Do(0, sa.NetworkChanged{Paths: []sa.Ends{{Local: moon.Addr, Remote: sunAddr}}})
	w.Settle(100)
	if want = append(want, moon.Addr); !slices.Equal(asked, want) { // where it is, they are looked over
		t.Errorf("routes by way of %v, expected %v", asked, want)
	}
	noErrors(t, moon, sun)
}

// TestReturnRoutability: CHILD SAs do not follow to an address from which nothing
// comes back.
func TestReturnRoutability(t *testing.T) {
	w, moon, sun := mobile(t)
	victim := netip.MustParseAddr("203.0.113.5")
	moon.Addr = victim
	moon.Env.Addrs = []netip.Addr{victim}
	moon.Do(0, sa.NetworkChanged{Paths: []sa.Ends{{Local: victim, Remote: sunAddr}}})
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.To.Addr() == victim && !satest.Must(wire.ParseHeader(p.Data)).IsResponse() {
			return nil // answers alone show nothing
		}
		return []satest.Packet{p}
	}
	w.Advance(time.Second)
	info := sun.Live()[0].Info()
	if info.Remote.Addr() != victim || info.Children[0].Remote.Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("IKE SA at %s, its child at %s, expected only the first to have moved", info.Remote, info.Children[0].Remote)
	}
	// Nor does a new CHILD SA go there.
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	w.Advance(time.Second)
	snap := satest.Must(sun.DP.List())
	for _, s := range snap.SAs {
		if s.Dst == victim {
			t.Errorf("SA %s, to an address that is not proven", s.SAKey)
		}
	}
	if len(snap.SAs) < 3 {
		t.Errorf("%d SAs, expected the old two and the new inbound one", len(snap.SAs))
	}
	// It comes home before the check has ended: nothing is proven by an answer
	// from elsewhere, so there is another check.
	checks := map[string]bool{}
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if h := satest.Must(wire.ParseHeader(p.Data)); p.From.Addr() == sunAddr && !h.IsResponse() {
			(&forger{}).rewrite(sun, p.Data, func(ps []wire.Payload) []wire.Payload {
				if n, ok := wire.FindNotify(ps, wire.NotifyCookie2); ok {
					checks[string(n.Data)] = true
				}
				return ps
			})
		}
		return []satest.Packet{p}
	}
	goTo(moon, "192.0.2.1", sunAddr)
	w.Settle(100)
	w.Advance(time.Minute)
	if len(checks) < 2 {
		t.Errorf("%d checks, expected the old one and one of the address that the peer has now", len(checks))
	}
	standsAt(t, sun, "192.0.2.2:4500", "192.0.2.1:4500", false)
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.2:4500", false)
}

// TestNATComesAndGoes: encapsulation follows what the peers find on the new path.
func TestNATComesAndGoes(t *testing.T) {
	w, moon, sun := mobile(t)
	for range 2 {
		goTo(moon, "10.9.9.9", sunAddr)
		box := &natBox{moon.Addr, publicAddr, 1000}
		w.Mangle = box.through
		w.Settle(100)
		standsAt(t, moon, "10.9.9.9:4500", "192.0.2.2:4500", true)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:5500", true)
		// Its mapping changes: the peer check shows it.
		box.shift = 3000
		moon.Do(0, sa.NetworkChanged{Paths: []sa.Ends{{Local: moon.Addr, Remote: sunAddr}}})
		w.Settle(100)
		standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:7500", true)
		w.Mangle = nil
		goTo(moon, "192.0.2.44", sunAddr)
		w.Settle(100)
		standsAt(t, moon, "192.0.2.44:4500", "192.0.2.2:4500", false)
		standsAt(t, sun, "192.0.2.2:4500", "192.0.2.44:4500", false)
	}
	noErrors(t, moon, sun)
}

// TestPeerCheckFindsNATOnce: a peer check through a NAT that stays as it is leads
// to no more than one update.
func TestPeerCheckFindsNATOnce(t *testing.T) {
	w, moon, sun, box := natted(t, mobike)
	n := 0
	w.Mangle = func(p satest.Packet) []satest.Packet {
		n++
		return box.through(p)
	}
	for i, want := range []int{4, 2, 2} {
		n = 0
		moon.Do(0, sa.NetworkChanged{})
		w.Settle(100)
		if n != want {
			t.Errorf("check %d: %d messages, expected %d", i, n, want)
		}
	}
	// No dynamic update by what is no UPDATE_SA_ADDRESSES (RFC 4555 3.8).
	box.shift = 2000
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	w.Deliver()
	if r := sun.Live()[0].Info().Remote; r.Port() != 5500 {
		t.Errorf("sun followed to %s", r)
	}
	w.Settle(100)
	moon.Do(0, sa.NetworkChanged{})
	w.Advance(time.Minute)
	standsAt(t, sun, "192.0.2.2:4500", "198.51.100.7:6500", true)
	noErrors(t, moon, sun)
}

// TestDeadPath: when the path in use is dead, the peer's other addresses are
// tried, and the one that works is taken.
func TestDeadPath(t *testing.T) {
	w := satest.New(1)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, mobike)
	other, useless := netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.78")
	sun.Also = []netip.Addr{other, useless}
	sun.Env.Addrs = []netip.Addr{sun.Addr, useless, other}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	if got, want := moon.Live()[0].PeerAddrs(), []netip.Addr{sunAddr, useless, other}; !slices.Equal(got, want) {
		t.Fatalf("moon knows %v of sun, expected %v", got, want)
	}
	if got := sun.Live()[0].PeerAddrs(); got != nil {
		t.Errorf("sun, which does not decide, chooses from %v", got)
	}
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.To.Addr() == sunAddr || p.From.Addr() == sunAddr || p.To.Addr() == useless {
			return nil
		}
		return []satest.Packet{p}
	}
	moon.Do(0, sa.NetworkChanged{})
	w.Advance(2 * time.Minute)
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.77:4500", false)
	standsAt(t, sun, "192.0.2.77:4500", "192.0.2.1:4500", false)
	noErrors(t, moon, sun)
}

// TestResponderMoves: the side that does not decide says where it is now.
func TestResponderMoves(t *testing.T) {
	w, moon, sun := mobile(t)
	for _, addr := range []string{"192.0.2.70", "192.0.2.71"} {
		goTo(sun, addr)
		w.Advance(time.Minute)
		standsAt(t, moon, "192.0.2.1:4500", addr+":4500", false)
		standsAt(t, sun, addr+":4500", "192.0.2.1:4500", false)
	}
	// One more address changes nothing but what the peer knows.
	more := netip.MustParseAddr("192.0.2.72")
	sun.Env.Addrs = append(sun.Env.Addrs, more)
	sun.Do(0, sa.NetworkChanged{})
	w.Advance(time.Minute)
	if got, want := moon.Live()[0].PeerAddrs(), []netip.Addr{sun.Addr, more}; !slices.Equal(got, want) {
		t.Errorf("moon knows %v, expected %v", got, want)
	}
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.71:4500", false)
	noErrors(t, moon, sun)
}

// TestQuickMoves: changes that follow each other faster than their exchanges, and
// in the midst of others, end where the last one went.
func TestQuickMoves(t *testing.T) {
	for delivered := range 9 {
		for _, with := range []sa.Event{nil, sa.Rekey{}, sa.Rekey{ChildID: 1}} {
			w, moon, sun := mobile(t)
			if with != nil {
				moon.Do(0, with)
			}
			goTo(moon, "192.0.2.90", sunAddr)
			for range delivered {
				w.Deliver()
			}
			goTo(moon, "192.0.2.91", sunAddr)
			w.Advance(2 * time.Minute)
			standsAt(t, moon, "192.0.2.91:4500", "192.0.2.2:4500", false)
			standsAt(t, sun, "192.0.2.2:4500", "192.0.2.91:4500", false)
			noErrors(t, moon, sun)
		}
	}
}

// TestRefusedPath: a path that the peer does not accept is given up for the next,
// and with the last the session.
func TestRefusedPath(t *testing.T) {
	w, moon, sun := mobile(t)
	bad, good := netip.MustParseAddr("192.0.2.90"), netip.MustParseAddr("192.0.2.91")
	mad := &natBox{bad, netip.MustParseAddr("127.0.0.9"), 0}
	w.Mangle = mad.through
	moon.Addr, moon.Also, moon.Env.Addrs = bad, []netip.Addr{good}, []netip.Addr{bad, good}
	moon.Do(0, sa.NetworkChanged{Paths: []sa.Ends{{Local: bad, Remote: sunAddr}, {Local: good, Remote: sunAddr}}})
	w.Advance(time.Minute)
	standsAt(t, moon, "192.0.2.91:4500", "192.0.2.2:4500", false)
	standsAt(t, sun, "192.0.2.2:4500", "192.0.2.91:4500", false)
	if f, ok := satest.Find[event.Failed](moon); !ok || f.Facts[0].Value != "UNACCEPTABLE_ADDRESSES" {
		t.Errorf("%+v, expected the refusal", f)
	}
	moon.Also = nil
	goTo(moon, bad.String(), sunAddr)
	w.Advance(time.Minute)
	if len(moon.Live()) != 0 || !slices.Equal(moon.Restarts, []string{"sun/net"}) {
		t.Errorf("%d sessions and %q to start again, expected the tunnel to begin anew", len(moon.Live()), moon.Restarts)
	}
}

// TestWithoutMOBIKE: an initiator whose address is gone begins anew; one that has
// it still, and a responder, stay.
func TestWithoutMOBIKE(t *testing.T) {
	for _, only := range []string{"", "sun", "moon"} {
		w, moon, sun := established(t, 1, true, func(c *sa.Connection) { c.MOBIKE = c.Name == only })
		moon.Env.Addrs = []netip.Addr{moon.Addr, netip.MustParseAddr("192.0.2.90")}
		moon.Do(0, sa.NetworkChanged{Paths: []sa.Ends{{Local: netip.MustParseAddr("192.0.2.90"), Remote: sunAddr}}})
		w.Settle(100)
		if len(moon.Restarts) != 0 || len(moon.Live()) != 1 {
			t.Fatal("it left an address that is still there")
		}
		goTo(sun, "192.0.2.2")
		goTo(moon, "192.0.2.90", sunAddr)
		w.Settle(100)
		if len(moon.Live()) != 0 || !slices.Equal(moon.Restarts, []string{"sun/net"}) || len(sun.Restarts) != 0 {
			t.Errorf("MOBIKE only at %q: %d sessions and %q to start again", only, len(moon.Live()), moon.Restarts)
		}
		if sas, reserved, policies := moon.DP.Counts(); sas+reserved+policies != 0 {
			t.Errorf("%d SAs, %d SPIs, %d policies left", sas, reserved, policies)
		}
	}
}

// TestNoNATsAllowed: a peer that wants no NAT on its path is told of one, and
// nothing moves.
func TestNoNATsAllowed(t *testing.T) {
	w, moon, sun := mobile(t)
	for _, said := range []string{"192.0.2.1", "192.0.2.99"} {
		f := &forger{}
		no := notify(wire.NotifyNoNATsAllowed, append(append(netip.MustParseAddr(said).AsSlice(), sunAddr.AsSlice()...), 0x11, 0x94, 0x11, 0x94)...)
		var answer []wire.NotifyType
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if p.From.Addr() == moon.Addr {
				p.Data = f.rewrite(moon, p.Data, only(no, notify(wire.NotifyUpdateSAAddresses), notify(wire.NotifyCookie2, 1, 2, 3, 4, 5, 6, 7, 8)))
			} else {
				f.rewrite(sun, p.Data, func(ps []wire.Payload) []wire.Payload {
					for n := range wire.All[*wire.Notify](ps) {
						answer = append(answer, n.NotifyType)
					}
					return ps
				})
			}
			return []satest.Packet{p}
		}
		moon.Do(0, sa.NetworkChanged{})
		w.Settle(100)
		want := []wire.NotifyType{wire.NotifyCookie2}
		if said != "192.0.2.1" {
			want = append(want, wire.NotifyUnexpectedNATDetected)
		}
		if !slices.Equal(answer, want) {
			t.Errorf("from %s: answered %v, expected %v", said, answer, want)
		}
	}
	standsAt(t, sun, "192.0.2.2:4500", "192.0.2.1:4500", false)
}

// TestOnlyTheInitiatorUpdates: UPDATE_SA_ADDRESSES of the other side moves nobody.
func TestOnlyTheInitiatorUpdates(t *testing.T) {
	w, moon, sun := mobile(t)
	f := &forger{}
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.From.Addr() == sun.Addr {
			p.Data = f.rewrite(sun, p.Data, func(ps []wire.Payload) []wire.Payload {
				return append(ps, notify(wire.NotifyUpdateSAAddresses))
			})
			p.From = netip.MustParseAddrPort("192.0.2.66:4500")
		}
		return []satest.Packet{p}
	}
	sun.Do(0, sa.NetworkChanged{})
	w.Settle(100)
	standsAt(t, moon, "192.0.2.1:4500", "192.0.2.2:4500", false)
}

// TestCookie2: an answer that does not bring our COOKIE2 back was not made from
// our request, and ends the session on either side.
func TestCookie2(t *testing.T) {
	for _, who := range []string{"sun answers", "moon answers"} {
		w, moon, sun := mobile(t)
		from := sun
		if who == "moon answers" {
			from = moon
		}
		done := (&forger{}).answerOnce(w, from, wire.ExchangeInformational, func(ps []wire.Payload) []wire.Payload {
			return slices.DeleteFunc(ps, func(p wire.Payload) bool {
				n, ok := p.(*wire.Notify)
				return ok && n.NotifyType == wire.NotifyCookie2
			})
		})
		goTo(moon, "192.0.2.90", sunAddr)
		w.Settle(100)
		asked, other := moon, sun
		if from == moon {
			asked, other = sun, moon
		}
		up := func(n *satest.Node) bool { return len(n.Live()) > 0 && n.Live()[0].IsEstablished() }
		if !*done || up(asked) || !up(other) {
			t.Errorf("%s: %v, up: %v and %v, expected that the one that asked has left", who, *done, up(asked), up(other))
		}
	}
}
