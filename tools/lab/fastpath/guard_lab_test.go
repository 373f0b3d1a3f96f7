//go:build lab

package fastpath

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/dataplane/host"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// firewall is what makes a packet dear for the gateway: rules that each one is compared with.
func firewall(t testing.TB, h *topo.Host, rules int) {
	t.Helper()
	var b strings.Builder
	b.WriteString("table inet long {\n chain in { type filter hook prerouting priority -300; policy accept;\n")
	for i := range rules {
		fmt.Fprintf(&b, "  ip saddr 203.0.113.%d ip daddr 203.0.113.%d counter drop\n", i%256, i/256)
	}
	b.WriteString(" }\n}\n")
	need[string](t)(h.RunInput(t.Context(), b.String(), "nft", "-f", "-"))
}

// receivePackets has another CPU than the sender's do the kernel's work for what a device receives, as with a NIC.
func receivePackets(t testing.TB, h *topo.Host, device, mask string) {
	t.Helper()
	// A namespace sees its own devices in a sysfs that was mounted in it.
	need[string](t)(h.Run(t.Context(), "unshare", "--mount", "sh", "-c",
		`mount -t sysfs sysfs /sys && echo `+mask+` > /sys/class/net/`+device+`/queues/rx-0/rps_cpus`))
}

// flood is a sender of forged ESP.
func (g *gateway) flood() *esp.LiveFrames {
	g.Helper()
	s := liveFrames(g, g.n, 1<<15)
	must(g, s.Ring().Fill(g.forger(1), 0))
	must(g, s.Ring().Replay()) // 32768 different ones are as good as any
	return s
}

// loss floods the gateway while the clients ping each other through the tunnel, and returns the part of the pings that was lost, and how many had answers.
func (g *gateway) loss(s *esp.LiveFrames, pace esp.Pace) (share float64, answers int) {
	g.Helper()
	sent := make(chan esp.Report, 1)
	failed := make(chan error, 1)
	go func() {
		var r esp.Report
		err := g.n.Wire.Do(func() (err error) {
			r, err = esp.Send(g.Context(), s, pace)
			return err
		})
		failed <- err
		sent <- r
	}()
	p, err := g.n.Client1.StartEcho(topo.Echo{To: g.n.Client2.Inner(topo.IPv4), Interval: 20 * time.Millisecond})
	must(g, err)
	must(g, <-failed)
	a := p.Stop()
	r := <-sent
	if a.Sent < 20 {
		g.Fatalf("the flood was over before there were 20 pings: %s", r)
	}
	g.Logf("%s; %d of %d pings answered", r, a.Answered, a.Sent)
	return float64(len(a.Missing)) / float64(a.Sent), a.Answered
}

// xdpPackets is how many packets XDP has seen on the gateway's outer interface.
func (g *gateway) xdpPackets() (n uint64) {
	g.Helper()
	must(g, g.n.GW1.Do(func() error {
		stats, err := host.DriverStats("out0")
		for _, c := range stats {
			if strings.HasPrefix(c.Name, "rx_queue_") && strings.HasSuffix(c.Name, "_xdp_packets") {
				n += c.Value
			}
		}
		return err
	}))
	if n == 0 {
		g.Fatal("the driver counts no packets of XDP on out0")
	}
	return n
}

// guard switches it and waits until that holds.
func (g *gateway) guard(mode string) {
	g.Helper()
	var state struct {
		Mode   string
		InStep bool `json:"in_step"`
	}
	g.espctl(&state, "guard", "set", mode)
	if state.Mode != mode || !state.InStep {
		g.Fatalf("expected the guard to be %s and in step, got %+v", mode, state)
	}
}

// leastFlood is the rate from which on a flood must show: QEMU without acceleration reaches a tenth of it, User-Mode Linux twice and more.
const leastFlood = 10_000

// TestGuard has one gateway, as the programs of each take their time to be verified.
func TestGuard(t *testing.T) {
	g := newGateway(t, " guard = on")
	g.tunnel(gcm, topo.IPv4) // so that the guard knows the kernel's SAs
	t.Run("transit", func(t *testing.T) { guardTransit(t, g.of(t)) })
	t.Run("flood", func(t *testing.T) { guardFlood(t, g.of(t)) })
}

// of is the same gateway, for a part of the test.
func (g *gateway) of(t *testing.T) *gateway {
	own := *g
	own.TB = t
	return &own
}

