package engine

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// probe is a peer without an engine: it sends octets and keeps what comes back.
type probe struct {
	tr   *memTransport
	from netip.AddrPort
}

func newProbe(f *fabric, addr string) *probe {
	return &probe{f.join(addr), netip.AddrPortFrom(netip.MustParseAddr(addr), 500)}
}

// ask sends one message to sun and returns the answers.
func (p *probe) ask(data []byte) (answers [][]byte) {
	_ = p.tr.Send(p.from, netip.AddrPortFrom(netip.MustParseAddr(sunAddr), 500), data)
	synctest.Wait()
	for {
		select {
		case d := <-p.tr.ch:
			answers = append(answers, d.Data)
		default:
			return answers
		}
	}
}

// realInit captures a real IKE_SA_INIT request.
func realInit(t *testing.T) []byte {
	f := newFabric()
	var got []byte
	f.join(sunAddr)
	f.setPass(func(_, _ netip.AddrPort, data []byte) bool {
		got = append([]byte(nil), data...)
		return false
	})
	moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, nil)
	if err := moon.Initiate(t.Context(), "sun", "net", true); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	moon.stop()
	return got
}

func withSPI(init []byte, spi uint64) []byte {
	b := append([]byte(nil), init...)
	binary.BigEndian.PutUint64(b, spi)
	return b
}

func TestFrontDoorDropsAndAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		init := realInit(t)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, fourShards)
		p := newProbe(f, moonAddr)
		change := func(at int, v byte) []byte {
			b := append([]byte(nil), init...)
			b[at] = v
			return b
		}
		header := func(h wire.Header) []byte { return wire.AppendMessage(nil, h, nil) }
		for _, c := range []struct {
			name   string
			data   []byte
			drop   Drop
			answer wire.NotifyType // 0: none
		}{
			{"empty", nil, DropShort, 0},
			{"short", init[:27], DropShort, 0},
			{"IKEv1", change(17, 0x10), DropVersion, 0},
			{"version 3", change(17, 0x30), DropVersion, wire.NotifyInvalidMajorVersion},
			{"version 3 response", header(wire.Header{SPIi: 1, SPIr: 2, Version: 0x30, Flags: wire.FlagResponse}), DropVersion, 0},
			{"length", change(27, init[27]+1), DropLength, 0},
			{"no SPI", withSPI(init, 0), DropSPI, 0},
			{"unknown SPI", header(wire.Header{SPIi: 1, SPIr: 2, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator, MessageID: 7}), DropUnknownSPI, wire.NotifyInvalidIKESPI},
			{"unknown SPI, we initiated", header(wire.Header{SPIi: 1, SPIr: 2, Exchange: wire.ExchangeInformational, MessageID: 7}), DropUnknownSPI, wire.NotifyInvalidIKESPI},
			{"unknown SPI response", header(wire.Header{SPIi: 1, SPIr: 2, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator | wire.FlagResponse}), DropUnknownSPI, 0},
			{"stray IKE_SA_INIT response", header(wire.Header{SPIi: 1, SPIr: 2, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagResponse}), DropUnknownSPI, 0},
		} {
			before := sun.counters.drops[c.drop].Load()
			answers := p.ask(c.data)
			if n := sun.counters.drops[c.drop].Load() - before; n != 1 {
				t.Errorf("%s: %d drops counted as %s, expected 1", c.name, n, c.drop)
			}
			if (c.answer != 0) != (len(answers) == 1) || len(answers) > 1 {
				t.Errorf("%s: %d answers, expected notify %d", c.name, len(answers), c.answer)
				continue
			}
			if c.answer != 0 {
				checkAnswer(t, c.name, c.data, answers[0], c.answer)
			}
		}
		if s := sun.Stats(); s.Sessions != 0 || s.HalfOpen != 0 {
			t.Errorf("garbage made sessions: %+v", s)
		}
		sun.stop()
	})
}

