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

// bad is one class of input that must change nothing: made of a message that the
// node has taken before; nil when the class cannot be made of it.
type bad struct {
	name string
	make func(p []byte) []byte
}

var badInputs = []bad{
	{"garbage", func(p []byte) []byte { return []byte("no IKE message at all, though it is long enough") }},
	{"empty", func([]byte) []byte { return nil }},
	{"cut short", func(p []byte) []byte { return p[:len(p)-1] }},
	{"longer than it says", func(p []byte) []byte { return append(p, 0) }},
	{"replayed", func(p []byte) []byte { return p }},
	{"of another version", func(p []byte) []byte { p[17] = 0x30; return p }},
	{"of other SPIs", func(p []byte) []byte { p[7] ^= 1; p[15] ^= 1; return p }},
	{"flag of the initiator turned", func(p []byte) []byte { p[19] ^= byte(wire.FlagInitiator); return p }},
	{"flag of the response turned", func(p []byte) []byte { p[19] ^= byte(wire.FlagResponse); return p }},
	{"message id ahead", func(p []byte) []byte { p[22]++; return p }},
	{"message id far behind", func(p []byte) []byte { p[20], p[21] = 0xff, 0xff; return p }},
	{"another exchange", func(p []byte) []byte { p[18] ^= 3; return p }},
	{"not authentic", func(p []byte) []byte { p[len(p)-1] ^= 1; return p }},
	{"unknown critical payload in clear", func(p []byte) []byte {
		h := satest.Must(wire.ParseHeader(p))
		h.MessageID++
		h.Next, h.Length = 200, wire.HeaderLen+8
		return append(h.Append(nil), 0, 0x80, 0, 8, 1, 2, 3, 4)
	}},
}

// TestBadInputChangesNothing: in every phase, no class of bad input changes a
// session's state, is answered by more than a repetition, or goes uncounted.
func TestBadInputChangesNothing(t *testing.T) {
	tried := map[string]int{}
	phases := map[string]int{}
	for seed := range uint64(2) {
		w := satest.New(60 + seed)
		opts := []satest.Option{pfs, satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256")}
		if seed == 1 {
			opts = []satest.Option{satest.IKE("aes256-sha256-x25519"), childless(sa.ChildlessForce)}
		}
		moon, sun := satest.Pair(w, opts...)
		taken := map[*satest.Node][]satest.Packet{}
		w.Stepped = func(n *satest.Node) {
			for _, m := range n.Live() {
				if m.Phase() == sa.Fresh {
					continue
				}
				side := "responder "
				if m.Initiator() {
					side = "initiator "
				}
				phases[side+m.Phase().String()]++
				for _, p := range taken[n] {
					for _, b := range badInputs {
						if data := b.make(append([]byte(nil), p.Data...)); tryBad(t, n, m, p, b.name, data) {
							tried[b.name]++
						}
					}
				}
			}
		}
		w.Mangle = func(p satest.Packet) []satest.Packet {
			// Kept when it has been taken: the next packet of the same direction shows.
			to := sun
			if p.To.Addr() == moon.Addr {
				to = moon
			}
			list := taken[to]
			if len(list) > 6 {
				list = list[1:]
			}
			taken[to] = append(list, satest.Packet{From: p.From, To: p.To, Data: append([]byte(nil), p.Data...)})
			return []satest.Packet{p}
		}
		moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		assertUp(t, moon, sun)
		moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
		w.Advance(20 * time.Second)
		sun.Do(0, sa.Rekey{})
		w.Advance(20 * time.Second)
		assertUp(t, moon, sun)
		sun.Do(0, sa.Terminate{})
		w.Advance(time.Minute)
		assertNothing(t, moon)
		assertNothing(t, sun)
	}
	for _, b := range badInputs {
		if tried[b.name] < 50 {
			t.Errorf("%s: tried %d times only", b.name, tried[b.name])
		}
	}
	t.Logf("%d phases: %v", len(phases), phases)
	if len(phases) < 24 {
		t.Errorf("met %d phases only: %v", len(phases), phases)
	}
}

// tryBad gives bad input to a copy of a session and reports whether it did: the
// message that is being handled in this very step is not bad.
func tryBad(t *testing.T, n *satest.Node, m *sa.Machine, p satest.Packet, class string, data []byte) bool {
	t.Helper()
	env := n.Env
	c := satest.Must(sa.Decode(m.Encode(nil), env.Conns))
	before := string(c.Encode(nil))
	if class == "replayed" && !replayed(c, p) {
		return false
	}
	remote := netip.AddrPortFrom(p.From.Addr(), p.From.Port())
	sent, counted := 0, 0
	for _, a := range c.Handle(&env, sa.Received{Local: p.To, Remote: remote, Data: data}) {
		switch a := a.(type) {
		case sa.Send:
			sent++
			if string(a.Data) != string(c.State().IKE.Answer) && !isAnswerOfOther(c, a.Data) {
				t.Errorf("%s in %s: something new was sent", class, c.Phase())
			}
		case sa.Publish:
			if _, ok := a.Event.(event.Discarded); ok {
				counted++
			} else {
				t.Errorf("%s in %s: published %T", class, c.Phase(), a.Event)
			}
		default:
			t.Errorf("%s in %s: %T", class, c.Phase(), a)
		}
	}
	if string(c.Encode(nil)) != before {
		t.Errorf("%s in %s: the state changed (%s)", class, c.Phase(), describe(p.Data))
	}
	if sent+counted != 1 {
		t.Errorf("%s in %s: sent %d, counted %d", class, c.Phase(), sent, counted)
	}
	return true
}

// replayed reports whether the session has taken the message already.
func replayed(m *sa.Machine, p satest.Packet) bool {
	h := satest.Must(wire.ParseHeader(p.Data))
	s := m.State()
	for _, k := range append([]*sa.IKE{&s.IKE}, s.Others...) {
		if k.SPIi != h.SPIi || k.SPIr != h.SPIr && h.SPIr != 0 {
			continue
		}
		if h.IsResponse() {
			return k.Request == nil || k.Request.MessageID != h.MessageID
		}
		return h.MessageID < k.NextIn
	}
	return true
}

func isAnswerOfOther(m *sa.Machine, data []byte) bool {
	for _, k := range m.State().Others {
		if string(k.Answer) == string(data) {
			return true
		}
	}
	return false
}

func describe(data []byte) string {
	h := satest.Must(wire.ParseHeader(data))
	return fmt.Sprintf("%s id %d response %v", h.Exchange, h.MessageID, h.IsResponse())
}