// guardFlood: forged ESP at a rate that takes pings from the tunnel takes none with the guard on, a million of it where the machine
// sends that in 20 seconds.
func guardFlood(t *testing.T, g *gateway) {
	must(t, g.n.Client1.Ping(t.Context(), g.n.Client2.Inner(topo.IPv4), 5))
	receivePackets(t, g.n.GW1, "out0", "2")
	firewall(t, g.n.GW1, 2500)
	s := g.flood()
	// Half of what the sender can, so that whatever is lost is lost by the gateway.
	g.guard("on")
	pace := esp.Pace{Rate: send(t, g.n, s, esp.Pace{Count: 10_000, CPU: 0}).Rate() / 2, CPU: 0}
	seconds := 20.0
	if emulated() { // where the flood harms nobody anyway, and each try takes as long
		seconds = 4
	}
	pace.Count = min(1_000_000, uint64(seconds*pace.Rate))
	g.guard("off")
	less := pace
	less.Count /= 4
	switch off, _ := g.loss(s, less); {
	case off < 0.2 && pace.Rate < leastFlood:
		t.Logf("an emulated processor sends only %.0f/s, which harms nobody: the guard's worth shows in User-Mode Linux", pace.Rate)
	case off < 0.2:
		t.Errorf("guard off: expected at least 20 %% of the pings to be lost, got %.0f %%: the flood is too weak to show anything", 100*off)
	}
	g.guard("on")
	// The machine itself may not get to a ping in time, or to some of the flood, now and then; a guard that costs something loses some each time.
	for left := 2; ; left-- {
		before, saw := g.totals(), g.xdpPackets()
		on, answers := g.loss(s, pace)
		after := g.totals()
		saw = g.xdpPackets() - saw - uint64(answers)
		got := after.of("guard-unknown-spi") - before.of("guard-unknown-spi")
		if got > pace.Count || got < saw*99/100 {
			t.Errorf("expected the guard to count %d packets at most, and nearly all of the %d that XDP saw beside the answers, got %d", pace.Count, saw, got)
		}
		enough := got >= pace.Count*99/100
		if on == 0 && enough {
			return
		}
		if left == 0 {
			t.Fatalf("guard on: %.1f %% of the pings were lost, and it counted %d of %d packets; in two runs before something was missing, too", 100*on, got, pace.Count)
		}
		t.Logf("guard on: %.1f %% of the pings were lost, it counted %d of %d packets: once more", 100*on, got, pace.Count)
	}
}

// guardTransit: with the guard on, ESP and IKE of a host behind the gateway pass, to it and from it; the same to the gateway's own
// address do not.
func guardTransit(t *testing.T, g *gateway) {
	n := g.n
	if _, err := n.Client1.RunInput(t.Context(), `table inet seen {
	chain in { type filter hook input priority 0; policy accept;
		meta l4proto esp counter comment "esp"
		udp dport { 500, 4500 } counter comment "ike"
	}
}
`, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	arrived := func(what string) int {
		out := need[string](t)(n.Client1.Run(t.Context(), "nft", "list", "table", "inet", "seen"))
		m := regexp.MustCompile(`counter packets (\d+) bytes \d+ comment "` + what + `"`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no counter %q in %s", what, out)
		}
		v, _ := strconv.Atoi(m[1])
		return v
	}
	must(t, n.GW1.Ping(t.Context(), n.Client1.Inner(topo.IPv4), 1))
	const count = 100
	for _, c := range []struct {
		what   string
		source esp.Source
	}{
		{"esp", need[*esp.Forger](t)(esp.NewForger(fromWire(t, n), netip.MustParsePrefix("198.51.100.0/24"), n.Client1.Inner(topo.IPv4), 120, 3))},
		{"ike", &ikeLike{link: fromWire(t, n), src: n.GW2.Outer(topo.IPv4), dst: n.Client1.Inner(topo.IPv4)}},
	} {
		s := packetSocket(t, n, count)
		must(t, s.Ring().Fill(c.source, count))
		send(t, n, s, esp.Pace{Count: count, Rate: 2000, CPU: -1})
		until(t, c.what+" of a host behind the gateway", func() (bool, string) {
			got := arrived(c.what)
			return got == count, fmt.Sprintf("expected %d, got %d; %+v", count, got, g.totals())
		})
	}
	if got := g.totals(); got.of("esp-transit") != count || got.of("guard-unknown-spi") != 0 || got.of("guard-ike-spi") != 0 {
		t.Errorf("expected %d of transit and no objection, got %+v", count, got)
	}
	s := packetSocket(t, n, count)
	must(t, s.Ring().Fill(g.forger(2), count))
	before := xfrmErrors(t, n.GW1)["XfrmInNoStates"]
	send(t, n, s, esp.Pace{Count: count, Rate: 2000, CPU: -1})
	until(t, "objections of the guard", func() (bool, string) {
		got := g.totals().of("guard-unknown-spi")
		return got == count, fmt.Sprintf("expected %d, got %d", count, got)
	})
	if got := xfrmErrors(t, n.GW1)["XfrmInNoStates"]; got != before {
		t.Errorf("the kernel saw %d packets that the guard should have dropped", got-before)
	}
}

// ikeLike makes IKE messages of an SA that nobody knows, on port 500.
type ikeLike struct {
	link     esp.Link
	src, dst netip.Addr
}

// Append implements esp.Source.
func (s *ikeLike) Append(dst []byte) ([]byte, error) {
	const headers = 28 // IPv4 and UDP
	p, err := esp.UDP(netip.AddrPortFrom(s.src, 500), netip.AddrPortFrom(s.dst, 500), headers+80)
	if err != nil {
		return nil, err
	}
	p[headers-2], p[headers-1] = 0, 0 // the checksum is not of what follows: none
	ike := p[headers:]
	copy(ike, "initiators SPI..")
	ike[16], ike[17], ike[18], ike[19] = 46, 0x20, 37, 0x08 // encrypted, version 2, INFORMATIONAL, initiator
	ike[27] = 80
	dst = append(append(append(dst, s.link.Dst...), s.link.Src...), 0x08, 0x00)
	return append(dst, p...), nil
}
