//go:build lab

package fastpath

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/xfrm"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// steered is a gateway that gets ESP of four tunnels through one queue, on CPU 0, where the sender runs too.
type steered struct {
	*testing.B
	n       *topo.Net
	x       *xfrm.XFRM
	sas     []dataplane.SA
	streams []esp.Stream
	steer   steering
}

const (
	tunnels   = 4
	innerSize = 1400
)

// newSteered builds it. The SAs check no sequence numbers, so that a ring of sealed packets may be sent again and again.
func newSteered(b *testing.B) *steered {
	b.Helper()
	n := topo.New(b, topo.Config{})
	s := &steered{B: b, n: n, x: dataPlane(b, n.GW1)}
	must(b, s.x.Apply(allowInbound(n.GW1, n.GW2, topo.IPv4)))
	sink(b, n, false)
	for i := range tunnels {
		sa := inbound(n, gcm, topo.IPv4, spiOf(i), 0)
		must(b, s.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
		s.sas = append(s.sas, sa)
		s.streams = append(s.streams, esp.Stream{SA: sa, Inner: [][]byte{innerPacket(b, n, topo.IPv4, uint16(i), innerSize)}})
	}
	s.steer = steer(b, n, s.sas)
	return s
}

// generator makes packets of all tunnels in turn.
func (s *steered) generator() *esp.Generator {
	s.Helper()
	return need[*esp.Generator](s)(esp.NewGenerator(fromWire(s, s.n), esp.Mix{}, s.streams...))
}

// phase is what one run of the sender did.
type phase struct {
	received uint64 // packets that the SAs decrypted
	busy     float64
	sent     esp.Report
}

func (p phase) String() string {
	return fmt.Sprintf("%.0f Mbit/s decrypted, %.2f CPUs busy, sent: %s", p.mbps(), p.busy, p.sent)
}

// perSecond and mbps are the rate of decrypted packets, and of the inner packets' bits.
func (p phase) perSecond() float64 { return float64(p.received) / p.sent.Took.Seconds() }
func (p phase) mbps() float64      { return p.perSecond() * innerSize * 8 / 1e6 }

// run sends for a while and says what arrived; cpus are those that the tunnels' packets are given to.
func (s *steered) run(name string, sender esp.Sender, pace esp.Pace, cpus ...int) phase {
	s.Helper()
	s.steer.set(s, cpus...)
	s.idle()
	before, busy, begin := s.decrypted(), s.busy(), time.Now()
	r := send(s, s.n, sender, pace)
	p := phase{received: s.decrypted() - before, sent: r}
	p.busy = (s.busy() - busy).Seconds() / time.Since(begin).Seconds()
	s.Logf("%s: %s", name, p)
	return p
}

func (s *steered) decrypted() (sum uint64) {
	s.Helper()
	for i := range s.sas {
		sum += packets(s, s.x, s.sas[i].SAKey)
	}
	return sum
}

// idle waits until what is still queued is through.
func (s *steered) idle() {
	for last := s.decrypted(); ; {
		time.Sleep(100 * time.Millisecond)
		now := s.decrypted()
		if now == last {
			return
		}
		last = now
	}
}

// busy is the CPU time of the whole machine, all CPUs, idle time left out.
func (s *steered) busy() time.Duration {
	s.Helper()
	raw := need[[]byte](s)(os.ReadFile("/proc/stat"))
	f := strings.Fields(strings.SplitN(string(raw), "\n", 2)[0])
	var ticks uint64
	for i := 1; i < len(f) && i <= 8; i++ { // user nice system idle iowait irq softirq steal
		if i != 4 && i != 5 {
			ticks += number(s, f[i])
		}
	}
	return time.Duration(ticks) * time.Second / 100
}

// none leaves every tunnel where it arrives.
var none = []int{-1, -1, -1, -1}

// BenchmarkSteeringPinned: packets that were sealed before are sent again and again, as fast as one busy CPU can, without steering and with
// all tunnels given to the other CPU, which is idle.
func BenchmarkSteeringPinned(b *testing.B) {
	s := newSteered(b)
	sender := packetSocket(b, s.n, 4096)
	must(b, sender.Ring().Fill(s.generator(), 0))
	must(b, sender.Ring().Replay())
	for b.Loop() {
		off := s.run("not steered", sender, esp.Pace{Count: 60_000, CPU: 0}, none...)
		on := s.run("pinned to the idle CPU", sender, esp.Pace{Count: 300_000, CPU: 0}, 1, 1, 1, 1)
		b.ReportMetric(on.perSecond()/off.perSecond(), "gain")
		b.ReportMetric(off.mbps(), "Mbps-off")
		b.ReportMetric(on.mbps(), "Mbps-on")
	}
}

// BenchmarkSteeringSplit: more than one CPU can decrypt comes from a sender that costs little, so the best is to let each CPU do a part.
func BenchmarkSteeringSplit(b *testing.B) {
	s := newSteered(b)
	sender := liveFrames(b, s.n, 4096)
	must(b, sender.Ring().Fill(s.generator(), 0))
	must(b, sender.Ring().Replay())
	pace := esp.Pace{Count: 150_000, Rate: 60_000, CPU: 0}
	for b.Loop() {
		own := s.senderAlone(sender, pace)
		off := s.run("not steered", sender, pace, none...)
		on := s.run("one tunnel here, three on the other CPU", sender, pace, -1, 1, 1, 1)
		b.ReportMetric(on.perSecond()/off.perSecond(), "gain")
		b.ReportMetric(off.mbps(), "Mbps-off")
		b.ReportMetric(on.mbps(), "Mbps-on")
		b.ReportMetric(own.sent.Share(), "sender-share")
	}
}

// BenchmarkSteeringCost: at a rate that one CPU manages, what a packet costs all CPUs with steering and without, the sender's own part left out.
func BenchmarkSteeringCost(b *testing.B) {
	s := newSteered(b)
	sender := liveFrames(b, s.n, 4096)
	must(b, sender.Ring().Fill(s.generator(), 0))
	must(b, sender.Ring().Replay())
	pace := esp.Pace{Count: 100_000, Rate: 20_000, CPU: 0}
	for b.Loop() {
		own := s.senderAlone(sender, pace)
		off := s.run("not steered", sender, pace, none...)
		on := s.run("pinned to the other CPU", sender, pace, 1, 1, 1, 1)
		cost := func(p phase) float64 { return (p.busy - own.busy) * p.sent.Took.Seconds() / float64(p.received) }
		b.ReportMetric(cost(on)/cost(off), "cpu-ratio")
		b.ReportMetric(cost(off)*1e6, "us/packet-off")
		b.ReportMetric(cost(on)*1e6, "us/packet-on")
		b.ReportMetric(own.sent.Share(), "sender-share")
	}
}

// senderAlone sends to a gateway that drops every frame at once.
func (s *steered) senderAlone(sender esp.Sender, pace esp.Pace) phase {
	s.Helper()
	s.steer.drop(s, true)
	defer s.steer.drop(s, false)
	p := s.run("sender alone", sender, pace, none...)
	if p.received != 0 {
		s.Fatalf("expected the gateway to drop everything, got %d packets", p.received)
	}
	return p
}
