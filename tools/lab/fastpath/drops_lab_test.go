//go:build lab

package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// lossCase provokes one reason at one SA.
type lossCase struct {
	reason string
	// peer makes the SA as the sender has it of the gateway's; nil: the same.
	peer func(*dataplane.SA)
	// own makes the SA as the gateway has it; nil: the same.
	own func(*dataplane.SA)
	// seal makes a frame of the sender's SA; nil: the inner packet, sealed.
	seal func(s *esp.Sealer, link esp.Link, inner []byte) ([]byte, error)
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
	{reason: "header", seal: cut, lost: 4},
	{reason: "selector", own: func(sa *dataplane.SA) {
		sa.Selector = &dataplane.Selector{Src: netip.MustParsePrefix("10.99.4.0/24"), Dst: netip.MustParsePrefix("10.1.0.0/16")}
	}, lost: 4},
	{reason: "encap", peer: func(sa *dataplane.SA) { sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500} }, lost: 4},
}

// cut is ESP that ends before its sequence number does.
func cut(s *esp.Sealer, link esp.Link, inner []byte) ([]byte, error) {
	const ip, left = 20, 6
	p, err := s.Append(nil, inner)
	if err != nil {
		return nil, err
	}
	p = p[:ip+left]
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < ip; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum>>16+sum))
	return frameOf(link, p), nil
}

func frameOf(link esp.Link, ip []byte) []byte {
	return slices.Concat(link.Dst, link.Src, []byte{0x08, 0x00}, ip)
}

// frames makes them one by one.
type frames func() ([]byte, error)

// Append implements esp.Source.
func (f frames) Append(dst []byte) ([]byte, error) {
	b, err := f()
	return append(dst, b...), err
}

// source is what sends the packets of a case.
func (c *lossCase) source(t testing.TB, n *topo.Net, peer dataplane.SA) esp.Source {
	t.Helper()
	inner := innerPacket(t, n, topo.IPv4, 0, 100)
	if c.inner != nil {
		inner = c.inner(t, n)
	}
	link := fromWire(t, n)
	if c.seal == nil {
		return need[*esp.Generator](t)(esp.NewGenerator(link, esp.Mix{}, esp.Stream{SA: peer, Inner: [][]byte{inner}}))
	}
	sealer := need[*esp.Sealer](t)(esp.NewSealer(peer))
	return frames(func() ([]byte, error) { return c.seal(sealer, link, inner) })
}

// TestDrops provokes each reason why an SA loses packets, and finds as many as were lost under that SA and that reason, and no others. Those that take
// a look at the kernel itself are in dataplane/flow/programs.
func TestDrops(t *testing.T) {
	if userModeLinux() {
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
		if c.own != nil {
			c.own(&sa)
		}
		g.install(sa)
		s := packetSocket(t, n, 4)
		must(t, s.Ring().Fill(c.source(t, n, peer), 4))
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
	g.noRoute()
	g.sendTo(netip.MustParseAddr("10.2.0.78"))
	// Those are lost while the kernel looks for an SA: its own counters tell of them.
	wantKernel := map[string]uint64{"out-bundle": 3, "out-no-state": 3}
	until(t, "drops", func() (bool, string) {
		got, kernel := g.drops()
		ok := fmt.Sprint(got, kernel) == fmt.Sprint(want, wantKernel) // maps print sorted
		return ok, fmt.Sprintf("expected\n%v and %v, got\n%v and %v; the kernel says %v", want, wantKernel, got, kernel, xfrmErrors(t, n.GW1))
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

// drops are what was lost by SA and reason, and what the kernel lost before it had an SA.
func (g *gateway) drops() (bySA map[string]map[string]uint64, withoutSA map[string]uint64) {
	g.Helper()
	var list struct {
		Drops []struct {
			Dir, SPI, Reason string
			Packets          uint64
		}
		Kernel []struct {
			Reason  string
			Packets uint64
		}
	}
	g.espctl(&list, "drop", "show")
	bySA, withoutSA = map[string]map[string]uint64{}, map[string]uint64{}
	for _, d := range list.Drops {
		k := d.Dir + " " + d.SPI
		if bySA[k] == nil {
			bySA[k] = map[string]uint64{}
		}
		bySA[k][d.Reason] = d.Packets
	}
	for _, k := range list.Kernel {
		withoutSA[k.Reason] += k.Packets
	}
	return bySA, withoutSA
}

// usedUp sends three packets by an outbound SA that has no sequence number left.
func (g *gateway) usedUp() dataplane.SA {
	g.Helper()
	sa := between(g.n.GW1, g.n.GW2, gcm, topo.IPv4, spiOf(100), 0)
	sa.Dir, sa.ReqID, sa.Seq.Out = dataplane.Out, reqID+50, 1<<32-1
	to := netip.MustParseAddr("10.2.0.77")
	g.protect(to, sa.ReqID, sa.Dst)
	g.install(sa)
	g.sendTo(to)
	return sa
}

// noRoute sends three packets by an SA whose peer cannot be reached, and protects another address by a policy that has no SA.
func (g *gateway) noRoute() {
	g.Helper()
	sa := between(g.n.GW1, g.n.GW2, gcm, topo.IPv4, spiOf(101), 0)
	sa.Dir, sa.ReqID, sa.Dst = dataplane.Out, reqID+51, netip.MustParseAddr("203.0.113.9")
	need[string](g)(g.n.GW1.Run(g.Context(), "ip", "route", "add", "unreachable", sa.Dst.String()))
	to := netip.MustParseAddr("10.2.0.79")
	g.protect(to, sa.ReqID, sa.Dst)
	g.protect(to.Prev(), reqID+52, g.n.GW2.PublicAddr(topo.IPv4))
	g.install(sa)
	g.sendTo(to)
}

// protect makes a policy that an address behind the second gateway is reached by SAs with this reqid.
func (g *gateway) protect(to netip.Addr, req uint32, peer netip.Addr) {
	g.Helper()
	op := outbound(g.n.GW1, g.n.GW2, topo.IPv4)[0].(dataplane.InstallPolicy)
	op.Policy.Selector.Dst, op.Policy.Templates[0].ReqID, op.Policy.Templates[0].Dst, op.Policy.Priority = netip.PrefixFrom(to, 32), req, peer, 1
	must(g, g.x.Apply([]dataplane.Op{op}))
}

// sendTo sends three datagrams from the first client.
func (g *gateway) sendTo(to netip.Addr) {
	g.Helper()
	must(g, g.n.Client1.Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		for range 3 {
			if _, err := c.Write([]byte("lost")); err != nil && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		return nil
	}))
}