func checkAnswer(t *testing.T, name string, asked, answer []byte, want wire.NotifyType) {
	t.Helper()
	req, err := wire.ParseHeader(asked)
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.ParseMessage(answer)
	if err != nil {
		t.Errorf("%s: answer: %v", name, err)
		return
	}
	n, ok := wire.FindNotify(m.Payloads, want)
	if !ok || m.SPIi != req.SPIi || m.SPIr != req.SPIr || m.MessageID != req.MessageID || m.Exchange != req.Exchange ||
		!m.IsResponse() || m.IsInitiator() == req.IsInitiator() {
		t.Errorf("%s: answer %+v, expected notify %s and the request's header turned round", name, m.Header, want)
	}
	if want == wire.NotifyInvalidMajorVersion && (len(n.Data) != 1 || n.Data[0] != 2) {
		t.Errorf("%s: data %x, expected the version we speak", name, n.Data)
	}
}

func TestAnswersAreRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, nil, nil)
		p := newProbe(f, moonAddr)
		ask := func() (n int) {
			for i := range 500 {
				n += len(p.ask(wire.AppendMessage(nil, wire.Header{SPIi: wire.SPI(i + 1), SPIr: 2, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator}, nil)))
			}
			return n
		}
		if n := ask(); n != 20 {
			t.Errorf("500 requests at one instant got %d answers, expected the 20 of the burst", n)
		}
		time.Sleep(time.Second)
		if n := ask(); n != 10 {
			t.Errorf("a second later %d answers, expected 10", n)
		}
		if s := sun.Stats(); s.Muted != 1000-30 || s.Drops["unknown-spi"] != 1000 {
			t.Errorf("counters: %+v", s)
		}
		sun.stop()
	})
}

func TestCookies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		always := func(o *Options) { o.Settings.CookieThreshold = -1 }
		moon, sun := pair(t, f, always)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatalf("%v\n%s", err, sun.saw())
		}
		synctest.Wait()
		if s := sun.Stats(); s.Drops["cookie-demanded"] != 1 || s.Drops["bad-cookie"] != 0 || s.Established != 1 {
			t.Errorf("counters: %+v", s)
		}
		moon.stop()

		init := realInit(t)
		p := newProbe(f, "192.0.2.3")
		answers := p.ask(init)
		if len(answers) != 1 {
			t.Fatalf("%d answers, expected a COOKIE", len(answers))
		}
		m, err := wire.ParseMessage(answers[0])
		if err != nil {
			t.Fatal(err)
		}
		cookie := sa.CookieOf(m)
		if len(cookie) == 0 || len(cookie) > 64 || m.SPIr != 0 {
			t.Errorf("cookie of %d octets, SPIr %s: expected 1 to 64 and none (RFC 7296 2.6)", len(cookie), m.SPIr)
		}
		if s := sun.Stats(); s.HalfOpen != 0 {
			t.Errorf("a demand for a cookie left state: %+v", s)
		}
		forged := append([]byte(nil), cookie...)
		forged[len(forged)-1] ^= 1
		p.ask(withCookie(t, init, forged))
		if s := sun.Stats(); s.Drops["bad-cookie"] != 1 || s.HalfOpen != 0 {
			t.Errorf("a forged cookie: %+v", s)
		}
		// From another address the cookie is worth nothing.
		newProbe(f, "192.0.2.4").ask(withCookie(t, init, cookie))
		if s := sun.Stats(); s.Drops["bad-cookie"] != 2 || s.HalfOpen != 0 {
			t.Errorf("another's cookie: %+v", s)
		}
		p.ask(withCookie(t, init, cookie))
		if s := sun.Stats(); s.HalfOpen != 1 {
			t.Errorf("the right cookie was not taken: %+v", s)
		}
		// A repetition, with or without, meets the same session.
		if n := len(p.ask(withCookie(t, init, cookie))); n != 1 || sun.Stats().HalfOpen != 1 {
			t.Errorf("a repeated request: %d answers, %d half open", n, sun.Stats().HalfOpen)
		}
		sun.stop()
	})
}

// withCookie puts the cookie before an IKE_SA_INIT request's payloads.
func withCookie(t *testing.T, init, cookie []byte) []byte {
	t.Helper()
	m, err := wire.ParseMessage(init)
	if err != nil {
		t.Fatal(err)
	}
	ps := append([]wire.Payload{&wire.Notify{NotifyType: wire.NotifyCookie, Data: cookie}}, m.Payloads...)
	return wire.AppendMessage(nil, m.Header, ps)
}

