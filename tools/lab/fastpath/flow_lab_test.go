//go:build lab

package fastpath

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/tools/lab/topo"
)

const (
	flows, perFlow = 12, 20 // of each family
	// noise is how many packets of neighbour discovery may be among those of a flow.
	noise = 5
	// streamSize is what a TCP connection carries, in bytes.
	streamSize = 200_000
)

// given is how many clear packets were given to another CPU, and taken how many packets of any kind came out there.
func (g *gateway) given(r *flow.Reader) (given, taken uint64) {
	g.Helper()
	for _, c := range need[[]flow.TotalCount](g)(r.Totals()) {
		switch c.Total.String() {
		case "flow-redirected":
			given = c.Count
		case "cpu-taken":
			taken = c.Count
		}
	}
	return given, taken
}

// TestFlowSteering: what comes from inside is given to CPUs by connection, all of one or none, to each of both CPUs some; every packet that is given is taken
// there, goes into the tunnel and arrives whole. What another namespace sends with a checksum that its device is to compute stays, and arrives as well.
func TestFlowSteering(t *testing.T) {
	if !userModeLinux() {
		t.Skip("takes minutes on an emulated processor; 'make fast-test' runs it")
	}
	g := newGateway(t, " steering = hash\n guard = on")
	g.attached("flow_in", "cpu_in")
	n := g.n
	_, out := g.tunnel(gcm, topo.IPv4)
	sinkOf(t, n.GW2, n.Client2, true)
	r := reader(t, n.GW1, g.esp)
	before := datagramsOf(t, n.Client2)
	for _, f := range []topo.Family{topo.IPv4, topo.IPv6} {
		must(t, n.Client1.Ping(t.Context(), n.Client2.Inner(f), 1)) // its neighbours are known from now on
	}
	was, _ := g.given(r)
	if moved, _ := g.flows(r, out); moved != 0 {
		t.Errorf("%d flows without checksum were given to the other CPU", moved)
	}
	need[time.Duration](t)(n.Client1.Transfer(t.Context(), n.Client2, n.Client2.Inner(topo.IPv4), streamSize))
	if now, _ := g.given(r); now-was > noise || g.totals().of("flow-unfinished") == 0 {
		t.Errorf("%d packets without checksum were given to the other CPU; %+v", now-was, g.totals())
	}
	need[string](t)(n.Client1.Run(t.Context(), "ethtool", "-K", "eth0", "tx", "off"))
	if moved, stayed := g.flows(r, out); moved == 0 || stayed == 0 {
		t.Errorf("%d flows were given to the other CPU, %d stayed: expected some of both", moved, stayed)
	}
	const sent = 2 * 2 * flows * perFlow
	until(t, "datagrams at the other client", func() (bool, string) {
		got := datagramsOf(t, n.Client2) - before
		return got == sent, fmt.Sprintf("expected %d, got %d (or their checksum was wrong); %+v, %v", sent, got, g.totals(), xfrmErrors(t, n.GW1))
	})
	g.streams(r)
	until(t, "packets that were given to be taken", func() (bool, string) {
		all := g.totals()
		given := all.of("flow-redirected") + all.of("redirected")
		return given == all.of("cpu-taken") && all.of("redirect-failed") == 0, fmt.Sprintf("%+v", all)
	})
	until(t, "the same counts as the kernel's", func() (bool, string) {
		kernel := packets(t, g.x, out.SAKey)
		fast, _ := counted(t, n.GW1, r, dataplane.Out, out.SAKey)
		return fast == kernel, fmt.Sprintf("the kernel's SA has %d packets, counted were %d", kernel, fast)
	})
}

// flows sends connections of both families, one after the other, and counts those that were given to the other CPU and those that stayed.
func (g *gateway) flows(r *flow.Reader, out dataplane.SA) (moved, stayed int) {
	g.Helper()
	for i := range 2 * flows {
		was, _ := g.given(r)
		start := packets(g, g.x, out.SAKey)
		g.oneFlow([]topo.Family{topo.IPv4, topo.IPv6}[i%2])
		until(g, "a flow in the tunnel", func() (bool, string) {
			got := packets(g, g.x, out.SAKey) - start
			return got >= perFlow, fmt.Sprintf("expected %d packets, got %d; %+v, %v", perFlow, got, g.totals(), xfrmErrors(g, g.n.GW1))
		})
		now, _ := g.given(r)
		switch n := now - was; {
		case n <= noise:
			stayed++
		case n >= perFlow && n <= perFlow+noise:
			moved++
		default:
			g.Errorf("of %d packets of one flow %d were given to the other CPU, expected all or none", perFlow, n)
		}
	}
	return moved, stayed
}

// oneFlow sends the datagrams of one connection from CPU 0, where the gateway's device gets them.
func (g *gateway) oneFlow(f topo.Family) {
	g.Helper()
	must(g, g.n.Client1.Do(func() error { // which locks the thread
		var all, first unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			return err
		}
		first.Set(0)
		if err := unix.SchedSetaffinity(0, &first); err != nil {
			return err
		}
		defer func() { must(g, unix.SchedSetaffinity(0, &all)) }()
		to := netip.AddrPortFrom(g.n.Client2.Inner(f), sinkPort)
		c, err := net.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		for range perFlow {
			if _, err := c.Write([]byte("of a flow")); err != nil {
				return err
			}
		}
		return nil
	}))
}

// streams sends TCP connections through the tunnel until one was given to the other CPU: what the kernel puts together there (GRO) or
// leaves in pieces arrives whole.
func (g *gateway) streams(r *flow.Reader) {
	g.Helper()
	const segments = streamSize / 2000
	for range 32 {
		was, _ := g.given(r)
		need[time.Duration](g)(g.n.Client1.Transfer(g.Context(), g.n.Client2, g.n.Client2.Inner(topo.IPv4), streamSize))
		if now, _ := g.given(r); now-was > segments {
			return
		}
	}
	g.Error("none of 32 TCP connections was given to the other CPU")
}
