package sa_test

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"testing"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
)

// kernelPacket is what the kernel says of a packet.
func kernelPacket(proto uint8, sport, dport uint16) dataplane.Selector {
	return dataplane.Selector{Src: netip.MustParsePrefix("10.1.0.10/32"), Dst: netip.MustParsePrefix("10.2.0.10/32"),
		Proto: proto, SrcPort: sport, SrcPortMask: 0xffff, DstPort: dport, DstPortMask: 0xffff}
}

func TestPacketOf(t *testing.T) {
	for _, c := range []struct {
		packet        dataplane.Selector
		local, remote string
	}{
		{kernelPacket(17, 1234, 7), "10.1.0.10/32[udp/1234]", "10.2.0.10/32[udp/7]"},
		{kernelPacket(1, 8, 0), "10.1.0.10/32[icmp/8(0)]", "10.2.0.10/32[icmp/8(0)]"},
		{kernelPacket(47, 0, 0), "10.1.0.10/32[gre]", "10.2.0.10/32[gre]"},
		{dataplane.Selector{Src: netip.MustParsePrefix("2001:db8:1::1/128"), Dst: netip.MustParsePrefix("2001:db8:2::1/128")}, "2001:db8:1::1/128", "2001:db8:2::1/128"},
	} {
		p := sa.PacketOf(c.packet)
		if p.Local.String() != c.local || p.Remote.String() != c.remote || !p.Local.Valid() || !p.Remote.Valid() {
			t.Errorf("%s: got %s === %s, expected %s === %s", c.packet, p.Local, p.Remote, c.local, c.remote)
		}
	}
}

// TestPacketFirst: the packet that asked for the child comes first in TSi and TSr
// (RFC 7296 2.9), in either exchange, whether the peer answers with the whole or
// with both; the CHILD SA is the same, and so its rekeying.
func TestPacketFirst(t *testing.T) {
	for _, ex := range []wire.ExchangeType{wire.ExchangeIKEAuth, wire.ExchangeCreateChildSA} {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprint(ex, both), func(t *testing.T) {
				w := satest.New(41)
				w.RoundTrip = true
				moon, sun := satest.Pair(w)
				if ex == wire.ExchangeCreateChildSA {
					for _, n := range []*satest.Node{moon, sun} {
						n.Env.Conns.All()[0].Childless = sa.ChildlessForce
					}
				}
				packet := sa.PacketOf(kernelPacket(17, 1234, 7))
				var f forger
				var offered [2][]wire.TrafficSelector
				w.Mangle = func(p satest.Packet) []satest.Packet {
					h := satest.Must(wire.ParseHeader(p.Data))
					if h.Exchange != ex {
						return []satest.Packet{p}
					}
					if p.From.Addr() == moon.Addr {
						f.rewrite(moon, p.Data, func(ps []wire.Payload) []wire.Payload {
							for i, initiator := range []bool{true, false} {
								ts, ok := wire.FindTS(ps, initiator)
								if ok {
									offered[i] = ts.Selectors
								}
							}
							return ps
						})
					} else if both {
						p.Data = f.rewrite(sun, p.Data, func(ps []wire.Payload) []wire.Payload {
							for i, initiator := range []bool{true, false} {
								if ts, ok := wire.FindTS(ps, initiator); ok {
									ts.Selectors = append([]wire.TrafficSelector{offered[i][0]}, ts.Selectors...)
								}
							}
							return ps
						})
					}
					return []satest.Packet{p}
				}
				moon.Prepare("sun", "net", sun.Addr)
				moon.Do(0, sa.Start{Packet: packet})
				w.Settle(100)
				for i, want := range [2]selector.TS{packet.Local, packet.Remote} {
					if o := offered[i]; len(o) != 2 || o[0].Start != want.Start || o[0].End != want.End || o[0].Protocol != 17 || o[0].StartPort != want.StartPort || o[0].EndPort != want.EndPort || o[1].Start.String() != fmt.Sprintf("10.%d.0.0", i+1) {
						t.Errorf("offered %+v, expected the packet's %s and the configuration's", o, want)
					}
				}
				w.Mangle = nil
				assertUp(t, moon, sun)
				for _, n := range []*satest.Node{moon, sun} {
					c := n.Live()[0].Info().Children[0]
					if len(c.LocalTS) != 1 || len(c.RemoteTS) != 1 || c.LocalTS[0].Proto != 0 {
						t.Errorf("%s === %s, expected one selector a side", c.LocalTS, c.RemoteTS)
					}
				}
				if p := moon.Live()[0].State().Packets; p != nil {
					t.Errorf("%+v is kept, though its CHILD SA is up", p)
				}
				// A further CHILD SA that no packet asks for has no such selector.
				moon.Do(0, sa.Terminate{Child: "net"})
				w.Settle(100)
				offered = [2][]wire.TrafficSelector{}
				w.Mangle = func(p satest.Packet) []satest.Packet {
					if p.From.Addr() == moon.Addr {
						f.rewrite(moon, p.Data, func(ps []wire.Payload) []wire.Payload {
							if ts, ok := wire.FindTS(ps, true); ok {
								offered[0] = ts.Selectors
							}
							return ps
						})
					}
					return []satest.Packet{p}
				}
				moon.Do(0, sa.NewChild{Child: "net"})
				w.Settle(100)
				if len(offered[0]) != 1 {
					t.Errorf("offered %+v, expected the configuration's selector alone", offered[0])
				}
			})
		}
	}
}