func TestCookieSecretsChange(t *testing.T) {
	jar := newCookieJar(&lockedReader{r: &countingReader{}})
	now := time.Unix(1e9, 0)
	addr := netip.MustParseAddr(moonAddr)
	ni := []byte("nonce nonce nonce")
	c := jar.bake(now, ni, addr, 7)
	for _, after := range []struct {
		d    time.Duration
		good bool
	}{{0, true}, {cookieLife - time.Second, true}, {cookieLife + time.Second, true}, {2*cookieLife + 2*time.Second, false}} {
		if got := jar.accepts(now.Add(after.d), c, ni, addr, 7); got != after.good {
			t.Errorf("after %v: accepted %v, expected %v", after.d, got, after.good)
		}
	}
	later := now.Add(time.Hour)
	c = jar.bake(later, ni, addr, 7)
	if jar.accepts(later, c, ni, addr, 8) || jar.accepts(later, c, ni[1:], addr, 7) || jar.accepts(later, nil, ni, addr, 7) || !jar.accepts(later, c, ni, addr, 7) {
		t.Error("a cookie must be bound to nonce, address and SPI")
	}
	// After a long silence the secret before is too old to count.
	if jar.accepts(later.Add(time.Hour), c, ni, addr, 7) {
		t.Error("a cookie of an hour ago was accepted")
	}
}

// countingReader is a source of bytes that differ.
type countingReader struct{ n byte }

func (c *countingReader) Read(p []byte) (int, error) {
	for i := range p {
		c.n++
		p[i] = c.n
	}
	return len(p), nil
}

func TestFloodIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		init := realInit(t)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, func(o *Options) {
			o.Settings.Shards, o.Settings.CookieThreshold, o.Settings.MaxHalfOpen, o.Settings.MaxHalfOpenPerPrefix = 2, 50, 80, 30
		})
		from := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 500)
		}
		to := netip.AddrPortFrom(netip.MustParseAddr(sunAddr), 500)
		for i := range 5000 {
			sun.frontDoor(sockets.Datagram{Local: to, Remote: from(i), Data: withSPI(init, uint64(i+1))})
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if s := sun.Stats(); s.HalfOpen < 50 || s.HalfOpen > 80 || s.Sessions != s.HalfOpen || s.Drops["cookie-demanded"] < 4000 {
			t.Errorf("after a flood from many addresses: %+v", s)
		}
		// A peer who means it comes through with the flood's sessions still there.
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Errorf("under the flood: %v\n%s", err, moon.saw())
		}
		time.Sleep(2 * time.Minute)
		if s := sun.Stats(); s.HalfOpen != 0 || s.Sessions != 1 {
			t.Errorf("after the flood: %+v", s)
		}
		moon.stop()

		// One address alone reaches only its share.
		for i := range 200 {
			sun.frontDoor(sockets.Datagram{Local: to, Remote: from(1), Data: withSPI(init, uint64(i+1))})
		}
		synctest.Wait()
		if s := sun.Stats(); s.HalfOpen != 30 || s.Drops["prefix-limit"] == 0 {
			t.Errorf("a flood from one address: %+v", s)
		}
		sun.stop()
	})
}

func TestMaxHalfOpenAndOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		init := realInit(t)
		sun := newBox(t, newFabric(), sunAddr, []*sa.Connection{sunConn()}, func(o *Options) {
			o.Settings.CookieThreshold, o.Settings.MaxHalfOpen = 1000, 5
		})
		to := netip.AddrPortFrom(netip.MustParseAddr(sunAddr), 500)
		for i := range 20 {
			sun.frontDoor(sockets.Datagram{Local: to, Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 500), Data: withSPI(init, uint64(i+1))})
		}
		synctest.Wait()
		if s := sun.Stats(); s.HalfOpen != 5 || s.Drops["half-open-limit"] != 15 {
			t.Errorf("expected 5 half open and 15 dropped: %+v", s)
		}
		// Half-open sessions end by themselves and say why.
		time.Sleep(time.Minute)
		if s := sun.Stats(); s.HalfOpen != 0 || s.Sessions != 0 || s.Timers != 0 {
			t.Errorf("after the timeout: %+v", s)
		}
		if !strings.Contains(sun.saw(), "HALF_OPEN_TIMEOUT") {
			t.Error("no word about the timeouts")
		}
		sun.stop()
	})
}

