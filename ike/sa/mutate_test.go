package sa_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// mutatedHandshakes is how many the test runs, half of them by a peer that does
// not have the secret.
const mutatedHandshakes = 100_000

// TestMutatedHandshakes: whatever a peer says, with the session's own keys or
// without the secret, the machine neither panics nor installs an SA without
// authentication nor leaves anything behind.
func TestMutatedHandshakes(t *testing.T) {
	before := runtime.NumGoroutine()
	var mu sync.Mutex
	seen := map[sa.Transition]int{}
	stats := struct{ up int }{}
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for worker := range workers {
		wg.Go(func() {
			mine := map[sa.Transition]int{}
			up := 0
			for seed := worker; seed < mutatedHandshakes; seed += workers {
				h := newMutated(uint64(seed), mine)
				if err := h.run(); err != nil {
					t.Errorf("seed %d: %v", seed, err)
					break
				}
				if h.sun.Up > 0 {
					up++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for k, n := range mine {
				seen[k] += n
			}
			stats.up += up
		})
	}
	wg.Wait()
	covered := 0
	for _, tr := range sa.Transitions {
		if seen[tr] > 0 {
			covered++
		} else {
			t.Logf("not taken: initiator %v, %s to %s", tr.Initiator, tr.From, tr.To)
		}
	}
	t.Logf("%d handshakes, %d of them came up on the responder, %d of %d transitions taken", mutatedHandshakes, stats.up, covered, len(sa.Transitions))
	if covered*10 < len(sa.Transitions)*9 {
		t.Errorf("covered %d of %d transitions, want at least 90 %%", covered, len(sa.Transitions))
	}
	if stats.up == 0 || stats.up > mutatedHandshakes/2 {
		t.Errorf("%d handshakes came up: mutations are too strong or too weak to test anything", stats.up)
	}
	// A worker that has called Done may not have ended yet.
	after := runtime.NumGoroutine()
	for try := 0; after > before && try < 200; try++ {
		time.Sleep(10 * time.Millisecond)
		after = runtime.NumGoroutine()
	}
	if after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

// TestMutatedPeerWouldBeNoticed makes sure that the check for an SA without
// authentication can fail: with the right secret the "stranger" gets in.
func TestMutatedPeerWouldBeNoticed(t *testing.T) {
	for seed := range uint64(50) {
		h := newMutated(seed*2+1, map[sa.Transition]int{})
		h.moon.Env.Creds = mutants.right
		h.skip = 1 << 30 // nothing is mutated
		if err := h.run(); errors.Is(err, errIntruder) {
			return
		}
	}
	t.Error("a stranger with the right secret was never noticed")
}

var errIntruder = errors.New("SA installed for a peer without the secret")

// mutants are the fixtures that all handshakes share; they are immutable.
var mutants = sync.OnceValue(func() mutantFixtures {
	f := mutantFixtures{right: psk("right"), wrong: psk("wrong")}
	for _, p := range [][2]string{
		{"aes128gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519"},
		{"aes128gcm16-prfsha256-x25519-ke1_ecp256", "aes128gcm16-prfsha256-x25519-ke1_ecp256"},
		{"aes128-sha256-x25519-ecp256", "aes128-sha256-ecp256"},
	} {
		f.moon = append(f.moon, satest.Conn("sun", "moon", "sun", "10.1.0.0/16", "10.2.0.0/16", satest.IKE(p[0])))
		f.sun = append(f.sun, satest.Conn("moon", "sun", "moon", "10.2.0.0/16", "10.1.0.0/16", satest.IKE(p[1])))
	}
	// A pair with virtual addresses.
	moon := satest.Conn("sun", "moon", "sun", "dynamic", "10.2.0.0/16")
	moon.VIPs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	sun := satest.Conn("moon", "sun", "moon", "10.2.0.0/16", "dynamic")
	sun.Pools = []string{"four", "six"}
	f.moon, f.sun = append(f.moon, moon), append(f.sun, sun)
	return f
})()

type mutantFixtures struct {
	right, wrong *auth.Credentials
	moon, sun    []*sa.Connection
}

func psk(s string) *auth.Credentials {
	b := auth.NewBuilder()
	if err := b.AddShared(secret.Bytes(s), nil, "test"); err != nil {
		panic(err)
	}
	return b.Build()
}

// mutated is one handshake whose messages are changed under way.
type mutated struct {
	w         *satest.World
	moon, sun *satest.Node
	stranger  bool // moon does not have the secret
	skip      int  // messages that pass before the first is mutated
	rate      int  // of eight messages after that, so many are mutated
	rnd       *rand.Rand
	sealed    uint64
}

func newMutated(seed uint64, seen map[sa.Transition]int) *mutated {
	h := &mutated{w: satest.New(seed), stranger: seed%2 == 1}
	h.w.OnStep = func(t sa.Transition) { seen[t]++ }
	h.rnd = rand.New(h.w.Rand())
	v := h.rnd.IntN(len(mutants.moon))
	creds := mutants.right
	if h.stranger {
		creds = mutants.wrong
	}
	h.moon = h.w.Add("192.0.2.1", []*sa.Connection{mutants.moon[v]}, creds)
	h.sun = h.w.Add("192.0.2.2", []*sa.Connection{mutants.sun[v]}, mutants.right)
	h.sun.ServePools(pool("four", "10.3.0.1", "10.3.0.3", dns("10.2.0.53")), pool("six", "fec3::1", "fec3::3"))
	h.moon.Env.Settings.InstallRoutes = true
	h.skip, h.rate = h.rnd.IntN(6), 1+h.rnd.IntN(6)
	h.w.Mangle = h.mangle
	if h.rnd.IntN(8) == 0 {
		n := h.rnd.IntN(10)
		h.sun.Fail = failAfter(n)
		h.moon.Fail = failAfter(h.rnd.IntN(10))
	}
	return h
}

func failAfter(n int) func(sa.Spec) error {
	return func(s sa.Spec) error {
		if k, ok := s.(sa.Kernel); ok {
			if _, ok := k.Ops[0].(dataplane.InstallSA); !ok {
				return nil // removals work
			}
		}
		if w, ok := s.(sa.Network); ok && w.Wish.Empty() {
			return nil
		}
		if n--; n == 0 {
			return errors.New("planted")
		}
		return nil
	}
}

func (h *mutated) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	h.moon.Initiate("sun", "", netip.MustParseAddr("192.0.2.2"))
	h.w.Settle(60)
	if s, _, p := h.sun.DP.Counts(); h.stranger && s+p+h.sun.Up > 0 {
		return errIntruder
	}
	if s, _, _ := h.sun.DP.Counts(); s > 0 && h.sun.Up == 0 && installing(h.sun) == 0 {
		return errors.New("SA installed before authentication")
	}
	// An end from either side, mutated as well, then what the clock brings.
	for i := range h.sun.Sessions {
		h.sun.Do(i, sa.Terminate{Child: []string{"net", ""}[h.rnd.IntN(2)]})
	}
	h.w.Settle(20)
	for i := range h.moon.Sessions {
		h.moon.Do(i, sa.Terminate{})
	}
	h.w.Settle(20)
	h.w.Mangle = nil
	for _, n := range []*satest.Node{h.sun, h.moon} {
		for i := range n.Sessions {
			n.Do(i, sa.Terminate{})
		}
	}
	h.w.Advance(10 * time.Minute)
	for _, n := range []*satest.Node{h.moon, h.sun} {
		for _, e := range n.Events {
			if f, ok := e.(event.Failed); ok && f.Cause == event.Internal {
				return fmt.Errorf("%s: %+v", n.Addr, f)
			}
		}
		s, r, p := n.DP.Counts()
		if len(n.Live()) != 0 || s+r+p != 0 {
			return fmt.Errorf("%s: left %d sessions, %d SAs, %d reserved, %d policies", n.Addr, len(n.Live()), s, r, p)
		}
		if a, r := n.Net.Addrs(), n.Net.Routes(); len(a)+len(r) != 0 {
			return fmt.Errorf("%s: left addresses %s, routes %s", n.Addr, a, r)
		}
		for _, l := range n.Pools.List() {
			if l.Online != 0 {
				return fmt.Errorf("%s: left %d leases of %s", n.Addr, l.Online, l.Name)
			}
		}
	}
	return nil
}

func installing(n *satest.Node) int {
	k := 0
	for _, m := range n.Live() {
		if m.Phase() == sa.Installing {
			k++
		}
	}
	return k
}

// mangle changes messages of moon to sun, and sometimes the answers.
func (h *mutated) mangle(p satest.Packet) []satest.Packet {
	if h.skip--; h.skip >= 0 || h.rnd.IntN(8) >= h.rate {
		return []satest.Packet{p}
	}
	from := h.moon
	if p.From.Addr() == h.sun.Addr {
		if h.rnd.IntN(3) > 0 {
			return []satest.Packet{p}
		}
		from = h.sun
	}
	if b := h.rewrite(from, p.Data); b != nil {
		p.Data = b
	}
	if h.rnd.IntN(20) == 0 {
		return []satest.Packet{p, p}
	}
	return []satest.Packet{p}
}

// rewrite opens a message with its sender's keys, mutates what is inside, and
// seals it again.
func (h *mutated) rewrite(from *satest.Node, data []byte) []byte {
	msg, err := wire.ParseMessage(data)
	if err != nil {
		return nil
	}
	hdr := h.header(msg.Header)
	if _, ok := msg.SK(); !ok {
		chain := h.chain(msg.Next, data[wire.HeaderLen:])
		first, body := join(chain)
		hdr.Next, hdr.Length = first, uint32(wire.HeaderLen+len(body))
		return append(hdr.Append(nil), h.bend(body)...)
	}
	k := keysOf(from, msg)
	if k == nil {
		return nil
	}
	enc, integ := k.Keys.Ei, k.Keys.Ai
	if !k.Initiator {
		enc, integ = k.Keys.Er, k.Keys.Ar
	}
	opener, err1 := suite.NewOpener(k.Chosen, enc, integ)
	h.sealed++
	sealer, err2 := suite.NewSealer(k.Chosen, enc, integ, 1<<40+h.sealed)
	if err1 != nil || err2 != nil {
		return nil
	}
	firstIn, inner, err := wire.OpenInner(append([]byte(nil), data...), msg, opener)
	if err != nil {
		return nil // keys have moved on
	}
	first, body := join(h.chain(firstIn, inner))
	return sealRaw(hdr, first, h.bend(body), sealer)
}

func keysOf(n *satest.Node, msg *wire.Message) *sa.IKE {
	for _, m := range n.Live() {
		if k := &m.State().IKE; k.SPIi == msg.SPIi && k.SPIr == msg.SPIr && len(k.Keys.D) > 0 {
			return k
		}
	}
	return nil
}

// sealRaw seals a chain of payloads as it is, well formed or not.
func sealRaw(hdr wire.Header, first wire.PayloadType, chain []byte, s suite.Sealer) []byte {
	pad := 0
	if bl := s.BlockLen(); bl > 1 {
		pad = (bl - (len(chain)+1)%bl) % bl
	}
	body := s.IVLen() + len(chain) + pad + 1 + s.ICVLen()
	hdr.Next, hdr.Length = wire.PayloadSK, uint32(wire.HeaderLen+4+body)
	out := hdr.Append(nil)
	out = append(out, byte(first), 0)
	out = binary.BigEndian.AppendUint16(out, uint16(4+body))
	aad := len(out)
	out = append(out, make([]byte, s.IVLen())...)
	out = append(out, chain...)
	out = append(out, make([]byte, pad)...)
	out = append(out, byte(pad))
	out = append(out, make([]byte, s.ICVLen())...)
	if err := s.Seal(out, aad); err != nil {
		return nil
	}
	return out
}

// header bends the header's fields now and then.
func (h *mutated) header(hdr wire.Header) wire.Header {
	switch h.rnd.IntN(24) {
	case 0:
		hdr.MessageID += uint32(h.rnd.IntN(5)) - 2
	case 1:
		hdr.Exchange = wire.ExchangeType(34 + h.rnd.IntN(12))
	case 2:
		hdr.Flags ^= wire.FlagResponse
	case 3:
		hdr.Flags ^= wire.FlagInitiator
	}
	return hdr
}

// rawPayload is one link of a chain.
type rawPayload struct {
	typ      wire.PayloadType
	critical bool
	body     []byte
}

// chain splits a well-formed chain and mutates it.
func (h *mutated) chain(first wire.PayloadType, b []byte) []rawPayload {
	var ps []rawPayload
	for t := first; t != 0 && len(b) >= 4; {
		n := int(binary.BigEndian.Uint16(b[2:]))
		ps = append(ps, rawPayload{t, b[1]&0x80 != 0, append([]byte(nil), b[4:n]...)})
		t, b = wire.PayloadType(b[0]), b[n:]
	}
	for range 1 + h.rnd.IntN(3) {
		if len(ps) == 0 {
			break
		}
		ps = h.mutate(ps)
	}
	return ps
}

func (h *mutated) mutate(ps []rawPayload) []rawPayload {
	r := h.rnd
	i, j := r.IntN(len(ps)), r.IntN(len(ps))
	p := &ps[i]
	switch r.IntN(10) {
	case 0:
		ps[i], ps[j] = ps[j], ps[i]
	case 1:
		ps = append(ps, ps[i])
	case 2:
		ps = append(ps[:i], ps[i+1:]...)
	case 3:
		if len(p.body) > 0 {
			p.body[r.IntN(len(p.body))] ^= 1 << r.IntN(8)
		}
	case 4:
		p.body = p.body[:r.IntN(len(p.body)+1)]
	case 5:
		p.body = append(p.body, make([]byte, r.IntN(40))...)
	case 6:
		p.typ = wire.PayloadType(33 + r.IntN(22))
	case 7:
		ps = append(ps, rawPayload{wire.PayloadType(200 + r.IntN(50)), r.IntN(2) == 0, []byte("unknown")})
	case 8:
		n := []wire.NotifyType{wire.NotifyAuthenticationFailed, wire.NotifyNoProposalChosen, wire.NotifyTSUnacceptable, wire.NotifyInvalidSyntax,
			wire.NotifyCookie, wire.NotifyInvalidKEPayload, wire.NotifyUseTransportMode}[r.IntN(7)]
		data := []byte{0, 19}
		ps = append(ps, rawPayload{wire.PayloadNotify, false, (&wire.Notify{NotifyType: n, Data: data[:r.IntN(3)]}).AppendBody(nil)})
	case 9:
		d := wire.NewDelete(wire.ProtoIKE)
		if r.IntN(2) == 0 {
			d = wire.NewDelete(wire.ProtoESP, r.Uint32())
		}
		ps = append(ps, rawPayload{wire.PayloadDelete, false, d.AppendBody(nil)})
	}
	return ps
}

// join makes a chain of the payloads.
func join(ps []rawPayload) (first wire.PayloadType, b []byte) {
	for i, p := range ps {
		next := byte(0)
		if i+1 < len(ps) {
			next = byte(ps[i+1].typ)
		}
		flags := byte(0)
		if p.critical {
			flags = 0x80
		}
		b = append(b, next, flags)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.body)))
		b = append(b, p.body...)
	}
	if len(ps) > 0 {
		first = ps[0].typ
	}
	return first, b
}

// bend breaks a length or another octet of the finished chain now and then.
func (h *mutated) bend(b []byte) []byte {
	if len(b) > 4 && h.rnd.IntN(12) == 0 {
		b[h.rnd.IntN(len(b))] ^= byte(1 + h.rnd.IntN(255))
	}
	return b
}
