package sa_test

import (
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/internal/event"
)

// TestPerCPUPorts: with encap each SA of a CPU sends from a UDP port of its own, and on either side every one takes packets from any; the fallback
// sends from IKE's. The kernel's report of such a port moves nothing.
func TestPerCPUPorts(t *testing.T) {
	w := satest.New(7)
	w.RoundTrip = true
	moon, sun := satest.Pair(w)
	mine, its := moon.Env.Conns.ByName("sun"), sun.Env.Conns.ByName("moon")
	mine.Encap, mine.Children[0].PerCPU, its.Children[0].PerCPU = true, sa.PerCPUEncap, sa.PerCPUYes
	moon.Env.Settings.CPUs, sun.Env.Settings.CPUs = 4, 4
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	for cpu := range uint32(3) {
		split(moon, cpu)
		w.Advance(time.Minute)
	}
	noErrors(t, moon, sun)
	if _, told := satest.Find[event.FellBack](moon); told {
		t.Error("a fallback is told")
	}
	for _, n := range []*satest.Node{moon, sun} {
		ports := map[uint16]bool{}
		for _, c := range standing(n) {
			in, out := encapOf(t, n, c.SPIIn), encapOf(t, n, c.SPIOut)
			switch {
			case in == nil || out == nil || in.DstPort != 4500 || out.DstPort != 4500:
				t.Fatalf("%s: ports %+v in, %+v out", n.Addr, in, out)
			case in.SrcPort != 0, c.CPU == nil && out.SrcPort != 4500,
				c.CPU != nil && n == sun && out.SrcPort != 4500, c.CPU != nil && n == moon && out.SrcPort < 49152:
				t.Errorf("%s, CPU %d: ports %+v in, %+v out", n.Addr, cpuOf(c), in, out)
			}
			ports[out.SrcPort] = true
		}
		if want := map[*satest.Node]int{moon: 4, sun: 1}[n]; len(ports) != want {
			t.Errorf("%s: sends from ports %v", n.Addr, ports)
		}
	}
	x := sun.Live()[0]
	for _, c := range standing(sun) {
		at := x.Info().Remote
		sun.Do(0, sa.Mapped{SPI: c.SPIIn, Remote: netip.AddrPortFrom(at.Addr(), 50_000)})
		if now := x.Info().Remote; now != at {
			t.Errorf("CPU %d: the IKE SA has moved from %s to %s", cpuOf(c), at, now)
		}
	}
}

// encapOf is the encapsulation of an SA in a node's kernel.
func encapOf(t *testing.T, n *satest.Node, spi uint32) *dataplane.Encap {
	t.Helper()
	snap, err := n.DP.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range snap.SAs {
		if s.SPI == spi {
			return s.Encap
		}
	}
	t.Fatalf("no SA %08x", spi)
	return nil
}
