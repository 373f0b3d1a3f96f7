//go:build lab

package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// splitTunnel is a gateway with the tuner and its peer, between which IKE makes one CHILD SA, and more when the tuner asks for them. What the
// peer sends is played: sealed ahead with the keys of its SAs, half of it as its CPU 0 would send it, half as its CPU 1 would.
type splitTunnel struct {
	*gateway
	peer *topo.Espalier
}

// splitConf is tunnelConf with SAs of single CPUs as the word says. They check no sequence numbers, so that packets can be sent again and again.
func splitConf(own, peer *topo.Host, perCPU, settings string) string {
	conf := tunnelConf(own, peer, topo.IPv4, settings)
	return strings.Replace(conf, "per_cpu_sas = no", "per_cpu_sas = "+perCPU+"\n            replay_window = 0\n            esp_proposals = aes128gcm16", 1)
}

// newSplitTunnel builds it, without tunnel.
func newSplitTunnel(t testing.TB, g *gateway, theirs, settings string) *splitTunnel {
	t.Helper()
	s := &splitTunnel{gateway: g, peer: daemon(t, g.n.GW2, splitConf(g.n.GW2, g.n.GW1, theirs, "fast_path = no\n tune = off"))}
	s.esp = need[*topo.Espalier](t)(g.n.GW1.StartEspalier(t.Context(), topo.EspalierConfig{Conf: splitConf(g.n.GW1, g.n.GW2, "yes", settings)}))
	t.Cleanup(g.takeDown)
	sink(t, g.n, false)
	return s
}

// up brings the tunnel up anew, with one CHILD SA.
func (s *splitTunnel) up() {
	s.Helper()
	s.attached("esp_in", "esp_out")
	if out, err := s.esp.Espctl(s.Context(), "conn", "up", "peer", "net"); err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	// What the peer has of a former run of the daemon goes now.
	own := s.inbound()
	until(s, "one SA at the peer", func() (bool, string) {
		sas := s.sending()
		return len(sas) == 1 && len(own) == 1 && sas[-1].SPI == own[0].SPI, fmt.Sprintf("%d, and %v here", len(sas), own)
	})
}

// inbound are the SAs that the gateway receives on.
func (s *splitTunnel) inbound() (out []dataplane.SAKey) {
	s.Helper()
	for _, sa := range need[dataplane.Snapshot](s)(s.x.List()).SAs {
		if sa.Dst == s.n.GW1.PublicAddr(topo.IPv4) && !sa.Reserved {
			out = append(out, sa.SAKey)
		}
	}
	return out
}

// sending are the peer's SAs by the CPU that sends on them, -1: any.
func (s *splitTunnel) sending() map[int]dataplane.SA {
	s.Helper()
	var states []netlink.XfrmState
	must(s, s.n.GW2.Do(func() (err error) {
		states, err = netlink.XfrmStateList(netlink.FAMILY_ALL)
		return err
	}))
	to := s.n.GW1.PublicAddr(topo.IPv4)
	out := map[int]dataplane.SA{}
	for _, x := range states {
		if dst, ok := netip.AddrFromSlice(x.Dst); !ok || dst.Unmap() != to || x.Aead == nil {
			continue
		}
		cpu := -1
		if x.Pcpunum != nil {
			cpu = int(*x.Pcpunum)
		}
		out[cpu] = dataplane.SA{
			SAKey: dataplane.SAKey{Dst: to, Proto: dataplane.ESP, SPI: uint32(x.Spi)}, Src: s.n.GW2.PublicAddr(topo.IPv4), Dir: dataplane.In,
			Mode: dataplane.Tunnel, ESN: x.ESN, AEAD: dataplane.Algorithm{Name: x.Aead.Name, Key: x.Aead.Key, ICVBits: x.Aead.ICVLen},
		}
	}
	return out
}

// chosen are the SAs that two CPUs of the peer send on: each its own, if it has one.
func chosen(sending map[int]dataplane.SA) []dataplane.SA {
	var out []dataplane.SA
	for cpu := range 2 {
		sa, own := sending[cpu]
		if !own {
			sa = sending[-1]
		}
		out = append(out, sa)
	}
	return out
}

// sealed is a sender with packets of these SAs in turn, for who closes it.
func (s *splitTunnel) sealed(sas []dataplane.SA) (l *esp.LiveFrames) {
	s.Helper()
	var streams []esp.Stream
	for i, sa := range sas {
		streams = append(streams, esp.Stream{SA: sa, Inner: [][]byte{innerPacket(s, s.n, topo.IPv4, uint16(i), innerSize)}})
	}
	must(s, s.n.Wire.Do(func() (err error) {
		l, err = esp.NewLiveFrames("port1", 1024)
		return err
	}))
	must(s, l.Ring().Fill(need[*esp.Generator](s)(esp.NewGenerator(fromWire(s, s.n), esp.Mix{}, streams...)), 0))
	must(s, l.Ring().Replay())
	return l
}

