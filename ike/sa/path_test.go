package sa_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// narrow is a network whose middle takes IP packets up to an MTU.
type narrow struct {
	w         *satest.World
	mtu       int
	fragments bool // of IP pass
	dropped   int  // packets that were too big
	largest   int
	slow      func(p satest.Packet) bool // lose this one, too
}

func (n *narrow) mangle(p satest.Packet) []satest.Packet {
	size := len(p.Data) + 28
	if p.From.Addr().Is6() {
		size += 20
	}
	if p.From.Port() == 4500 {
		size += 4
	}
	n.largest = max(n.largest, size)
	if size > n.mtu && (p.DF || !n.fragments) {
		n.dropped++
		return nil
	}
	if n.slow != nil && n.slow(p) {
		return nil
	}
	return []satest.Packet{p}
}

func probing(c *sa.Connection) { c.PathMTU = true }

// onPath makes a pair whose links take 1500 octets and whose path takes less.
func onPath(seed uint64, mtu int, fragments bool, opts ...satest.Option) (*narrow, *satest.Node, *satest.Node) {
	w := satest.New(seed)
	w.RoundTrip = true
	moon, sun := satest.Pair(w, append(opts, probing)...)
	moon.Link, sun.Link = 1500, 1500
	n := &narrow{w: w, mtu: mtu, fragments: fragments}
	w.Mangle = n.mangle
	return n, moon, sun
}

func mtuOf(t *testing.T, n *satest.Node) int {
	t.Helper()
	p := n.Live()[0].State().Path
	if p == nil {
		return 0
	}
	if e, ok := satest.Find[event.PathMTU](n); p.MTU != 0 && (!ok || e.MTU != p.MTU) {
		t.Errorf("%s: found %d, published %+v", n.Addr, p.MTU, e)
	}
	return int(p.MTU)
}

// TestPathMTU: what is found is what fits, whatever becomes of fragments.
func TestPathMTU(t *testing.T) {
	const cbc = "aes128-sha256-x25519"
	for _, c := range []struct {
		mtu       int
		fragments bool
		ike       string
		addrs     [2]string
		nat       bool
	}{
		{1500, true, "", [2]string{}, false}, {1499, true, "", [2]string{}, false}, {1400, true, "", [2]string{}, false},
		{1400, false, "", [2]string{}, false}, {576, false, "", [2]string{}, false}, {577, true, "", [2]string{}, false},
		{1400, true, cbc, [2]string{}, false}, {1500, false, cbc, [2]string{}, false}, {580, true, cbc, [2]string{}, false},
		{1412, true, "", [2]string{}, true}, {1400, false, "", [2]string{"2001:db8::1", "2001:db8::2"}, true},
		{1280, false, "", [2]string{"2001:db8::1", "2001:db8::2"}, false},
	} {
		opts := []satest.Option{func(x *sa.Connection) { x.Encap = c.nat }}
		least := c.mtu
		if c.ike != "" {
			opts, least = append(opts, satest.IKE(c.ike)), c.mtu-15
		}
		n, moon, sun := onPath(400, c.mtu, c.fragments, opts...)
		if c.addrs[0] != "" {
			moon.Addr, sun.Addr = netip.MustParseAddr(c.addrs[0]), netip.MustParseAddr(c.addrs[1])
		}
		small(moon, sun) // their set-up fits everywhere
		moon.Initiate("sun", "", sun.Addr)
		n.w.Advance(3 * time.Minute)
		assertUp(t, moon, sun)
		for _, x := range []*satest.Node{moon, sun} {
			if got := mtuOf(t, x); got > c.mtu || got < least {
				t.Errorf("%+v: %s found %d", c, x.Addr, got)
			}
		}
		if n.largest > 1500 {
			t.Errorf("%+v: a packet of %d octets", c, n.largest)
		}
		if c.mtu < 1499 && n.dropped == 0 {
			t.Errorf("%+v: nothing was dropped", c)
		}
		// A second search on the same path costs little.
		n.dropped = 0
		n.w.Advance(11 * time.Minute)
		if got := mtuOf(t, moon); got > c.mtu || got < least {
			t.Errorf("%+v: found %d the second time", c, got)
		}
		if n.dropped > 2*4*4 {
			t.Errorf("%+v: the second search lost %d packets", c, n.dropped)
		}
	}
}

// TestPathMTUOff: nobody probes unless told to.
func TestPathMTUOff(t *testing.T) {
	w := satest.New(401)
	moon, sun := satest.Pair(w)
	moon.Link, sun.Link = 1500, 1500
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if h := satest.Must(wire.ParseHeader(p.Data)); h.Exchange == wire.ExchangeInformational || p.DF {
			t.Error("a probe")
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Hour)
	assertUp(t, moon, sun)
	if moon.Live()[0].State().Path != nil {
		t.Error("the state of a search")
	}
}

