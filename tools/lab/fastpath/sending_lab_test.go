//go:build lab

package fastpath

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"espalier/dataplane"
	"espalier/dataplane/flow"
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

// sendInside sends in the first client's namespace.
func sendInside(ctx context.Context, n *topo.Net, s esp.Sender, p esp.Pace) (r esp.Report, err error) {
	err = n.Client1.Do(func() (err error) {
		r, err = esp.Send(ctx, s, p)
		return err
	})
	return r, err
}

// sending is a gateway that encrypts what comes from inside; its packets end on the wire.
type sending struct {
	*gateway
	out dataplane.SA
	r   *flow.Reader
}

func newSending(b *testing.B) *sending {
	b.Helper()
	s := &sending{gateway: newGateway(b, " steering = hash\n tune = off")}
	s.attached("flow_in", "cpu_in")
	_, s.out = s.tunnel(gcm, topo.IPv4)
	s.r = reader(b, s.n.GW1, s.esp)
	must(b, s.n.Client1.Ping(b.Context(), s.n.Client2.Inner(topo.IPv4), 1)) // neighbours are known from now on
	drop := need[*ebpf.Program](b)(ebpf.NewProgram(&ebpf.ProgramSpec{Name: "drop", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}}))
	b.Cleanup(func() { drop.Close() })
	attachXDP(b, s.n.Wire, "port1", drop)
	return s
}

// ports finds as many source ports whose flows stay on the CPU of the card's queue, and as many whose flows are given to the other one.
func (s *sending) ports(each int) (stay, leave []uint16) {
	s.Helper()
	probe := fromInside(s, s.n, 64)
	for port := uint16(20_000); len(stay) < each || len(leave) < each; port++ {
		must(s, probe.Ring().Fill(newClearFlows(s, s.n, 100, port), 8))
		was, _ := s.given(s.r)
		need[esp.Report](s)(sendInside(s.Context(), s.n, probe, esp.Pace{Count: 8, CPU: 0}))
		time.Sleep(5 * time.Millisecond)
		if now, _ := s.given(s.r); now-was >= 8 {
			leave = append(leave, port)
		} else {
			stay = append(stay, port)
		}
	}
	return stay[:each], leave[:each]
}

// rate is how many packets a second are encrypted of flows with these ports.
func (s *sending) rate(ports []uint16) float64 {
	s.Helper()
	sender := fromInside(s, s.n, 1024)
	must(s, sender.Ring().Fill(newClearFlows(s, s.n, innerSize, ports...), 0))
	must(s, sender.Ring().Replay())
	ctx, cancel := context.WithCancel(s.Context())
	sent := make(chan esp.Report, 1)
	go func() {
		defer close(sent)
		r, err := sendInside(ctx, s.n, sender, esp.Pace{Rate: 60_000, Batch: 256, CPU: 0})
		if err != nil {
			s.Error(err)
		}
		sent <- r
	}()
	time.Sleep(200 * time.Millisecond)
	before, began := packets(s, s.x, s.out.SAKey), time.Now()
	time.Sleep(window)
	rate := float64(packets(s, s.x, s.out.SAKey)-before) / time.Since(began).Seconds()
	cancel()
	s.Logf("%v: %.0f Mbit/s encrypted, sent: %s", ports, rate*innerSize*8/1e6, <-sent)
	return rate
}

// BenchmarkSendingFlows: four connections from inside, more than one CPU encrypts, with none to four of them on the other CPU. Which go there is the
// hash's choice: how much of the best all choices come to, each as likely as a hash makes it, is beside.
func BenchmarkSendingFlows(b *testing.B) {
	s := newSending(b)
	stay, leave := s.ports(4)
	for b.Loop() {
		var rates [5][]float64
		for range 3 {
			for there := range rates {
				rates[there] = append(rates[there], s.rate(slices.Concat(stay[there:], leave[:there])))
			}
		}
		best, mean := 0.0, 0.0
		for there, ways := range []float64{1, 4, 6, 4, 1} {
			best = max(best, median(rates[there]))
			mean += ways / 16 * median(rates[there])
		}
		b.ReportMetric(best/median(rates[0]), "gain")
		b.ReportMetric(median(rates[2])/best, "even-over-best")
		b.ReportMetric(mean/best, "hash-over-best")
	}
}
