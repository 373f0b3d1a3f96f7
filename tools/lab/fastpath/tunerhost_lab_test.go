//go:build lab

package fastpath

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// The tuner turns by itself, in a real kernel and under traffic, what else than moves it can: RPS, XPS, interrupts, GRO, pcrypt. What no kernel of the
// lab has to be turned: a clock (governor: no emulator has cpufreq), LRO that is on (the kernel switches it off where it forwards), a card's ESP offloads
// (QEMU emulates no card with them, Debian's kernel has no netdevsim). Sysctls are TestHostSettings', replay windows TestReplayWindowGrows'.

// kernelSetting is something that the tuner turns.
type kernelSetting struct {
	name          string   // a pattern of what the journal calls it
	read          []string // a command that prints what the kernel has
	before, after string
}

// turning is a gateway whose tuner turns something by itself, while packets come.
type turning struct {
	*gateway
	settings []kernelSetting
	play     func(context.Context) (esp.Report, error) // sends until the context ends
	again    func()                                    // makes ready for that after a start; nil: nothing
}

// newTurning starts the daemon, which sees its namespace's own /sys, with the tuner advising.
func newTurning(t testing.TB, g *gateway, conf string, settings ...kernelSetting) *turning {
	t.Helper()
	g.esp = need[*topo.Espalier](t)(g.n.GW1.StartEspalier(t.Context(), topo.EspalierConfig{Conf: conf, OwnSys: true}))
	t.Cleanup(g.takeDown)
	g.attached("esp_in", "esp_out")
	return &turning{gateway: g, settings: settings}
}

func wasBefore(k kernelSetting) string { return k.before }
func isAfter(k kernelSetting) string   { return k.after }

// are fails unless the kernel has these values now.
func (s *turning) are(when string, value func(kernelSetting) string, settings ...kernelSetting) {
	s.Helper()
	for _, k := range settings {
		if got := strings.TrimSpace(need[string](s)(s.esp.Command(s.Context(), k.read...))); got != value(k) {
			s.Errorf("%s %s is %q, expected %q", when, k.name, got, value(k))
		}
	}
}

// about tells whether an entry is about a setting, and has a reason.
func (k kernelSetting) about(e tuneEntry) bool {
	return e.Kind == "set" && e.Reason != "" && regexp.MustCompile("^set "+k.name+" from ").MatchString(e.Action)
}

func advised(e tuneEntry) bool { return e.Advised }
func made(e tuneEntry) bool    { return !e.Advised && e.Error == "" }
func judged(e tuneEntry) bool  { return made(e) && e.Outcome != "" }

// entry waits for one.
func (s *turning) entry(what string, is func(tuneEntry) bool) {
	s.Helper()
	for last := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) { // looking costs what the tuner sees as other work
		h := s.history()
		if i := slices.IndexFunc(h.Entries, is); i >= 0 {
			e := h.Entries[i]
			s.Logf("%s: %s, since %s; %s", what, e.Action, e.Reason, e.Outcome)
			return
		}
		if time.Now().After(last) {
			show, _ := s.esp.Espctl(s.Context(), "tune", "show")
			s.Fatalf("not %s: %+v\n%s", what, h, show)
		}
	}
}

// decided waits for an entry about a setting, and what it must say.
func (s *turning) decided(what string, k kernelSetting, says func(tuneEntry) bool) {
	s.Helper()
	s.entry(what+" "+k.name, func(e tuneEntry) bool { return k.about(e) && says(e) })
}

// kept are the settings that the tuner has not taken back, since it found that they made things worse: on a machine that does other things as well,
// it may.
func (s *turning) kept() []kernelSetting {
	s.Helper()
	entries := s.history().Entries
	return slices.DeleteFunc(slices.Clone(s.settings), func(k kernelSetting) bool {
		return slices.ContainsFunc(entries, func(e tuneEntry) bool {
			back := k.about(e) && strings.HasPrefix(e.Reason, "made things worse")
			if back {
				s.Logf("%s: %s", e.Action, e.Reason)
			}
			return back
		})
	})
}