// TestPacketOutside: a packet that the selectors do not cover is not offered.
func TestPacketOutside(t *testing.T) {
	w := satest.New(42)
	moon, sun := satest.Pair(w)
	outside := kernelPacket(17, 1, 2)
	outside.Dst = netip.MustParsePrefix("10.9.0.1/32")
	moon.Prepare("sun", "net", sun.Addr)
	moon.Do(0, sa.Start{Packet: sa.PacketOf(outside)})
	w.Settle(100)
	assertUp(t, moon, sun)
}

// TestStandingPolicies: traps agree with the CHILD SA, shunts come before every
// tunnel, guards after everything and under keys of their own.
func TestStandingPolicies(t *testing.T) {
	w := satest.New(43)
	moon, sun := satest.Pair(w)
	cfg := moon.Env.Conns.All()[0].Children[0]
	trap, err := sa.NewTrap("sun", cfg, moon.Addr, sun.Addr, nil, 10)
	if err != nil {
		t.Fatal(err)
	}
	moon.Initiate("sun", "net", sun.Addr)
	w.Settle(100)
	c := moon.Live()[0].Info().Children[0]
	want := trap.Policies(sa.ChildIDs{UniqueID: c.UniqueID, ReqID: c.ReqID})
	snap := satest.Must(moon.DP.List())
	if len(snap.Policies) != 3 || len(want) != 3 {
		t.Fatalf("%d policies of the CHILD SA, %d of the trap, expected 3 and 3", len(snap.Policies), len(want))
	}
	r := cfg.Resolve(nil, nil)
	guards, err := cfg.Guards(r, 9, 10)
	if err != nil || len(guards) != 6 {
		t.Fatalf("%d guards, %v, expected two for each of 3 keys", len(guards), err)
	}
	shunt := *cfg
	shunt.Shunt = sa.ShuntDrop
	drops := satest.Must(shunt.Shunted(r, 8, 10))
	shunt.Shunt = sa.ShuntPass
	for _, d := range satest.Must(shunt.Shunted(r, 8, 10)) {
		if d.Verdict != dataplane.Protect || d.Priority >= dataplane.PriorityNarrowest || d.Templates != nil {
			t.Errorf("shunt %+v, expected a priority before every tunnel's", d)
		}
	}
	shunt.Priority = 17
	for _, d := range satest.Must(shunt.Shunted(r, 8, 10)) {
		if d.Priority != 17 {
			t.Errorf("shunt %+v, expected the configured priority", d)
		}
	}
	for _, p := range snap.Policies {
		found := false
		for _, q := range want {
			if q.PolicyKey == p.PolicyKey {
				q.Layer = 0
				found = reflect.DeepEqual(p, q)
			}
		}
		if !found {
			t.Errorf("the CHILD SA has %+v, the trap %+v", p, want)
		}
		halves := map[dataplane.Mark]bool{}
		for _, g := range guards {
			if g.Selector == p.Selector && g.Dir == p.Dir {
				halves[g.Mark] = true
			}
			if g.PolicyKey == p.PolicyKey || g.Priority != math.MaxUint32 || g.Verdict != dataplane.Block || g.Layer != dataplane.LayerGuard || g.Templates != nil {
				t.Errorf("guard %+v", g)
			}
		}
		if !halves[dataplane.Mark{Mask: 1 << 31}] || !halves[dataplane.Mark{Value: 1 << 31, Mask: 1 << 31}] {
			t.Errorf("guards of %s %s: %v, expected every mark covered", p.Dir, p.Selector, halves)
		}
		for _, d := range drops {
			if d.Verdict != dataplane.Block || d.Priority <= dataplane.PriorityWidest || d.Templates != nil {
				t.Errorf("shunt %+v, expected a priority after every tunnel's", d)
			}
		}
	}
	cfg.MarkOut = dataplane.Mark{Value: 5, Mask: math.MaxUint32}
	if guards := satest.Must(cfg.Guards(r, 9, 10)); len(guards) != 5 {
		t.Errorf("%d guards, expected 5 where a mark leaves no bit", len(guards))
	}
	if _, err := sa.NewTrap("sun", cfg, moon.Addr, sun.Addr, nil, 0); err == nil {
		t.Error("a trap beyond the limit of selectors was made")
	}
	dynamic := *cfg
	dynamic.RemoteTS = []selector.Spec{satest.Must(selector.Parse("dynamic[tcp/80]")), cfg.RemoteTS[0]}
	if r := dynamic.Resolve(nil, nil); r.Unknown != 1 || len(r.Remote) != 1 || len(r.Local) != 1 {
		t.Errorf("resolved to %+v, expected the dynamic selector left out", r)
	}
	pool := []selector.TS{satest.Must(selector.Parse("10.9.0.0/24")).TS, satest.Must(selector.Parse("2001:db8::1-2001:db8::9")).TS}
	if r := dynamic.Resolve(nil, pool); r.Unknown != 0 || fmt.Sprint(r.Remote) != "[10.9.0.0/24[tcp/80] 2001:db8::1-2001:db8::9[tcp/80] 10.2.0.0/16]" {
		t.Errorf("resolved to %+v, expected the pool's ranges", r)
	}
}
