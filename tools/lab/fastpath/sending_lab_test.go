//go:build lab

package fastpath

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// clearFlows are UDP packets from the first client to the other one, of connections in turn.
type clearFlows struct {
	n     *topo.Net
	eth   []byte
	size  int
	ports []uint16
	turn  int
}

func newClearFlows(t testing.TB, n *topo.Net, size int, ports ...uint16) *clearFlows {
	t.Helper()
	return &clearFlows{n: n, size: size, ports: ports, eth: slices.Concat(ethernet(t, n.GW1, "in0"), ethernet(t, n.Client1, "eth0"), []byte{8, 0})}
}

// Append implements esp.Source.
func (c *clearFlows) Append(dst []byte) ([]byte, error) {
	port := c.ports[c.turn%len(c.ports)]
	c.turn++
	p, err := esp.UDP(netip.AddrPortFrom(c.n.Client1.Inner(topo.IPv4), port), netip.AddrPortFrom(c.n.Client2.Inner(topo.IPv4), sinkPort), c.size)
	return append(append(dst, c.eth...), p...), err
}

// fromInside is a sender of clear packets to the first gateway's inside.
func fromInside(t testing.TB, n *topo.Net, frames int) *esp.LiveFrames {
	t.Helper()
	var s *esp.LiveFrames
	must(t, n.Client1.Do(func() (err error) {
		s, err = esp.NewLiveFrames("eth0", frames)
		return err
	}))
	t.Cleanup(func() { s.Close() })
	return s
}

// clearSocket is a sender of clear packets, a system call each, to the first gateway's inside.
func clearSocket(t testing.TB, n *topo.Net, frames int) *esp.PacketSocket {
	t.Helper()
	ring := need[*esp.Ring](t)(esp.NewRing(frames))
	var s *esp.PacketSocket
	must(t, n.Client1.Do(func() (err error) {
		s, err = esp.NewPacketSocket("eth0", ring)
		return err
	}))
	t.Cleanup(func() { s.Close() })
	return s
}

// sendInside sends in the first client's namespace.
func sendInside(ctx context.Context, n *topo.Net, s esp.Sender, p esp.Pace) (r esp.Report, err error) {
	err = n.Client1.Do(func() (err error) {
		r, err = esp.Send(ctx, s, p)
		return err
	})
	return r, err
}

// groupSlot is where a connection's group is in the table: it sends some packets, and looks where they are counted.
func (g *gateway) groupSlot(table steering, port uint16) (slot uint32) {
	g.Helper()
	probe := fromInside(g, g.n, 64)
	must(g, probe.Ring().Fill(newClearFlows(g, g.n, 100, port), 8))
	counted := func() (out [bpf.FlowGroups]uint64) {
		for n := range out {
			if slot, ok := table.table.Lookup(bpf.FlowKey(n)); ok {
				out[n] = table.table.Counters(slot).Packets
			}
		}
		return out
	}
	before := counted()
	need[esp.Report](g)(sendInside(g.Context(), g.n, probe, esp.Pace{Count: 8, CPU: 0}))
	until(g, "a connection in its group", func() (bool, string) {
		for n, packets := range counted() {
			if packets >= before[n]+8 {
				slot, _ = table.table.Lookup(bpf.FlowKey(n))
				return true, ""
			}
		}
		return false, "no group has counted its packets"
	})
	return slot
}

// connections are as many ports, whose connections are in as many groups, which the steering then has.
func (g *gateway) connections(table *steering, count int) (ports []uint16) {
	g.Helper()
	for port := uint16(20_000); len(ports) < count; port++ {
		if slot := g.groupSlot(*table, port); !slices.Contains(table.slots, slot) {
			table.slots, ports = append(table.slots, slot), append(ports, port)
		}
	}
	return ports
}

// newEncrypting is a gateway with a tunnel, for which flow_in steers what comes from inside; its packets end on the wire.
func newEncrypting(t testing.TB, settings string) (g *gateway, out dataplane.SA) {
	t.Helper()
	g = networkOnly(t)
	g.start(settings)
	g.attached("flow_in", "cpu_in")
	_, out = g.tunnel(gcm, topo.IPv4)
	must(t, g.n.Client1.Ping(t.Context(), g.n.Client2.Inner(topo.IPv4), 1)) // neighbours are known from now on
	dropAtWire(t, g.n)
	return g, out
}

// BenchmarkTunerSending: four connections from inside arrive on one CPU, and 1.4 times what that encrypts comes, from a sender that costs little. The
// static choices are how many of them the other CPU encrypts.
func BenchmarkTunerSending(b *testing.B) {
	g, out := newEncrypting(b, " steering = auto\n tune = off")
	g.esp.Kill()
	table := g.steering(nil)
	ports := g.connections(&table, 4)
	s := &steered{gateway: g, steer: table, all: func() []dataplane.SAKey { return []dataplane.SAKey{out.SAKey} }}
	o := &oracle{steered: s, sender: fromInside(b, g.n, 1024), pace: esp.Pace{Batch: 256, CPU: 0}, start: split(4, 0), from: g.n.Client1, offers: 1.4}
	o.find = func() steering {
		again := g.steering(nil)
		g.connections(&again, 4)
		return again
	}
	ring := o.sender.Ring()
	must(b, ring.Fill(newClearFlows(b, g.n, innerSize, ports...), 0))
	must(b, ring.Replay())
	for b.Loop() {
		o.figure(b)
	}
}
