//go:build lab

package fastpath

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// lossCase provokes one reason at one SA.
type lossCase struct {
	reason string
	// peer makes the SA as the sender has it of the gateway's; nil: the same.
	peer func(*dataplane.SA)
	// inner makes the inner packet; nil: one that would arrive.
	inner func(t testing.TB, n *topo.Net) []byte
	// lost is how many of the four packets that are sent.
	lost uint64
	// replay sends them twice.
	replay bool
}

func innerFrom(src string) func(testing.TB, *topo.Net) []byte {
	return func(t testing.TB, n *topo.Net) []byte {
		return need[[]byte](t)(esp.UDP(netip.AddrPortFrom(netip.MustParseAddr(src), 7), netip.AddrPortFrom(n.Client1.Inner(topo.IPv4), sinkPort), 100))
	}
}

var lossCases = []lossCase{
	{reason: "replay", replay: true, lost: 4},
	{reason: "integrity", peer: func(sa *dataplane.SA) { sa.AEAD.Key = key(20 + 16)[16:] }, lost: 4},
	{reason: "no-policy", inner: innerFrom("10.99.1.1"), lost: 4},
	{reason: "policy-block", inner: innerFrom("10.99.2.1"), lost: 4},
	{reason: "template", inner: innerFrom("10.99.3.1"), lost: 4},
	{reason: "mode", peer: func(sa *dataplane.SA) { sa.Mode = dataplane.Transport }, lost: 4}, // no IP within
	{reason: "encap", peer: func(sa *dataplane.SA) { sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500} }, lost: 4},
}

// TestDrops provokes each reason why an SA loses packets, and finds as many as were lost under that SA and that reason, and no others.
func TestDrops(t *testing.T) {
	if info, _ := os.ReadFile("/proc/cpuinfo"); strings.Contains(string(info), "User Mode Linux") {
		t.Skip("User-Mode Linux has no fentry")
	}
	g := newGateway(t, " guard = off")
	n := g.n
	g.attached("audit_replay", "input_begins", "policy_begins", "output_begins")
	sink(t, n, false)
	must(t, g.x.Apply(allowInbound(n.GW1, n.GW2, topo.IPv4)))
	for src, change := range map[string]func(*dataplane.Policy){
		"10.99.2.0/24": func(p *dataplane.Policy) { p.Verdict, p.Templates = dataplane.Block, nil },
		"10.99.3.0/24": func(p *dataplane.Policy) { p.Templates[0].ReqID++ },
	} {
		for _, op := range inboundPolicies(n.GW1, n.GW2, topo.IPv4, topo.IPv4) {
			p := op.(dataplane.InstallPolicy)
			p.Policy.Selector.Src = netip.MustParsePrefix(src)
			change(&p.Policy)
			must(t, g.x.Apply([]dataplane.Op{p}))
		}
	}
	want := map[string]map[string]uint64{}
	for i, c := range lossCases {
		sa := inbound(n, gcm, topo.IPv4, spiOf(i), 64)
		peer := sa
		if c.peer != nil {
			c.peer(&peer)
		}
		g.install(sa)
		inner := innerPacket(t, n, topo.IPv4, 0, 100)
		if c.inner != nil {
			inner = c.inner(t, n)
		}
		gen := need[*esp.Generator](t)(esp.NewGenerator(fromWire(t, n), esp.Mix{}, esp.Stream{SA: peer, Inner: [][]byte{inner}}))
		s := packetSocket(t, n, 4)
		must(t, s.Ring().Fill(gen, 4))
		count := uint64(4)
		if c.replay {
			must(t, s.Ring().Replay())
			count = 8
		}
		send(t, n, s, esp.Pace{Count: count, Rate: 100, CPU: -1})
		want[entryOf(&sa)] = map[string]uint64{c.reason: c.lost}
	}
	out := g.usedUp()
	want[entryOf(&out)] = map[string]uint64{"sequence": 3}
	until(t, "drops", func() (bool, string) {
		got := g.drops()
		ok := fmt.Sprint(got) == fmt.Sprint(want) // maps print sorted
		return ok, fmt.Sprintf("expected\n%v, got\n%v; the kernel says %v", want, got, xfrmErrors(t, n.GW1))
	})
	until(t, "a word of each in the daemon's log", func() (bool, string) {
		log := g.esp.Log()
		for sa, reasons := range want {
			_, spi, _ := strings.Cut(sa, " ")
			for reason := range reasons {
				said := fmt.Sprintf(`"spi":"%s","reqid":`, spi)
				if i := strings.Index(log, said); i < 0 || !strings.Contains(log[i:], fmt.Sprintf(`"reason":"%s"`, reason)) {
					return false, fmt.Sprintf("expected %s and %s in\n%s", said, reason, log)
				}
			}
		}
		return true, ""
	})
}

// drops are what was lost, by SA and reason.
func (g *gateway) drops() map[string]map[string]uint64 {
	g.Helper()
	var list struct {
		Drops []struct {
			Dir, SPI, Reason string
			Packets          uint64
		}
	}
	g.espctl(&list, "drop", "show")
	out := map[string]map[string]uint64{}
	for _, d := range list.Drops {
		k := d.Dir + " " + d.SPI
		if out[k] == nil {
			out[k] = map[string]uint64{}
		}
		out[k][d.Reason] = d.Packets
	}
	return out
}

// usedUp sends three packets by an outbound SA that has no sequence number left.
func (g *gateway) usedUp() dataplane.SA {
	g.Helper()
	n, to := g.n, netip.MustParsePrefix("10.2.0.77/32")
	sa := between(n.GW1, n.GW2, gcm, topo.IPv4, spiOf(100), 0)
	sa.Dir, sa.ReqID, sa.Seq.Out = dataplane.Out, reqID+50, 1<<32-1
	op := outbound(n.GW1, n.GW2, topo.IPv4)[0].(dataplane.InstallPolicy)
	op.Policy.Selector.Dst, op.Policy.Templates[0].ReqID, op.Policy.Priority = to, sa.ReqID, 1
	must(g, g.x.Apply([]dataplane.Op{op}))
	g.install(sa)
	must(g, n.Client1.Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(to.Addr(), 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		for range 3 {
			if _, err := c.Write([]byte("lost")); err != nil {
				return err
			}
		}
		return nil
	}))
	return sa
}