// playing has packets come until end is called.
func (s *turning) playing() (end func()) {
	ctx, cancel := context.WithCancel(s.Context())
	sent := make(chan string, 1)
	go func() {
		defer close(sent) // also when it fails the test
		r, err := s.play(ctx)
		sent <- fmt.Sprint(r, " ", err)
	}()
	return sync.OnceFunc(func() { cancel(); s.Log(<-sent) })
}

// life has the tuner say what it would turn, then turn it, and give it back after SIGKILL with the daemon's next start, and at the stop. works is what
// shows that the kernel does as it is set.
func (s *turning) life(works func()) {
	s.Helper()
	end := s.playing()
	defer func() { end() }()
	s.decided("advised", s.settings[0], advised)
	s.are("after advice", wasBefore, s.settings...)
	s.mode("on")
	for _, k := range s.settings {
		s.decided("made", k, made)
		s.are("then", isAfter, k)
	}
	works()
	for _, k := range s.settings {
		s.decided("judged", k, judged)
	}
	kept := s.kept()
	s.esp.Kill()
	end() // a start takes an emulated machine long enough
	s.are("after SIGKILL", isAfter, kept...)
	must(s, s.esp.Restart(s.Context()))
	s.are("after the start that follows", wasBefore, s.settings...)
	if s.again != nil {
		s.again()
	}
	s.mode("on")
	end = s.playing()
	s.decided("made again", s.settings[0], made)
	s.are("then", isAfter, s.settings[0])
	end() // the SAs go
	must(s, s.esp.Stop())
	s.are("after the stop", wasBefore, s.settings...)
}

func (s *turning) mode(m string) {
	s.Helper()
	need[string](s)(s.esp.Espctl(s.Context(), "tune", "set", m))
}

// turningConf leaves out what is not looked at. No interface is named for the inside: what is no card there is left alone by the program that steers.
const turningConf = "espalier {\n outside = out0\n tune = advise\n tune_settings = 0\n mss = no\n}\n"

// heavy has a packet from inside cost the gateway so much that few of them keep a CPU busy, and the sender has little to do.
func (s *turning) heavy() (pace esp.Pace) {
	manyRules(s.gateway)
	if userModeLinux() {
		return esp.Pace{Rate: 13_000, Batch: 8}
	}
	return esp.Pace{Rate: 3000, Batch: 8}
}

// TestTunerSpreads: clear packets come to one CPU by an interface that no program steers, more than it encrypts. The tuner has the kernel spread them
// (RPS), and does so where it can move nothing, with steering = off.
func TestTunerSpreads(t *testing.T) {
	if !userModeLinux() {
		t.Skip("an emulated processor gets fewer packets through than the tuner cares about; 'make soak' runs it in User-Mode Linux")
	}
	for _, steering := range []string{"auto", "off"} {
		t.Run("steering = "+steering, func(t *testing.T) { spreads(t, steering) })
	}
}

func spreads(t *testing.T, steering string) {
	g := networkOnly(t)
	s := newTurning(t, g, strings.Replace(turningConf, "{", "{\n steering = "+steering, 1),
		kernelSetting{"rps/in0/0", []string{"cat", "/sys/class/net/in0/queues/rx-0/rps_cpus"}, "0", "3"})
	g.tunnel(gcm, topo.IPv4)
	must(t, g.n.Client1.Ping(t.Context(), g.n.Client2.Inner(topo.IPv4), 1))
	dropAtWire(t, g.n)
	sender := clearSocket(t, g.n, 1024)
	must(t, sender.Ring().Fill(newClearFlows(t, g.n, 100, 20_000, 20_001, 20_002, 20_003, 20_004, 20_005), 0))
	must(t, sender.Ring().Replay())
	pace := s.heavy()
	s.play = func(ctx context.Context) (esp.Report, error) { return sendInside(ctx, g.n, sender, pace) }
	s.life(func() {
		before := receivedRPS(t)
		until(t, "packets that the second CPU got from the first", func() (bool, string) {
			now := receivedRPS(t)
			return now[1] > before[1]+100, fmt.Sprint(before, now)
		})
	})
}

// receivedRPS is how often each CPU was called upon to take packets that another one had received.
func receivedRPS(t testing.TB) (out []uint64) {
	t.Helper()
	for line := range strings.Lines(string(need[[]byte](t)(os.ReadFile("/proc/net/softnet_stat")))) {
		out = append(out, need[uint64](t)(strconv.ParseUint(strings.Fields(line)[9], 16, 64)))
	}
	return out
}

