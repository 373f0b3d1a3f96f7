package sa_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// fragmentOf parses a datagram that holds a fragment.
func fragmentOf(p satest.Packet) (*wire.Message, *wire.SKF, bool) {
	msg, err := wire.ParseMessage(p.Data)
	if err != nil {
		return nil, nil, false
	}
	skf, ok := msg.SKF()
	return msg, skf, ok
}

// small lets nodes send IP packets of 576 octets.
func small(nodes ...*satest.Node) {
	for _, n := range nodes {
		n.Env.Settings.FragmentSize = 576
	}
}

func mode(f sa.FragmentMode) satest.Option {
	return func(c *sa.Connection) { c.Fragmentation = f }
}

// TestFragments: long messages go in fragments that fit, both ways, in every
// exchange but IKE_SA_INIT, and the session comes up and is rekeyed.
func TestFragments(t *testing.T) {
	w := satest.New(300)
	w.RoundTrip = true
	// 512 octets of KE in IKE_INTERMEDIATE: its AUTH covers fragmented messages.
	moon, sun := satest.PubkeyPair(w, "rsa", satest.IKE("aes128-sha256-x25519-ke1_modp4096"), satest.ESP("aes128gcm16-modp4096"))
	small(moon, sun)
	seen := map[string]int{}
	w.Mangle = func(p satest.Packet) []satest.Packet {
		msg, skf, ok := fragmentOf(p)
		if ok {
			seen[fmt.Sprint(msg.Exchange, " ", msg.IsResponse())]++
			if len(p.Data) > 576-28 || skf.FragmentNumber < skf.TotalFragments && len(p.Data) < 576-28-16 {
				t.Errorf("fragment %d of %d has %d octets", skf.FragmentNumber, skf.TotalFragments, len(p.Data))
			}
		} else if h := satest.Must(wire.ParseHeader(p.Data)); h.Exchange != wire.ExchangeIKESAInit && len(p.Data) > 576-28 {
			t.Errorf("%s of %d octets in one piece", h.Exchange, len(p.Data))
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(200)
	assertUp(t, moon, sun)
	// The new IKE SA can do what the old one could.
	sun.Do(0, sa.Rekey{})
	w.Advance(time.Second)
	moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
	w.Advance(time.Minute)
	assertUp(t, moon, sun)
	for _, ex := range []wire.ExchangeType{wire.ExchangeIKEIntermediate, wire.ExchangeIKEAuth, wire.ExchangeCreateChildSA} {
		for _, response := range []bool{false, true} {
			if n := seen[fmt.Sprint(ex, " ", response)]; n < 2 {
				t.Errorf("%s, response %v: %d fragments", ex, response, n)
			}
		}
	}
}

// TestFragmentModes: who announces, and who sends fragments.
func TestFragmentModes(t *testing.T) {
	for _, c := range []struct {
		moon, sun            sa.FragmentMode
		notifies             int
		moonSplits, sunSplit bool
	}{
		{sa.FragmentYes, sa.FragmentYes, 2, true, true},
		{sa.FragmentAccept, sa.FragmentYes, 2, false, true},
		{sa.FragmentYes, sa.FragmentAccept, 2, true, false},
		{sa.FragmentNo, sa.FragmentYes, 0, false, false},
		{sa.FragmentYes, sa.FragmentNo, 1, false, false},
	} {
		w := satest.New(301)
		moon, sun := satest.PubkeyPair(w, "rsa")
		mode(c.moon)(moon.Env.Conns.All()[0])
		mode(c.sun)(sun.Env.Conns.All()[0])
		small(moon, sun)
		notifies, splits := 0, map[netip.Addr]bool{}
		w.Mangle = func(p satest.Packet) []satest.Packet {
			msg := satest.Must(wire.ParseMessage(p.Data))
			if _, ok := wire.FindNotify(msg.Payloads, wire.NotifyIKEv2FragmentationSupported); ok {
				notifies++
			}
			if _, ok := msg.SKF(); ok {
				splits[p.From.Addr()] = true
			}
			return []satest.Packet{p}
		}
		moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		assertUp(t, moon, sun)
		if notifies != c.notifies || splits[moon.Addr] != c.moonSplits || splits[sun.Addr] != c.sunSplit {
			t.Errorf("%+v: %d notifies, fragments from %v", c, notifies, splits)
		}
	}
}

// TestFragmentsPacketSize: the size is that of the IP packet, UDP and the
// non-ESP marker included, in either family.
func TestFragmentsPacketSize(t *testing.T) {
	for _, c := range []struct {
		moon, sun string
		nat       bool
		overhead  int
	}{
		{"192.0.2.1", "192.0.2.2", false, 28}, {"192.0.2.1", "192.0.2.2", true, 32},
		{"2001:db8::1", "2001:db8::2", false, 48}, {"2001:db8::1", "2001:db8::2", true, 52},
	} {
		w := satest.New(302)
		moon, sun := satest.PubkeyPair(w, "rsa", func(x *sa.Connection) { x.Encap = c.nat })
		moon.Addr, sun.Addr = netip.MustParseAddr(c.moon), netip.MustParseAddr(c.sun)
		moon.Env.Settings.FragmentSize = 700
		longest := 0
		w.Mangle = func(p satest.Packet) []satest.Packet {
			if _, _, ok := fragmentOf(p); ok && p.From.Addr() == moon.Addr {
				longest = max(longest, len(p.Data))
			}
			return []satest.Packet{p}
		}
		moon.Initiate("sun", "", sun.Addr)
		w.Settle(100)
		assertUp(t, moon, sun)
		if longest != 700-c.overhead {
			t.Errorf("%+v: the longest fragment has %d octets, want %d", c, longest, 700-c.overhead)
		}
	}
}

// TestFragmentsBadNetwork: losses, doubles and late arrivals of fragments.
func TestFragmentsBadNetwork(t *testing.T) {
	up := 0
	for seed := range uint64(40) {
		w := satest.New(seed)
		w.RoundTrip = seed%4 == 0
		moon, sun := satest.PubkeyPair(w, "ecdsa", satest.IKE("aes128gcm16-prfsha256-x25519"))
		small(moon, sun)
		var late []satest.Packet
		w.Mangle = func(p satest.Packet) []satest.Packet {
			out := []satest.Packet{p}
			switch w.Rand().Uint64() % 8 {
			case 0:
				out = nil
			case 1:
				out = append(out, p)
			case 2:
				late = append(late, p)
				return nil
			case 3:
				out, late = append(out, late...), nil
			}
			return out
		}
		moon.Initiate("sun", "", sunAddr)
		w.Advance(3 * time.Minute)
		if len(moon.Live()) == 1 && moon.Live()[0].IsEstablished() && len(sun.Live()) == 1 && sun.Live()[0].IsEstablished() {
			assertUp(t, moon, sun)
			up++
		}
	}
	if up < 30 {
		t.Errorf("%d of 40 came up", up)
	}
}

// TestFragmentsRetransmission: a request is repeated as the same fragments, and
// fragment 1 alone brings the whole answer once more (RFC 7383 2.6.1).
func TestFragmentsRetransmission(t *testing.T) {
	w := satest.New(303)
	moon, sun := satest.PubkeyPair(w, "rsa")
	small(moon, sun)
	var requests, answers []satest.Packet
	deaf := true
	w.Mangle = func(p satest.Packet) []satest.Packet {
		p.Data = bytes.Clone(p.Data) // it is decrypted in place
		if msg, _, ok := fragmentOf(p); ok && msg.IsResponse() {
			answers = append(answers, p)
			if deaf {
				return nil
			}
		} else if ok {
			requests = append(requests, satest.Packet{From: p.From, To: p.To, Data: bytes.Clone(p.Data)})
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	n, a := len(requests), len(answers)
	if n < 3 || a < 3 {
		t.Fatalf("%d fragments of the request, %d of the answer", n, a)
	}
	w.Advance(5 * time.Second) // one retransmission
	if len(requests) != 2*n || len(answers) != 2*a {
		t.Fatalf("%d fragments of the request became %d, %d of the answer %d", n, len(requests), a, len(answers))
	}
	for i := range n {
		if !bytes.Equal(requests[i].Data, requests[n+i].Data) {
			t.Errorf("fragment %d of the request is not repeated as it was", i+1)
		}
	}
	for i := range a {
		if !bytes.Equal(answers[i].Data, answers[a+i].Data) {
			t.Errorf("fragment %d of the answer is not repeated as it was", i+1)
		}
	}
	deaf = false
	w.Advance(time.Minute)
	assertUp(t, moon, sun)
}

// TestFragmentsRetransmissionAfterKeys: a fragmented request is known again when
// the keys that it came with have gone (RFC 9370 2.2.2).
func TestFragmentsRetransmissionAfterKeys(t *testing.T) {
	w := satest.New(307)
	moon, sun := satest.Pair(w, satest.IKE("aes128-sha256-x25519-ke1_modp4096"))
	small(moon, sun)
	lost := 0
	w.Mangle = func(p satest.Packet) []satest.Packet {
		if msg, skf, ok := fragmentOf(p); ok && msg.Exchange == wire.ExchangeIKEIntermediate && msg.IsResponse() && lost < int(skf.TotalFragments) {
			lost++
			return nil
		}
		return []satest.Packet{p}
	}
	moon.Initiate("sun", "", sunAddr)
	w.Advance(20 * time.Second)
	if lost < 2 {
		t.Fatalf("%d fragments of an answer lost", lost)
	}
	assertUp(t, moon, sun)
}

// peerOf seals messages as moon would, with the session's own keys.
type peerOf struct {
	t    *testing.T
	w    *satest.World
	sun  *satest.Node
	k    *sa.IKE
	seal wire.Sealer
}

func newPeerOf(t *testing.T, seed uint64) *peerOf {
	t.Helper()
	w := satest.New(seed)
	moon, sun := satest.Pair(w)
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
	k := &moon.Live()[0].State().IKE
	s, err := suite.NewSealer(k.Chosen, k.Keys.Ei, k.Keys.Ai, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return &peerOf{t, w, sun, k, s}
}

// cut makes an INFORMATIONAL request of so many octets in fragments of a size.
func (p *peerOf) cut(id uint32, octets, size int) [][]byte {
	p.t.Helper()
	h := wire.Header{SPIi: p.k.SPIi, SPIr: p.k.SPIr, Exchange: wire.ExchangeInformational, MessageID: id, Flags: wire.FlagInitiator}
	var ps []wire.Payload
	for octets > 0 {
		n := min(octets, 60000)
		ps = append(ps, &wire.Notify{NotifyType: 40960, Data: make([]byte, n)})
		octets -= n
	}
	f, err := wire.AppendFragments(h, ps, p.seal, size)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// give lets sun receive a datagram and returns how many sun sends.
func (p *peerOf) give(data []byte) int {
	p.sun.Env.Now = p.w.Now
	n := 0
	for _, a := range p.sun.Live()[0].Handle(&p.sun.Env, sa.Received{Local: p.k.Remote, Remote: p.k.Local, Data: bytes.Clone(data)}) {
		switch a := a.(type) {
		case sa.Send:
			n++
		case sa.Publish:
			p.sun.Events = append(p.sun.Events, a.Event)
		}
	}
	return n
}

func (p *peerOf) state() *sa.State { return p.sun.Live()[0].State() }

// discarded expects the last message to have been ignored for a reason.
func (p *peerOf) discarded(reason string) {
	p.t.Helper()
	if d, _ := satest.Find[event.Discarded](p.sun); !strings.Contains(d.Reason, reason) {
		p.t.Errorf("expected a message to be ignored for %q, the last reason is %q", reason, d.Reason)
	}
	p.sun.Events = nil
}

// TestFragmentsRules: what RFC 7383 2.6 says of each fragment.
func TestFragmentsRules(t *testing.T) {
	p := newPeerOf(t, 304)
	id := p.state().IKE.NextIn
	three, four := p.cut(id, 1500, 600), p.cut(id, 1500, 500)
	if len(three) != 3 || len(four) != 4 {
		t.Fatalf("cut in %d and %d", len(three), len(four))
	}
	forged := bytes.Clone(three[0])
	forged[len(forged)-1]++
	before := p.sun.Live()[0].Encode(nil)
	p.give(forged)
	p.discarded("")
	p.give(p.cut(id+1, 1500, 600)[0])
	p.discarded("outside the window")
	if !bytes.Equal(before, p.sun.Live()[0].Encode(nil)) {
		t.Error("a forged or early fragment changed the state")
	}
	p.give(three[1])
	p.give(three[1])
	p.discarded("repeated fragment")
	p.give(three[2])
	forged = bytes.Clone(four[3])
	forged[len(forged)-1]++
	p.give(forged)
	p.discarded("")
	if f := p.state().Fragments; len(f) != 1 || len(f[0].Parts) != 3 || f[0].Parts[1] == nil || f[0].Parts[0] != nil {
		t.Fatalf("expected fragments 2 and 3 of 3 to wait, got %+v", f)
	}
	// Cut into more: those count, and the others no more.
	p.give(four[0])
	p.give(three[0])
	p.discarded("fewer")
	if p.give(four[1])+p.give(four[3]) != 0 || p.give(four[2]) != 1 {
		t.Error("expected an answer to the last of four fragments")
	}
	if p.state().Fragments != nil || p.state().IKE.NextIn != id+1 {
		t.Errorf("not all of it is gone: %+v", p.state().Fragments)
	}
	// The first of them asks for the answer again, as does the first of another cut.
	for i, f := range four {
		if n := p.give(f); (n == 1) != (i == 0) {
			t.Errorf("fragment %d again: %d answers", i+1, n)
		}
	}
	if p.give(three[0]) != 1 || p.give(three[1]) != 0 {
		t.Error("fragment 1 of another cut: expected an answer, and none to fragment 2")
	}
	forged = bytes.Clone(three[0])
	forged[len(forged)-1]++
	if p.give(forged) != 0 {
		t.Error("a forged fragment 1 got the answer")
	}
}

// TestFragmentsBounds: number, octets and time.
func TestFragmentsBounds(t *testing.T) {
	p := newPeerOf(t, 305)
	id := p.state().IKE.NextIn
	many := p.cut(id, 257*100, 160)
	if len(many) < 257 {
		t.Fatalf("only %d fragments", len(many))
	}
	p.give(many[0])
	p.discarded("more than 256 fragments")
	for _, f := range p.cut(id, 70_000, 1200) {
		if p.give(f) != 0 {
			t.Error("a message of 70,000 octets was answered")
		}
		if d, ok := satest.Find[event.Discarded](p.sun); ok && strings.Contains(d.Reason, "more than 65536 octets") {
			break
		}
	}
	p.discarded("more than 65536 octets")
	if p.state().Fragments != nil {
		t.Error("they still wait")
	}
	f := p.cut(id, 1500, 600)
	p.give(f[0])
	due := p.sun.Live()[0].Deadline()
	if want := p.w.Now.Add(30 * time.Second); due.After(want) {
		t.Errorf("deadline %v, want %v or before", due, want)
	}
	p.w.Advance(29 * time.Second)
	if len(p.state().Fragments) != 1 {
		t.Error("dropped too early")
	}
	p.w.Advance(2 * time.Second)
	p.discarded("did not come within 30s")
	if p.state().Fragments != nil {
		t.Error("they still wait")
	}
	// In one piece after all: what waits of it is dropped.
	p.give(f[0])
	if p.give(p.cut(id, 1500, 6000)[0]) != 1 || p.state().Fragments != nil {
		t.Error("expected the whole message to count, and its fragments no more")
	}
}

// TestFragmentsState: fragments that wait are part of the state.
func TestFragmentsState(t *testing.T) {
	p := newPeerOf(t, 306)
	f := p.cut(p.state().IKE.NextIn, 1500, 600)
	p.give(f[2])
	p.give(f[0])
	b := p.sun.Live()[0].Encode(nil)
	m, err := sa.Decode(b, p.sun.Env.Conns)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, m.Encode(nil)) {
		t.Error("the state changes when read back")
	}
	p.sun.Sessions[0] = m
	if p.give(f[1]) != 1 {
		t.Error("the last fragment after a restart: no answer")
	}
}