func TestInitBucket(t *testing.T) {
	var e Engine
	e.hashKey[0] = 1
	a, b := netip.MustParseAddr(moonAddr), netip.MustParseAddr(sunAddr)
	seen := map[uint8]bool{}
	for i := range 2000 {
		bucket := e.initBucket(wire.SPI(i), a)
		if bucket != e.initBucket(wire.SPI(i), a) {
			t.Fatal("a retransmission would come to another bucket")
		}
		seen[bucket] = true
	}
	if len(seen) < 250 {
		t.Errorf("2000 SPIs fill %d of 256 buckets", len(seen))
	}
	var other Engine
	other.hashKey[0] = 2
	same := 0
	for i := range 200 {
		if e.initBucket(wire.SPI(i), a) == e.initBucket(wire.SPI(i), b) || e.initBucket(wire.SPI(i), a) == other.initBucket(wire.SPI(i), a) {
			same++
		}
	}
	if same > 20 {
		t.Errorf("%d of 200 buckets do not depend on address or key", same)
	}
}

// TestFloodFromOnePrefix: whatever comes from one prefix, in whatever number,
// peers of another get through, and what was dropped is counted.
func TestFloodFromOnePrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		init := realInit(t)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, func(o *Options) {
			// No cookies, so that the flood's addresses may be real.
			o.Settings.Shards, o.Settings.CookieThreshold = 2, 1<<20
			o.Settings.MaxHalfOpen, o.Settings.MaxHalfOpenPerPrefix, o.Settings.HalfOpenPrefix4 = 200, 50, 24
		})
		to := netip.AddrPortFrom(netip.MustParseAddr(sunAddr), 500)
		flood := func(net byte, n int) {
			for i := range n {
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, net, byte(i)}), 500)
				sun.frontDoor(sockets.Datagram{Local: to, Remote: from, Data: withSPI(init, uint64(net)<<32|uint64(i+1))})
				if i%100 == 0 {
					synctest.Wait()
				}
			}
			synctest.Wait()
		}
		flood(1, 2000)
		if s := sun.Stats(); s.HalfOpen != 50 || s.Drops["prefix-limit"] != 1950 {
			t.Errorf("one /24: %d half open, %d dropped for the prefix, expected 50 and 1950", s.HalfOpen, s.Drops["prefix-limit"])
		}
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Errorf("under the flood: %v", err)
		}
		// The limits may change while sessions are counted by the old ones.
		set := sun.config.Load().settings
		set.HalfOpenPrefix4 = 8
		if err := sun.Apply(sun.config.Load().set.All(), testCreds(), set, Changes{}); err != nil {
			t.Fatal(err)
		}
		flood(2, 100)
		time.Sleep(time.Minute)
		if s := sun.Stats(); s.HalfOpen != 0 || len(sun.reg.prefixes) != 0 {
			t.Errorf("after the flood: %d half open, prefixes %v", s.HalfOpen, sun.reg.prefixes)
		}
		moon.stop()
		sun.stop()
	})
}

// What a session leaves aside is counted.
func TestDiscardedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		var last []byte
		f.setPass(func(from, _ netip.AddrPort, data []byte) bool {
			if from.Addr() == netip.MustParseAddr(moonAddr) {
				last = append([]byte(nil), data...)
			}
			return true
		})
		moon, sun := pair(t, f, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		last[len(last)-1] ^= 1
		for range 3 {
			_ = moon.tr.Send(netip.MustParseAddrPort(moonAddr+":500"), netip.MustParseAddrPort(sunAddr+":500"), last)
		}
		synctest.Wait()
		if n := sun.Stats().Discarded; n != 3 {
			t.Errorf("counted %d, expected 3", n)
		}
		moon.stop()
		sun.stop()
	})
}