// trunk is the first gateway's inside as a card with several queues and an interrupt for each, whose packets have VLAN tags: no program of ours steers
// those. The first client has another such card at the cable's other end.
type trunk struct {
	*topo.Net
	interrupts []string // of the gateway's card, their numbers
}

// newTrunk puts the lab's cards into the place of the link between the two.
func newTrunk(t testing.TB, n *topo.Net) *trunk {
	t.Helper()
	if err := exec.Command("modprobe", "igb").Run(); err != nil {
		t.Skip("the kernel has no driver for the lab's cards: ", err)
	}
	devices, _ := filepath.Glob("/sys/bus/pci/drivers/igb/*/net/*")
	if len(devices) < 2 {
		t.Skip("no cards: QEMU has them from 8.0 on")
	}
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0))
	need[string](t)(n.GW1.Run(t.Context(), "ip", "link", "del", "in0"))
	out := &trunk{Net: n}
	for i, end := range []struct {
		host *topo.Host
		name string
	}{{n.GW1, "in0"}, {n.Client1, "eth0"}} {
		device := filepath.Base(devices[i])
		if b, err := exec.Command("ip", "link", "set", device, "netns", end.host.Name, "name", end.name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		tagged := end.name + ".10"
		need[string](t)(end.host.RunInput(t.Context(), fmt.Sprintf(`link set %[1]s up
link add link %[1]s name %[2]s type vlan id 10
addr add %[3]s/24 dev %[2]s
link set %[2]s up
`, end.name, tagged, end.host.Inner(topo.IPv4)), "ip", "-batch", "-"))
		irqs, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(devices[i])), "msi_irqs", "*"))
		for _, irq := range irqs { // the other end is the second CPU's
			must(t, os.WriteFile("/proc/irq/"+filepath.Base(irq)+"/smp_affinity_list", []byte(fmt.Sprint(i)), 0))
			if i == 0 {
				out.interrupts = append(out.interrupts, filepath.Base(irq))
			}
		}
	}
	need[string](t)(n.Client1.Run(t.Context(), "ip", "route", "add", "default", "via", n.GW1.Inner(topo.IPv4).String()))
	return out
}

// trunkFlows are UDP packets of many hosts behind the first client, as each card's hash of addresses has it in one of its queues: to the other
// client, and to a host on the same cable, which has them from the gateway.
type trunkFlows struct {
	n    *topo.Net
	eth  []byte
	turn int
}

// Append implements esp.Source.
func (f *trunkFlows) Append(dst []byte) ([]byte, error) {
	f.turn++
	from, to := f.n.Client1.Inner(topo.IPv4).As4(), f.n.Client2.Inner(topo.IPv4)
	from[3] = 100 + byte(f.turn%32)
	if f.turn%8 != 0 {
		to = sameCable
	}
	p, err := esp.UDP(netip.AddrPortFrom(netip.AddrFrom4(from), 20_000), netip.AddrPortFrom(to, sinkPort), 100)
	return append(append(dst, f.eth...), p...), err
}

var sameCable = netip.MustParseAddr("10.1.0.77")

