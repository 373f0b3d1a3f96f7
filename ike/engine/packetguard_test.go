package engine

import (
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
	"espalier/ike/wire"
)

// guardLog is a PacketGuard that remembers.
type guardLog struct {
	mu    sync.Mutex
	own   map[uint64]bool
	peers []netip.Prefix
	known bool
}

func (g *guardLog) OwnIKE(spi uint64, used bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if used {
		g.own[spi] = true
	} else {
		delete(g.own, spi)
	}
}

func (g *guardLog) Peers(p []netip.Prefix, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers, g.known = p, known
}

func (g *guardLog) has(spi wire.SPI) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.own[uint64(spi)]
}

func (g *guardLog) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.own)
}

// TestPacketGuardLearnsFirst: no message leaves with an own SPI that the guard
// does not know, and the SPI goes with the session.
func TestPacketGuardLearnsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		guards := map[string]*guardLog{moonAddr: {own: map[uint64]bool{}}, sunAddr: {own: map[uint64]bool{}}}
		seen := 0
		f.setPass(func(from, _ netip.AddrPort, data []byte) bool {
			h, err := wire.ParseHeader(data)
			if err != nil {
				t.Fatal(err)
			}
			// The sender's own SPI: the initiator's in a message of the initiator.
			spi := h.SPIr
			if h.Flags&wire.FlagInitiator != 0 {
				spi = h.SPIi
			}
			if seen++; spi != 0 && !guards[from.Addr().String()].has(spi) {
				t.Errorf("%s sends %s with SPI %s before its guard knows it", from, h.Exchange, spi)
			}
			return true
		})
		with := func(g *guardLog) func(*Options) { return func(o *Options) { o.PacketGuard = g } }
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, with(guards[moonAddr]))
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, with(guards[sunAddr]))
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		id := moon.infos()[0].UniqueID
		if err := moon.Rekey(t.Context(), Target{IKE: id}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if m, s := guards[moonAddr].count(), guards[sunAddr].count(); m != 1 || s != 1 || seen < 6 {
			t.Errorf("after a rekey: %d and %d own SPIs, %d messages, expected one each and at least 6", m, s, seen)
		}
		if err := moon.Terminate(t.Context(), Target{IKE: moon.infos()[0].UniqueID}, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if m, s := guards[moonAddr].count(), guards[sunAddr].count(); m != 0 || s != 0 {
			t.Errorf("after the end: %d and %d own SPIs, expected none", m, s)
		}
		moon.stop()
		sun.stop()
	})
}

// TestPacketGuardKnowsPeers: the list is there when each connection names its
// peers by address, and only then.
func TestPacketGuardKnowsPeers(t *testing.T) {
	addr := netip.MustParseAddr
	one := func(specs ...sa.AddrSpec) *sa.Connection { return &sa.Connection{RemoteAddrs: specs} }
	fixed := one(sa.AddrSpec{Start: addr("192.0.2.9"), End: addr("192.0.2.9")}, sa.AddrSpec{Start: addr("2001:db8::"), End: addr("2001:db8::ffff")})
	for _, c := range []struct {
		name  string
		conns []*sa.Connection
		want  []netip.Prefix
		known bool
	}{
		{"none", nil, nil, true},
		{"named, one twice", []*sa.Connection{fixed, one(sa.AddrSpec{Start: addr("192.0.2.9"), End: addr("192.0.2.10")})},
			[]netip.Prefix{netip.MustParsePrefix("192.0.2.9/32"), netip.MustParsePrefix("192.0.2.10/32"), netip.MustParsePrefix("2001:db8::/112")}, true},
		{"any", []*sa.Connection{fixed, one(sa.AddrSpec{})}, nil, false},
		{"nothing said", []*sa.Connection{fixed, one()}, nil, false},
		{"a name", []*sa.Connection{fixed, one(sa.AddrSpec{Host: "peer.example.com"})}, nil, false},
	} {
		g := &guardLog{}
		(&Engine{opts: Options{PacketGuard: g}}).tellPeers(c.conns)
		if !reflect.DeepEqual(g.peers, c.want) || g.known != c.known {
			t.Errorf("%s: got %v, %v, expected %v, %v", c.name, g.peers, g.known, c.want, c.known)
		}
	}
}
