//go:build lab

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// fallback stands for the SA of no CPU.
const fallback = -1

// sender is what a CPU sends with: one SA, or several where the peer has more CPUs.
type sender struct {
	packets uint64
	spis    []int
}

// outbound are the ESP SAs of the host towards its peer by their CPU, the fallback's among them.
func outbound(h *topo.Host, peer netip.Addr) (map[int]sender, error) {
	k, err := kernelOf(h)
	out := map[int]sender{}
	for _, s := range k.states {
		if dst, ok := netip.AddrFromSlice(s.Dst); !ok || dst.Unmap() != peer || s.Spi == 0 {
			continue
		}
		cpu := fallback
		if s.Pcpunum != nil {
			cpu = int(*s.Pcpunum)
		}
		o := out[cpu]
		o.packets += s.Statistics.Packets
		o.spis = append(o.spis, s.Spi)
		out[cpu] = o
	}
	return out, err
}

// replaced tells whether none of the SAs is left, and each CPU has others in their place.
func replaced(was, now map[int]sender) error {
	for cpu, s := range was {
		if len(now[cpu].spis) == 0 || slices.ContainsFunc(s.spis, func(spi int) bool { return slices.Contains(now[cpu].spis, spi) }) {
			return fmt.Errorf("CPU %d had %08x and has %08x", cpu, s.spis, now[cpu].spis)
		}
	}
	return nil
}

// pingOn sends count pings one after the other from a CPU of the host, from its inner address.
func pingOn(ctx context.Context, h *topo.Host, cpu int, to netip.Addr, count int) error {
	_, err := h.Echo(ctx, topo.Echo{CPU: &cpu, From: h.Inner(topo.IPv4), To: to, Count: count})
	return err
}

// needsCPUs skips where there is one CPU, or a kernel without SAs of single CPUs (6.13).
func needsCPUs(t *testing.T, h *topo.Host) {
	t.Helper()
	version, err := h.Run(t.Context(), "uname", "-r")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if n, err := fmt.Sscanf(version, "%d.%d", &major, &minor); n != 2 {
		t.Fatalf("release %q: %v", version, err)
	}
	if runtime.NumCPU() < 2 || major < 6 || major == 6 && minor < 13 {
		t.Skipf("%d CPUs, kernel %s: expected 2 and 6.13", runtime.NumCPU(), strings.TrimSpace(version))
	}
}