// TestTunerCard: all queues of a card are one CPU's. The tuner gives the interrupt of one to the other CPU, gives each CPU a transmit queue (XPS), and
// switches GRO on, which was off.
func TestTunerCard(t *testing.T) {
	if *tunerLoad == 0 {
		t.Skip("wants an emulated machine that has the processor to itself: 'make soak' runs it")
	}
	g := networkOnly(t)
	n := newTrunk(t, g.n)
	need[string](t)(n.GW1.Run(t.Context(), "ethtool", "-K", "in0", "gro", "off"))
	const gro = "generic-receive-offload: "
	s := newTurning(t, g, turningConf,
		kernelSetting{"xps/in0/0", []string{"cat", "/sys/class/net/in0/queues/tx-0/xps_cpus"}, "0", "1"},
		kernelSetting{"xps/in0/1", []string{"cat", "/sys/class/net/in0/queues/tx-1/xps_cpus"}, "0", "2"},
		kernelSetting{`irq/\d+`, []string{"sh", "-c", "for i in " + strings.Join(n.interrupts, " ") + "; do cat /proc/irq/$i/smp_affinity_list; done | sort -u | xargs"}, "0", "0 1"},
		kernelSetting{"feature/in0/rx-gro", []string{"sh", "-c", "ethtool -k in0 | grep ^" + gro}, gro + "off", gro + "on"},
	)
	g.tunnel(gcm, topo.IPv4)
	must(t, n.Client1.Ping(t.Context(), n.Client2.Inner(topo.IPv4), 1))
	dropAtWire(t, g.n)
	need[string](t)(n.GW1.Run(t.Context(), "ip", "neigh", "add", sameCable.String(), "lladdr", ethernet(t, n.Client1, "eth0").String(), "dev", "in0.10"))
	ring := need[*esp.Ring](t)(esp.NewRing(1024))
	must(t, ring.Fill(&trunkFlows{n: g.n, eth: slices.Concat(ethernet(t, n.GW1, "in0"), ethernet(t, n.Client1, "eth0"), []byte{8, 0})}, 0))
	must(t, ring.Replay())
	var sender *esp.PacketSocket
	must(t, n.Client1.Do(func() (err error) { sender, err = esp.NewPacketSocket("eth0.10", ring); return err }))
	defer sender.Close()
	pace := s.heavy()
	pace.CPU = 1
	s.play = func(ctx context.Context) (esp.Report, error) { return sendInside(ctx, g.n, sender, pace) }
	s.life(func() {
		before := servedBySecond(t, n.interrupts)
		until(t, "interrupts of the card at the second CPU", func() (bool, string) {
			now := servedBySecond(t, n.interrupts)
			return now > before+100, fmt.Sprint(before, now)
		})
		for _, e := range s.history().Entries {
			if strings.Contains(e.Action, "in0.10") {
				t.Errorf("%s: nothing of a VLAN can be spread", e.Action)
			}
		}
	})
}

// servedBySecond is how many of these interrupts the second CPU has served.
func servedBySecond(t testing.TB, interrupts []string) (sum uint64) {
	t.Helper()
	for line := range strings.Lines(string(need[[]byte](t)(os.ReadFile("/proc/interrupts")))) {
		if f := strings.Fields(line); slices.Contains(interrupts, strings.TrimSuffix(f[0], ":")) {
			sum += number(t, f[2])
		}
	}
	return sum
}

// TestTunerPcrypt: an SA fills a CPU, and the peer makes no other beside it. The tuner has new SAs spread their work over CPUs (pcrypt) and that one
// rekeyed, says what that was good for, and takes it back at the end.
func TestTunerPcrypt(t *testing.T) {
	if !userModeLinux() {
		t.Skip("on an emulated processor most of a CPU is other work than the SA's; 'make soak' runs it in User-Mode Linux")
	}
	s := newSplitTunnel(t, networkOnly(t), "no", "tune = advise\n tune_settings = 0")
	s.up()
	plain := strings.TrimSpace(need[string](t)(s.n.GW1.Run(t.Context(), newCipher...)))
	spread := "pcrypt(" + plain + ")"
	w := &turning{gateway: s.gateway, settings: []kernelSetting{{"pcrypt", newCipher, plain, spread}}, again: s.up}
	w.play = func(ctx context.Context) (esp.Report, error) {
		_, r := s.play(ctx, esp.Pace{Rate: 40_000, Batch: 64, CPU: 0})
		return r, nil
	}
	w.life(func() {
		w.entry("rekeyed", func(e tuneEntry) bool { return e.Kind == "renew" && made(e) && strings.Contains(e.Action, "pcrypt") })
		until(t, "SAs that have it, and none without", func() (bool, string) {
			all := string(need[[]byte](t)(os.ReadFile("/proc/crypto")))
			return strings.Contains(all, ": seqiv("+spread+")\n") && !strings.Contains(all, ": seqiv("+plain+")\n"), all
		})
	})
}

// newCipher prints the driver that new SAs get, as the one of highest priority.
var newCipher = []string{"awk", `$1 == "name" { name = $3 } $1 == "driver" { driver = $3 }
	$1 == "priority" && name == "rfc4106(gcm(aes))" && $3 > most { most = $3; best = driver } END { print best }`, "/proc/crypto"}
