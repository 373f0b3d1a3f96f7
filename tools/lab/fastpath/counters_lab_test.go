//go:build lab

package fastpath

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// TestCounters: after 20,000 packets of every encapsulation (TestDaemonKilled has 100,000) the fast path has counted as many of each SA as the kernel, to the packet,
// steered or not, and of what leaves as well.
func TestCounters(t *testing.T) {
	g := newGateway(t, " steering = hash\n guard = on")
	sink(t, g.n, false)
	must(t, g.x.Apply(allowInbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	sas := []dataplane.SA{
		inbound(g.n, gcm, topo.IPv4, spiOf(1), 1024), inbound(g.n, gcmUDP, topo.IPv4, spiOf(2), 1024),
		inbound(g.n, cbc, topo.IPv4, spiOf(3), 1024), inbound(g.n, gcmESN, topo.IPv4, spiOf(4), 1024),
	}
	g.install(sas...)
	out := between(g.n.GW1, g.n.GW2, gcm, topo.IPv4, spiOf(5), 0)
	out.Dir = dataplane.Out
	must(t, g.x.Apply(outbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	g.install(out)
	const count, leaving = 20_000, 5000
	s := liveFrames(t, g.n, 8192)
	gen := g.generator(topo.IPv4, sas...)
	for sent := 0; sent < count; {
		n := min(8192, count-sent)
		must(t, s.Ring().Fill(gen, n))
		send(t, g.n, s, esp.Pace{Count: uint64(n), Rate: 12_000, CPU: 0})
		sent += n
	}
	clientSends(t, g.n, leaving)
	for _, sa := range append(sas, out) {
		until(t, "counters of "+entryOf(&sa), func() (bool, string) {
			kernel, fast := packets(t, g.x, sa.SAKey), g.entries()[entryOf(&sa)].Packets
			want := uint64(count / len(sas))
			if sa.Dir == dataplane.Out {
				want = leaving
			}
			return kernel == want && fast == want, fmt.Sprintf("expected %d, the kernel counted %d, the fast path %d; lost %v", want, kernel, fast, xfrmErrors(t, g.n.GW1))
		})
	}
	got := g.totals()
	if given := got.of("redirected") + got.of("flow-redirected"); given == 0 || got.of("cpu-taken") != given || got.of("redirect-failed") != 0 {
		t.Errorf("expected packets to be given to other CPUs, each to be taken there, got %+v", got)
	}
}

// clientSends sends n datagrams from the first client to the second one, all of which leave the gateway.
func clientSends(t testing.TB, n *topo.Net, count int) {
	t.Helper()
	must(t, n.Client1.Do(func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.Client1.Inner(topo.IPv4), 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.Client2.Inner(topo.IPv4), sinkPort)))
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range count {
			if _, err := c.Write([]byte("counted")); err != nil {
				return err
			}
			if i%50 == 49 {
				time.Sleep(5 * time.Millisecond) // or a slow gateway loses some before they are an SA's
			}
		}
		return nil
	}))
}

// TestPinned: each SA's packets go to the CPU that the table says.
func TestPinned(t *testing.T) {
	g := newGateway(t, " steering = pinned")
	sink(t, g.n, true)
	must(t, g.x.Apply(allowInbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	var sas []dataplane.SA
	for i := range 4 {
		sas = append(sas, inbound(g.n, gcm, topo.IPv4, spiOf(i), 64))
	}
	g.install(sas...)
	cpus := map[int]int{}
	for _, e := range g.entries() {
		if e.CPU != nil {
			cpus[*e.CPU]++
		}
	}
	if len(cpus) != 2 || cpus[0] != 2 || cpus[1] != 2 {
		t.Fatalf("expected two SAs on each of two CPUs, got %v", cpus)
	}
	s := packetSocket(t, g.n, 4000)
	before := datagrams(t, g.n)
	must(t, s.Ring().Fill(g.generator(topo.IPv4, sas...), 4000))
	send(t, g.n, s, esp.Pace{Count: 4000, Rate: 5000, CPU: 0})
	until(t, "packets at the client", func() (bool, string) {
		got := datagrams(t, g.n) - before
		return got == 4000, fmt.Sprintf("expected 4000, got %d; %v", got, xfrmErrors(t, g.n.GW1))
	})
	// The sender is on CPU 0, and so is what it sends: the other CPU gets half, and nothing is given to the own one.
	if got := g.totals().of("redirected"); got != 2000 {
		t.Errorf("expected 2000 packets to be given to the other CPU, got %d", got)
	}
	if errs := xfrmErrors(t, g.n.GW1); len(errs) != 0 {
		t.Errorf("expected no errors, got %v", errs)
	}
}