// onDemand sends from each CPU until that has an SA of its own, and shows then that all it sends goes through that one, whatever the others have.
func (l *lab) onDemand(t *testing.T, to netip.Addr) map[int]sender {
	t.Helper()
	look := func() map[int]sender {
		t.Helper()
		out, err := outbound(l.ours, l.theirs.PublicAddr(topo.IPv4))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for cpu := range 2 {
		l.eventually(t, fmt.Sprintf("an SA of CPU %d", cpu), func() error {
			// May be the one that is lost between the kernel's report and our answer.
			_, _ = l.ours.Echo(t.Context(), topo.Echo{CPU: &cpu, From: l.ours.Inner(topo.IPv4), To: to, Count: 1, Wait: time.Second})
			if out := look(); len(out[cpu].spis) == 0 {
				return fmt.Errorf("%v", out)
			}
			return nil
		})
	}
	l.rest(t)
	const count = 20
	for cpu := range 2 {
		var was, now map[int]sender
		for tries := 5; ; tries-- {
			was = look()
			if err := pingOn(t.Context(), l.ours, cpu, to, count); err != nil {
				t.Errorf("CPU %d: %v", cpu, err)
			}
			now = look()
			if sameSPIs(was, now) || tries == 1 {
				break
			}
			l.rest(t) // a rekeying of the peer's that had been put off: what its SAs sent cannot be told
		}
		for of, s := range now {
			want := uint64(0)
			if of == cpu {
				want = count
			}
			if n := s.packets - was[of].packets; n != want || !slices.Equal(s.spis, was[of].spis) {
				t.Errorf("%d packets of CPU %d through the SAs of %d, expected %d: before %v, after %v", n, cpu, of, want, was, now)
			}
		}
	}
	return look()
}

// sameSPIs tells whether no SA has come or gone.
func sameSPIs(was, now map[int]sender) bool {
	return maps.EqualFunc(was, now, func(a, b sender) bool { return slices.Equal(a.spis, b.spis) })
}

// rest waits until no CHILD SA is on its way in or out; the inbound SA of one that has gone may linger.
func (l *lab) rest(t *testing.T) {
	t.Helper()
	l.eventually(t, "all CHILD SAs to be at rest", func() error {
		show, err := l.esp.Espctl(t.Context(), "sa", "show")
		out, err2 := outbound(l.ours, l.theirs.PublicAddr(topo.IPv4))
		n := 0
		for _, s := range out {
			n += len(s.spis)
		}
		if err = errors.Join(err, err2); err != nil || strings.Contains(show, "REKEY") || n != strings.Count(show, "INSTALLED ") {
			return fmt.Errorf("%d SAs that send, %v\n%s", n, err, show)
		}
		return nil
	})
}

// ownPorts shows that our SAs of single CPUs send from UDP ports of their own, and the fallback from IKE's.
func (l *lab) ownPorts(t *testing.T) {
	t.Helper()
	k, err := kernelOf(l.ours)
	if err != nil {
		t.Fatal(err)
	}
	of := map[int]int{}
	for _, s := range k.states {
		if dst, ok := netip.AddrFromSlice(s.Dst); !ok || dst.Unmap() != l.theirs.PublicAddr(topo.IPv4) || s.Spi == 0 {
			continue
		}
		switch {
		case s.Encap == nil:
			t.Errorf("SA %08x: no UDP", s.Spi)
		case s.Pcpunum == nil && s.Encap.SrcPort != 4500, s.Pcpunum != nil && (s.Encap.SrcPort < 49152 || of[s.Encap.SrcPort] > 0):
			t.Errorf("SA %08x of CPU %v sends from port %d, as %d others", s.Spi, s.Pcpunum, s.Encap.SrcPort, of[s.Encap.SrcPort])
		}
		of[s.Encap.SrcPort]++
	}
	if len(of) < 3 {
		t.Errorf("ports %v: expected those of two CPUs and the fallback's", of)
	}
}

// TestPerCPU has traffic of two CPUs bring up an SA for each between two espalierds, shows that each sends through its own, before and after all of them
// were rekeyed, and that nothing is lost to a rekeying; in UDP, each from its own port, as well.
func TestPerCPU(t *testing.T) {
	t.Run("yes", func(t *testing.T) { perCPUPair(t, "yes", "") })
	t.Run("encap", func(t *testing.T) { perCPUPair(t, "encap", "encap = yes") })
}

func perCPUPair(t *testing.T, perCPU, lines string) {
	n, err := topo.Build(t.Context(), topo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	needsCPUs(t, n.GW1)
	l := &lab{Net: n, ours: n.GW1, theirs: n.GW2, pki: &pkis{}}
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	ours.child, theirs.child = "per_cpu_sas = "+perCPU, "per_cpu_sas = yes"
	other, err := theirs.self.StartEspalier(t.Context(), topo.EspalierConfig{Conf: theirs.conf(), Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	l.esp, err = ours.self.StartEspalier(t.Context(), topo.EspalierConfig{Conf: inConnection(ours.conf(), lines), Args: []string{"--log-level", "debug"}, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the one:\n%s\nlog of the other one:\n%s", l.esp.Log(), other.Log())
		}
	})
	l.mustInitiate(t, true)
	to := n.GW2.Inner(topo.IPv4)
	first := l.onDemand(t, to)
	show, err := l.esp.Espctl(t.Context(), "sa", "show")
	if err != nil || !strings.Contains(show, "CPU 0") || !strings.Contains(show, "CPU 1") {
		t.Errorf("espctl sa show: %v\n%s", err, show)
	}
	t.Logf("%s", show)
	if lines != "" {
		l.ownPorts(t)
	}
	// Rekeyed under traffic, all of them.
	sent := make(chan error, 1)
	go func() {
		_, err := n.Client1.Transfer(t.Context(), n.Client2, n.Client2.Inner(topo.IPv4), 20*transferSize)
		sent <- err
	}()
	// By both sides, for one knows only by the other's next request that it has those it has asked for.
	for _, e := range []*topo.Espalier{l.esp, other} {
		if err := control(t.Context(), filepath.Join(e.RunDir, "vici.sock"), "rekey", []string{"child", "net"}); err != nil {
			t.Fatal(err)
		}
	}
	l.eventually(t, "new SAs in the place of all", func() error {
		now, err := outbound(l.ours, l.theirs.PublicAddr(topo.IPv4))
		return errors.Join(err, replaced(first, now))
	})
	if err := <-sent; err != nil {
		t.Error(err)
	}
	l.onDemand(t, to)
	for _, e := range []*topo.Espalier{l.esp, other} {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
		if strings.Contains(e.Log(), `"level":"error"`) {
			t.Error("an error is in the log")
		}
		if strings.Contains(e.Log(), `"message":"IKE SA moved"`) {
			t.Error("a port of an SA's own was taken for a NAT's new mapping")
		}
	}
	l.expectNothing(t, n.GW1, "after the stop")
	l.expectNothing(t, n.GW2, "after the stop")
}

// TestPerCPUStrongSwan is the same with a strongSwan that has per_cpu_sas, which needs its trap to hear of packets: from either side, and rekeyed by it; in UDP, each SA
// from a port of its own, as well.
func TestPerCPUStrongSwan(t *testing.T) {
	t.Run("yes", func(t *testing.T) { perCPUStrongSwan(t, "yes", "dpd_delay = 2s") })
	t.Run("encap", func(t *testing.T) { perCPUStrongSwan(t, "encap", "dpd_delay = 2s\n  encap = yes") })
}

func perCPUStrongSwan(t *testing.T, perCPU, lines string) {
	l := newLab(t, topo.Config{}, false)
	needsCPUs(t, l.ours)
	version, err := l.swan.Swanctl(t.Context(), "--version")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor, patch int
	if n, err := fmt.Sscanf(strings.TrimSpace(version), "strongSwan swanctl %d.%d.%d", &major, &minor, &patch); n != 3 {
		t.Fatalf("version %q: %v", version, err)
	}
	if major < 6 || major == 6 && minor == 0 && patch < 2 {
		t.Skipf("%s: expected 6.0.2 (lab --root sid)", strings.TrimSpace(version))
	}
	t.Logf("%s", version)
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	ours.child, theirs.child = "per_cpu_sas = "+perCPU, "per_cpu_sas = "+perCPU+"\n    start_action = trap"
	// A request of strongSwan's shows that it has our answer to the one before: earlier we do not rekey what it has asked for.
	l.startWith(t, files{conf: ours.conf()}, files{conf: connection(theirs, lines)})
	l.mustInitiate(t, true)
	to := l.theirs.Inner(topo.IPv4)
	first := l.onDemand(t, to)
	if perCPU == "encap" {
		l.ownPorts(t)
	}
	for cpu := range 2 { // from strongSwan's side, too
		if err := pingOn(t.Context(), l.theirs, cpu, l.ours.Inner(topo.IPv4), 5); err != nil {
			t.Error(err)
		}
	}
	for _, rekey := range []func() error{
		func() error { return l.espalier(t.Context(), "rekey", "child", "net") },
		func() error { return l.strongSwan(t.Context(), "rekey", "child", "net") },
	} {
		if err := rekey(); err != nil {
			t.Fatal(err)
		}
		l.eventually(t, "new SAs in the place of all", func() error {
			now, err := outbound(l.ours, l.theirs.PublicAddr(topo.IPv4))
			return errors.Join(err, replaced(first, now))
		})
		first = l.onDemand(t, to)
	}
	if n := l.messages(t, "IKE SA moved"); n > 0 {
		t.Errorf("%d of strongSwan's own ports were taken for a NAT's new mapping", n)
	}
	if c := l.counts(t); c.Clear != 0 {
		t.Errorf("expected no clear text, got %+v", c)
	}
	if err := l.strongSwan(t.Context(), "uninstall", "ike", "peer", "child", "net"); err != nil {
		t.Error(err)
	}
	l.end(t, "SIGTERM")
}
