//go:build lab

package fastpath

import (
	"fmt"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// steered is a gateway that gets ESP of four tunnels through one queue, on CPU 0, where the sender runs too.
type steered struct {
	*gateway
	sas     []dataplane.SA
	streams []esp.Stream
	steer   steering
	all     func() []dataplane.SAKey // the SAs that are counted; nil: sas
}

const (
	tunnels   = 4
	innerSize = 1400
)

// newSteered builds it, without the daemon. The SAs check no sequence numbers, so that a ring of sealed packets may be sent again and again.
func newSteered(b *testing.B) *steered {
	b.Helper()
	return newSteeredOf(b, tunnels)
}

func newSteeredOf(b testing.TB, count int) *steered {
	b.Helper()
	s := &steered{gateway: networkOnly(b)}
	must(b, s.x.Apply(allowInbound(s.n.GW1, s.n.GW2, topo.IPv4)))
	sink(b, s.n, false)
	for i := range count {
		sa := inbound(s.n, gcm, topo.IPv4, spiOf(i), 0)
		must(b, s.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
		s.sas = append(s.sas, sa)
		s.streams = append(s.streams, esp.Stream{SA: sa, Inner: [][]byte{innerPacket(b, s.n, topo.IPv4, uint16(i), innerSize)}})
	}
	return s
}

// startSteering has the daemon load everything, and kills it: what it leaves in place goes on.
func (s *steered) startSteering() {
	s.Helper()
	s.start(" steering = pinned")
	s.known(s.sas...)
	s.esp.Kill()
	s.steer = s.steering(s.sas)
}

// generator makes packets of all tunnels in turn.
func (s *steered) generator() *esp.Generator {
	s.Helper()
	return need[*esp.Generator](s)(esp.NewGenerator(fromWire(s, s.n), esp.Mix{}, s.streams...))
}

// phase is what one run of the sender did.
type phase struct {
	received uint64 // packets that the SAs decrypted
	sent     esp.Report
}

func (p phase) String() string {
	return fmt.Sprintf("%.0f Mbit/s decrypted, sent: %s", p.mbps(), p.sent)
}

// perSecond and mbps are the rate of decrypted packets, and of the inner packets' bits.
func (p phase) perSecond() float64 { return float64(p.received) / p.sent.Took.Seconds() }
func (p phase) mbps() float64      { return p.perSecond() * innerSize * 8 / 1e6 }

// run sends for a while and says what arrived; cpus are those that the tunnels' packets are given to, if the daemon runs.
func (s *steered) run(name string, sender esp.Sender, pace esp.Pace, cpus ...int) phase {
	s.Helper()
	s.steer.set(s, cpus...)
	s.idle()
	before := s.decrypted()
	p := phase{sent: send(s, s.n, sender, pace)}
	p.received = s.decrypted() - before
	s.Logf("%s: %s", name, p)
	return p
}

func (s *steered) decrypted() (sum uint64) {
	s.Helper()
	if s.all != nil {
		for _, k := range s.all() {
			sum += packets(s, s.x, k)
		}
		return sum
	}
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

// none leaves every tunnel where it arrives.
var none = []int{-1, -1, -1, -1}

// BenchmarkSteeringPinned: packets that were sealed before are sent again and again, each by a system call, as fast as one busy CPU can,
// without steering and with all tunnels given to the other CPU, which is idle.
func BenchmarkSteeringPinned(b *testing.B) {
	s := newSteered(b)
	sender := packetSocket(b, s.n, 4096)
	must(b, sender.Ring().Fill(s.generator(), 0))
	must(b, sender.Ring().Replay())
	s.startSteering()
	for b.Loop() {
		off := s.run("not steered", sender, esp.Pace{Count: 25_000, Batch: 1, CPU: 0}, none...)
		on := s.run("pinned to the idle CPU", sender, esp.Pace{Count: 100_000, Batch: 1, CPU: 0}, 1, 1, 1, 1)
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
	own := s.senderAlone(sender, pace)
	s.startSteering()
	for b.Loop() {
		off := s.run("not steered", sender, pace, none...)
		on := s.run("two tunnels here, two on the other CPU", sender, pace, -1, -1, 1, 1)
		b.ReportMetric(on.perSecond()/off.perSecond(), "gain")
		b.ReportMetric(off.mbps(), "Mbps-off")
		b.ReportMetric(on.mbps(), "Mbps-on")
		b.ReportMetric(own.sent.Share(), "sender-share")
	}
}

// BenchmarkSteeringCost: what a packet costs both CPUs with steering and without, the sender's own part left out. More is sent than one CPU
// decrypts, so the one that does it is full, and what the packets cost there is its time divided by them. The other part is in the CPU time of
// the sender, whose system calls do the work of its CPU's queue.
func BenchmarkSteeringCost(b *testing.B) {
	s := newSteered(b)
	sender := liveFrames(b, s.n, 4096)
	must(b, sender.Ring().Fill(s.generator(), 0))
	must(b, sender.Ring().Replay())
	pace := esp.Pace{Count: 150_000, Rate: 60_000, CPU: 0}
	own := s.senderAlone(sender, pace)
	sending := own.sent.CPU.Seconds() / float64(own.sent.Sent)
	s.startSteering()
	for b.Loop() {
		off := s.run("not steered", sender, pace, none...)
		on := s.run("pinned to the other CPU", sender, pace, 1, 1, 1, 1)
		if on.received > on.sent.Sent*98/100 {
			b.Fatal("the other CPU was not full: what a packet costs it is not known")
		}
		costOff := off.sent.CPU.Seconds()/float64(off.received) - sending
		costOn := on.sent.Took.Seconds()/float64(on.received) + on.sent.CPU.Seconds()/float64(on.sent.Sent) - sending
		b.ReportMetric(costOn/costOff, "cpu-ratio")
		b.ReportMetric(costOff*1e6, "us/packet-off")
		b.ReportMetric(costOn*1e6, "us/packet-on")
		b.ReportMetric(own.sent.Share(), "sender-share")
	}
}

// senderAlone sends to a gateway that drops every frame at once, and has no daemon yet.
func (s *steered) senderAlone(sender esp.Sender, pace esp.Pace) phase {
	s.Helper()
	l := dropAll(s, s.gateway)
	p := s.run("sender alone", sender, pace)
	must(s, l.Close())
	if p.received != 0 {
		s.Fatalf("expected the gateway to drop everything, got %d packets", p.received)
	}
	return p
}