// play sends until ctx ends, on what SAs the peer has, and says on which in the end, and what was sent on them.
func (s *splitTunnel) play(ctx context.Context, pace esp.Pace) (sas []dataplane.SA, sent esp.Report) {
	s.Helper()
	spis := func(sas []dataplane.SA) (out []uint32) {
		for _, sa := range sas {
			out = append(out, sa.SPI)
		}
		return out
	}
	for sas = chosen(s.sending()); ctx.Err() == nil; {
		sender := s.sealed(sas)
		these, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- s.n.Wire.Do(func() (err error) { sent, err = esp.Send(these, sender, pace); return err })
		}()
		next := sas
		for ctx.Err() == nil && slices.Equal(spis(next), spis(sas)) {
			time.Sleep(150 * time.Millisecond)
			next = chosen(s.sending())
		}
		stop()
		must(s, errors.Join(<-done, sender.Close()))
		if ctx.Err() == nil {
			sas = next
		}
	}
	return sas, sent
}

// playing is play in the background; end it and get the SAs of the end.
func (s *splitTunnel) playing(pace esp.Pace) (end func() []dataplane.SA) {
	ctx, cancel := context.WithCancel(s.Context())
	out := make(chan []dataplane.SA, 1)
	go func() {
		defer close(out)
		sas, _ := s.play(ctx, pace)
		out <- sas
	}()
	s.Cleanup(func() { cancel(); <-out }) // a test that fails does not end it
	return func() []dataplane.SA { cancel(); return <-out }
}

// journal waits for an entry of a kind, and what it must say.
func (s *splitTunnel) journal(kind string, says func(e tuneEntry) bool) {
	s.Helper()
	last := time.Now().Add(time.Minute)
	for {
		h := s.history()
		if slices.ContainsFunc(h.Entries, func(e tuneEntry) bool { return e.Kind == kind && says(e) }) {
			return
		}
		if time.Now().After(last) {
			show, _ := s.esp.Espctl(s.Context(), "tune", "show")
			s.Fatalf("no such entry of kind %s in the journal: %+v\n%s\n%s", kind, h, show, s.esp.Log())
		}
		time.Sleep(time.Second) // looking costs what the tuner sees as other work
	}
}

// TestTunerSplits: more comes through one SA than a CPU decrypts. A peer that has not announced SAs of single CPUs is named in the journal; one that has is
// asked, a part of the packets comes through the new SA on another CPU, and the journal says what that was good for.
func TestTunerSplits(t *testing.T) {
	if !userModeLinux() {
		t.Skip("on an emulated processor most of a CPU is other work than the SA's; 'make fast-test' runs it")
	}
	s := newSplitTunnel(t, networkOnly(t), "no", "tune_settings = 0")
	fast := esp.Pace{Batch: 256, CPU: 0}
	s.up()
	end := s.playing(fast)
	s.journal("leave", func(e tuneEntry) bool { return strings.Contains(e.Reason, "the peer has not announced") })
	end()
	must(t, s.peer.Stop())
	must(t, s.peer.Configure(splitConf(s.n.GW2, s.n.GW1, "yes", "fast_path = no\n tune = off"), nil))
	must(t, s.peer.Restart(t.Context()))
	s.up()
	end = s.playing(fast)
	s.journal("split", func(e tuneEntry) bool {
		return e.Error == "" && strings.Contains(e.Outcome, "stands beside it") || strings.Contains(e.Outcome, "stand beside it")
	})
	sas := end()
	t.Log(need[string](t)(s.esp.Espctl(t.Context(), "tune", "history")))
	if sas[0].SPI == sas[1].SPI {
		t.Errorf("the peer's CPUs send on one SA, %08x", sas[0].SPI)
	}
	cpus := map[int]bool{}
	for _, sa := range sas {
		e := s.entries()[entryOf(&sa)]
		if e.Packets == 0 {
			t.Errorf("no packet came through %08x", sa.SPI)
		}
		if e.CPU != nil {
			cpus[*e.CPU] = true
		}
	}
	if len(cpus) == 0 {
		t.Errorf("none of the SAs has a CPU: %v", s.entries())
	}
	if errs := xfrmErrors(t, s.n.GW1); errs["XfrmInStateProtoError"] > 0 {
		t.Errorf("errors %v", errs)
	}
	must(t, s.esp.Stop())
	must(t, s.peer.Stop())
}

// BenchmarkTunerPerCPU: one tunnel whose peer has SAs of single CPUs, and 1.4 times what one CPU decrypts, from a sender that costs little. The static
// choices are how many of the two halves go to the other CPU; the tuner begins with one CHILD SA.
func BenchmarkTunerPerCPU(b *testing.B) {
	g, pace := networkOnly(b), esp.Pace{Rate: splitRate, Batch: 256, CPU: 0}
	s := &splitTunnel{gateway: g}
	o := &oracle{steered: &steered{gateway: g, all: s.inbound}, pace: pace, split: s, from: g.n.Wire, offers: 1.4, probe: splitRate}
	o.find = func() steering { return o.steering(o.sas) }
	pace.Count = splitRate
	sender := s.sealed([]dataplane.SA{inbound(g.n, gcm, topo.IPv4, spiOf(0), 0)})
	alone := o.senderAlone(sender, pace)
	must(b, sender.Close())
	*s = *newSplitTunnel(b, g, "yes", "tune = off\n tune_settings = 0")
	s.esp.Kill()
	for b.Loop() {
		o.tuned() // makes the SAs that the static choices are about
		if o.sas[0].SPI == o.sas[1].SPI {
			b.Fatal("the tuner has not split the tunnel")
		}
		o.figure(b)
		b.ReportMetric(alone.sent.Share(), "sender-share")
	}
}

// splitRate is in packets a second: more than one CPU decrypts where the figures are measured.
const splitRate = 60_000
