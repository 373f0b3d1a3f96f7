//go:build lab

package fastpath

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// TestCounters: after 100,000 packets of every encapsulation (4,000 in an emulated machine) the fast path has counted as many of each SA as the kernel, to the
// packet, steered or not, and of what leaves as well.
func TestCounters(t *testing.T) {
	g := newGateway(t, " steering = hash\n guard = on")
	sink(t, g.n, false)
	must(t, g.x.Apply(allowInbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	// The hash has a secret: of 16 SAs all stay on the CPU where they arrive once in 65,536 runs, of four once in 16.
	var sas []dataplane.SA
	for i := 0; i < 16; i += 4 {
		sas = append(sas, inbound(g.n, gcm, topo.IPv4, spiOf(i+1), 1024), inbound(g.n, gcmUDP, topo.IPv4, spiOf(i+2), 1024),
			inbound(g.n, cbc, topo.IPv4, spiOf(i+3), 1024), inbound(g.n, gcmESN, topo.IPv4, spiOf(i+4), 1024))
	}
	g.install(sas...)
	out := between(g.n.GW1, g.n.GW2, gcm, topo.IPv4, spiOf(len(sas)+1), 0)
	out.Dir = dataplane.Out
	must(t, g.x.Apply(outbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	g.install(out)
	count, leaving := 100_000, 5000
	if emulated() {
		count, leaving = 4000, 1000
	}
	s := liveFrames(t, g.n, 8192)
	gen := g.generator(topo.IPv4, sas...)
	for sent := 0; sent < count; {
		n := min(800, count-sent)
		must(t, s.Ring().Fill(gen, n))
		send(t, g.n, s, esp.Pace{Count: uint64(n), Rate: 12_000, CPU: 0})
		sent += n
		// As many as fit into any queue: a machine that has other things to do loses none between the fast path and the kernel.
		until(t, "what was sent in the kernel", func() (bool, string) {
			sum := uint64(0)
			for _, sa := range sas {
				sum += packets(t, g.x, sa.SAKey)
			}
			return sum == uint64(sent), fmt.Sprintf("expected %d, the kernel counted %d; lost %v", sent, sum, xfrmErrors(t, g.n.GW1))
		})
	}
	clientSends(t, g.n, leaving)
	for _, sa := range append(sas, out) {
		until(t, "counters of "+entryOf(&sa), func() (bool, string) {
			kernel, fast := packets(t, g.x, sa.SAKey), g.entries()[entryOf(&sa)].Packets
			want := uint64(count / len(sas))
			if sa.Dir == dataplane.Out {
				want = uint64(leaving)
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

// TestPinned: each SA's packets go to the CPU that the table says, and each CPU gets as many as any other.
func TestPinned(t *testing.T) {
	all := runtime.NumCPU()
	count := 2 * all
	g := newGateway(t, " steering = pinned")
	sink(t, g.n, true)
	must(t, g.x.Apply(allowInbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	var sas []dataplane.SA
	for i := range count {
		sas = append(sas, inbound(g.n, gcm, topo.IPv4, spiOf(i), 64))
	}
	g.install(sas...)
	cpus := map[int]int{}
	for _, e := range g.entries() {
		if e.CPU != nil {
			cpus[*e.CPU]++
		}
	}
	for cpu := range all {
		if cpus[cpu] != 2 {
			t.Fatalf("expected two SAs on each of %d CPUs, got %v", all, cpus)
		}
	}
	s := packetSocket(t, g.n, 4000)
	before := datagrams(t, g.n)
	must(t, s.Ring().Fill(g.generator(topo.IPv4, sas...), 4000))
	send(t, g.n, s, esp.Pace{Count: 4000, Rate: 5000, CPU: 0})
	until(t, "packets at the client", func() (bool, string) {
		got := datagrams(t, g.n) - before
		return got == 4000, fmt.Sprintf("expected 4000, got %d; %v", got, xfrmErrors(t, g.n.GW1))
	})
	// The sender is on CPU 0, and so is what it sends: each other CPU gets its share, and nothing is given to the own one.
	share := uint64(4000 / all)
	if got := g.totals().of("redirected"); got != 4000-share {
		t.Errorf("expected %d packets to be given to other CPUs, got %d", 4000-share, got)
	}
	taken := takenBy(reader(t, g.n.GW1, g.esp), all)
	for cpu, n := range taken {
		if want := share * uint64(min(cpu, 1)); n < want || n > want+noise { // clear packets are given to CPUs, too
			t.Errorf("CPU %d took %d packets that were given to it, expected %d: %v", cpu, n, want, taken)
		}
	}
	if errs := xfrmErrors(t, g.n.GW1); len(errs) != 0 {
		t.Errorf("expected no errors, got %v", errs)
	}
}

// takenBy is how many packets each CPU took of those that were given to it.
func takenBy(r *flow.Reader, cpus int) (taken []uint64) {
	for cpu := range cpus {
		taken = append(taken, r.TakenOn(cpu))
	}
	return taken
}

// TestEvenFlows: of many connections from inside, each CPU gets as many as any other, within 10 %.
func TestEvenFlows(t *testing.T) {
	if !userModeLinux() {
		t.Skip("takes minutes on an emulated processor; 'make fast-test' runs it with four CPUs")
	}
	const flows = 1 << 14 // that many differ by 10 % once in a million million runs
	all := runtime.NumCPU()
	g := newGateway(t, " steering = hash")
	g.attached("flow_in", "cpu_in")
	_, out := g.tunnel(gcm, topo.IPv4)
	must(t, g.n.Client1.Ping(t.Context(), g.n.Client2.Inner(topo.IPv4), 1)) // its neighbours are known from now on
	var ports []uint16
	for i := range flows {
		ports = append(ports, uint16(1024+i))
	}
	s := fromInside(t, g.n, flows)
	must(t, s.Ring().Fill(newClearFlows(t, g.n, 100, ports...), flows))
	r := reader(t, g.n.GW1, g.esp)
	before, was := takenBy(r, all), packets(t, g.x, out.SAKey)
	need[esp.Report](t)(sendInside(t.Context(), g.n, s, esp.Pace{Count: flows, Rate: 5000, CPU: 0}))
	until(t, "packets in the tunnel", func() (bool, string) {
		got := packets(t, g.x, out.SAKey) - was
		return got >= flows, fmt.Sprintf("expected %d, got %d", flows, got)
	})
	taken := takenBy(r, all)
	rest := uint64(flows)
	for cpu := range taken {
		taken[cpu] -= before[cpu]
		rest -= taken[cpu]
	}
	taken[0] += rest // they came in there, and stayed
	t.Logf("%d connections on CPUs: %v", flows, taken)
	for cpu, n := range taken {
		if share := float64(n) * float64(all) / flows; share < 0.9 || share > 1.1 {
			t.Errorf("CPU %d got %d of %d connections, %.2f of an even share", cpu, n, flows, share)
		}
	}
}
