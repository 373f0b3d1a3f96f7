package sa_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// redirectTo is a REDIRECT's data without nonce.
func redirectTo(typ byte, id []byte) []byte {
	return append([]byte{typ, byte(len(id))}, id...)
}

// nonceOf is the nonce of the request that data is.
func nonceOf(data []byte) []byte {
	n, _ := wire.First[*wire.Nonce](satest.Must(wire.ParseMessage(data)).Payloads)
	return n.Data
}

func TestRedirectInInit(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::7").As16()
	for _, c := range []struct {
		name string
		data []byte // before the nonce
		bad  bool   // with another nonce
		off  bool   // follow_redirects = no
		to   string // empty: ignored
	}{
		{"IPv4", redirectTo(1, []byte{192, 0, 2, 7}), false, false, "192.0.2.7"},
		{"IPv6", redirectTo(2, v6[:]), false, false, "2001:db8::7"},
		{"name", redirectTo(3, []byte("gw.example.org")), false, false, "gw.example.org"},
		{"wrong nonce", redirectTo(1, []byte{192, 0, 2, 7}), true, false, ""},
		{"unknown type", redirectTo(9, []byte{192, 0, 2, 7}), false, false, ""},
		{"no name", redirectTo(3, []byte("a b;c")), false, false, ""},
		{"wrong length", []byte{1, 200, 192, 0, 2, 7}, false, false, ""},
		{"switched off", redirectTo(1, []byte{192, 0, 2, 7}), false, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := satest.New(71)
			moon, sun := satest.Pair(w)
			moon.Env.Settings.FollowRedirects = !c.off
			answered := false
			w.Mangle = func(p satest.Packet) []satest.Packet {
				if p.To.Addr() != sun.Addr || answered {
					return []satest.Packet{p}
				}
				answered = true
				msg := satest.Must(wire.ParseMessage(p.Data))
				if _, ok := wire.FindNotify(msg.Payloads, wire.NotifyRedirectSupported); ok == c.off {
					t.Errorf("REDIRECT_SUPPORTED announced: %v", ok)
				}
				nonce := nonceOf(p.Data)
				if c.bad {
					nonce = make([]byte, len(nonce))
				}
				h := wire.Header{SPIi: msg.SPIi, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagResponse}
				answer := wire.AppendMessage(nil, h, []wire.Payload{notify(wire.NotifyRedirect, append(c.data, nonce...)...)})
				return []satest.Packet{{From: p.To, To: p.From, Data: answer}, p}
			}
			moon.Initiate("sun", "", sunAddr)
			w.Advance(20 * time.Second)
			if c.to == "" {
				if len(moon.Redirects) != 0 {
					t.Errorf("followed: %+v", moon.Redirects)
				}
				assertUp(t, moon, sun) // the real answer came behind
				return
			}
			if len(moon.Redirects) != 1 || moon.Redirects[0].To.String() != c.to || moon.Redirects[0].Established || moon.Redirects[0].From.String() != sunAddr.String() {
				t.Fatalf("%+v\n%s", moon.Redirects, dump(moon))
			}
			if len(moon.Live()) != 0 {
				t.Error("the attempt goes on here")
			}
		})
	}
}

func TestRedirectInAuth(t *testing.T) {
	w := satest.New(72)
	w.RoundTrip = true
	moon, sun := satest.Pair(w)
	var f forger
	f.answerOnce(w, sun, wire.ExchangeIKEAuth, func(ps []wire.Payload) []wire.Payload {
		return append(ps, notify(wire.NotifyRedirect, redirectTo(1, []byte{192, 0, 2, 7})...))
	})
	moon.Initiate("sun", "", sunAddr)
	w.Advance(time.Minute)
	if len(moon.Redirects) != 1 || moon.Redirects[0].To.String() != "192.0.2.7" {
		t.Fatalf("%+v\n%s", moon.Redirects, dump(moon))
	}
	assertNothing(t, moon)
	assertNothing(t, sun) // it was told
}

// The gateway's side, and a client that goes: what it had stays until the new
// session stands.
func TestRedirectLater(t *testing.T) {
	for _, rekeyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("rekeyed by the gateway: %v", rekeyed), func(t *testing.T) { redirectLater(t, rekeyed) })
	}
}