// TestPathMTUProbe: DF on the first transmission only, the same bytes on the
// second, and with an empty request from the third on.
func TestPathMTUProbe(t *testing.T) {
	n, moon, sun := onPath(402, 1400, true)
	sun.Link = 0 // does not probe
	var sent []satest.Packet
	moon.Initiate("sun", "", sunAddr)
	n.w.Advance(500 * time.Millisecond)
	n.w.Mangle = func(p satest.Packet) []satest.Packet {
		if p.From.Addr() == moon.Addr {
			sent = append(sent, satest.Packet{Data: bytes.Clone(p.Data), DF: p.DF})
		}
		return nil
	}
	n.w.Advance(11 * time.Second)
	if len(sent) != 6 {
		t.Fatalf("%d packets", len(sent))
	}
	for i, p := range sent[1:] {
		if p.DF || i != 1 && i != 3 && !bytes.Equal(sent[0].Data, p.Data) {
			t.Errorf("packet %d: expected the probe without DF, got %d octets, DF %v", i+2, len(p.Data), p.DF)
		}
	}
	if !sent[0].DF || len(sent[0].Data) != 1500-28 {
		t.Errorf("expected a probe of 1500 octets with DF, got %d, DF %v", len(sent[0].Data), sent[0].DF)
	}
	probe, short := satest.Must(wire.ParseHeader(sent[0].Data)), satest.Must(wire.ParseHeader(sent[2].Data))
	if len(sent[2].Data) > 100 || short.MessageID != probe.MessageID || short.Exchange != probe.Exchange {
		t.Errorf("expected a short request in the place of the probe, got %+v", short)
	}
	if !bytes.Equal(sent[2].Data, sent[4].Data) || !bytes.Equal(sent[3].Data, sent[5].Data) {
		t.Error("they are not repeated as they were")
	}
}

// TestPathMTULoss: losses make a search longer or its result smaller, not wrong,
// and never end the session.
func TestPathMTULoss(t *testing.T) {
	found := map[bool]int{}
	for seed := range uint64(60) {
		n, moon, sun := onPath(seed, 1400, seed%2 == 0)
		n.w.RoundTrip = false
		moon.Initiate("sun", "", sunAddr)
		n.w.Settle(100)
		n.slow = func(satest.Packet) bool { return n.w.Rand().Uint64()%10 == 0 }
		n.w.Advance(time.Hour)
		n.slow = nil
		n.w.Advance(30 * time.Minute)
		assertUp(t, moon, sun)
		if got := mtuOf(t, moon); got > 1400 {
			t.Errorf("seed %d: found %d", seed, got)
		} else {
			found[got == 1400]++
		}
	}
	if found[true] < 57 {
		t.Errorf("%d of 60 found the MTU after the losses had ended", found[true])
	}
}

// TestPathMTUChanges: the path narrows and widens, the network changes, the peer moves.
func TestPathMTUChanges(t *testing.T) {
	n, moon, sun := onPath(403, 1500, true)
	moon.Initiate("sun", "", sunAddr)
	n.w.Advance(10 * time.Second)
	for i, c := range []struct {
		mtu  int
		tell bool
	}{{1400, false}, {1450, false}, {1300, true}, {1500, true}} {
		n.mtu = c.mtu
		wait := 12 * time.Minute
		if c.tell {
			moon.Do(0, sa.NetworkChanged{})
			wait = time.Minute
		}
		n.w.Advance(wait)
		if got := mtuOf(t, moon); got != c.mtu {
			t.Errorf("%d: found %d, want %d", i, got, c.mtu)
		}
	}
	// Between other addresses, what was found counts no more.
	moon.Live()[0].State().Path.Remote = netip.MustParseAddr("192.0.2.99")
	moon.Do(0, sa.Tick{})
	if got := moon.Live()[0].State().Path.MTU; got != 0 {
		t.Errorf("still %d on another path", got)
	}
	n.w.Advance(time.Minute)
	if got := mtuOf(t, moon); got != 1500 {
		t.Errorf("found %d on the other path", got)
	}
	assertUp(t, moon, sun)
}

// TestPathMTUNarrowsFragments: IKE fragments follow the path downward.
func TestPathMTUNarrowsFragments(t *testing.T) {
	n, moon, sun := onPath(404, 1000, true, satest.ESP("aes128gcm16-modp8192"))
	moon.Initiate("sun", "", sunAddr)
	n.w.Advance(time.Minute)
	if got := mtuOf(t, moon); got != 1000 {
		t.Fatalf("found %d", got)
	}
	n.largest = 0
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	n.w.Advance(30 * time.Second)
	if n.largest != 1000 {
		t.Errorf("the largest packet of a rekeying with 1024 octets of KE has %d", n.largest)
	}
	assertUp(t, moon, sun)
}