func redirectLater(t *testing.T, rekeyed bool) {
	w, moon, sun := established(t, 73, true)
	if rekeyed { // which makes it the initiator of what is now the IKE SA, but not of the session
		sun.Do(0, sa.Rekey{})
		w.Settle(20)
		if moon.Live()[0].Initiator() {
			t.Fatal("not rekeyed")
		}
	}
	mars := w.Add("192.0.2.3", sun.Env.Conns.All(), sun.Env.Creds)
	if !sun.Live()[0].CanRedirect() || moon.Live()[0].CanRedirect() {
		t.Error("it is the client that is redirected")
	}
	sun.Do(0, sa.SendRedirect{Gateway: satest.Must(sa.ParseGateway("192.0.2.3"))})
	w.Settle(20)
	if len(moon.Redirects) != 1 || !moon.Redirects[0].Established {
		t.Fatalf("%+v\n%s", moon.Redirects, dump(moon))
	}
	assertUp(t, moon, sun)
	a := moon.Redirects[0]
	m := sa.NewReplacement(100, sa.NewSPI(1, 0, w.Rand()), moon.Env.Conns.All()[0], moon.Live()[0])
	m.SetRedirect(a, netip.AddrPortFrom(moon.Addr, 500), netip.AddrPortFrom(a.To.Addr, 500))
	from := false
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if h := satest.Must(wire.ParseHeader(p.Data)); h.Exchange == wire.ExchangeIKESAInit && p.To.Addr() == mars.Addr {
			n, ok := wire.FindNotify(satest.Must(wire.ParseMessage(p.Data)).Payloads, wire.NotifyRedirectedFrom)
			from = ok && string(n.Data) == string(redirectTo(1, []byte{192, 0, 2, 2}))
		}
		return []satest.Packet{p}
	}
	moon.Sessions = append(moon.Sessions, m)
	moon.Do(len(moon.Sessions)-1, sa.Start{})
	w.Advance(time.Minute)
	assertUp(t, moon, mars)
	assertNothing(t, sun)
	if !from {
		t.Error("no REDIRECTED_FROM with the first gateway's address")
	}
}

// Gateways that redirect to each other are left after five times in 300 s; after
// that it counts anew (RFC 5685 7).
func TestRedirectLoop(t *testing.T) {
	for _, pause := range []time.Duration{time.Second, 2 * time.Minute} {
		w := satest.New(74)
		moon, _ := satest.Pair(w)
		follow := func(m *sa.Machine) (a sa.Redirected, ok bool) {
			moon.Sessions = []*sa.Machine{m}
			moon.Do(0, sa.Start{})
			var request satest.Packet
			w.Mangle = func(p satest.Packet) []satest.Packet { request = p; return nil }
			w.Settle(5)
			msg := satest.Must(wire.ParseMessage(request.Data))
			h := wire.Header{SPIi: msg.SPIi, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagResponse}
			n := len(moon.Redirects)
			moon.Do(0, sa.Received{Local: request.From, Remote: request.To,
				Data: wire.AppendMessage(nil, h, []wire.Payload{notify(wire.NotifyRedirect, append(redirectTo(1, []byte{192, 0, 2, 2}), nonceOf(request.Data)...)...)})})
			if len(moon.Redirects) == n {
				return a, false
			}
			return moon.Redirects[n], true
		}
		local, remote := netip.AddrPortFrom(moon.Addr, 500), netip.AddrPortFrom(sunAddr, 500)
		followed := 0
		var a sa.Redirected
		for i := range 10 {
			m := sa.NewInitiator(uint64(i+1), sa.NewSPI(1, 0, w.Rand()), moon.Env.Conns.All()[0], "", local, remote)
			if i > 0 {
				m.SetRedirect(a, local, remote)
			}
			var ok bool
			if a, ok = follow(m); !ok {
				break
			}
			followed++
			w.Now = w.Now.Add(pause)
		}
		want := map[time.Duration]int{time.Second: 5, 2 * time.Minute: 10}[pause]
		if followed != want {
			t.Errorf("%v apart: followed %d, expected %d", pause, followed, want)
		}
		if f, ok := satest.Find[event.Failed](moon); ok != (want == 5) {
			t.Errorf("%v apart: %+v", pause, f)
		}
	}
}

func TestParseGateway(t *testing.T) {
	for s, good := range map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "gw.example.org": true, "gw.example.org.": true,
		"": false, "a b": false, "gw..org": false, "-": true, "fe80::1%eth0": false, fmt.Sprintf("%0254d", 1): false} {
		if _, err := sa.ParseGateway(s); (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
}
