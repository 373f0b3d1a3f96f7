//go:build lab

package xfrm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// twoCPUs skips the test where one CPU is all, or the kernel is older than 6.13,
// and gives the test's thread back to all CPUs in the end.
func twoCPUs(t *testing.T, x *XFRM) {
	t.Helper()
	var was unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &was))
	if was.Count() < 2 || !x.features.PerCPU {
		t.Skipf("%d CPUs, one SA a CPU: %v", was.Count(), x.features.PerCPU)
	}
	t.Cleanup(func() { _ = unix.SchedSetaffinity(0, &was) })
}

// onCPU moves the test's thread to a CPU.
func onCPU(t *testing.T, cpu int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(cpu)
	must(t, unix.SchedSetaffinity(0, &set))
}

// each sends n packets, each from a socket of its own: one may hear by ICMP that
// nobody listens.
func (w *tunnel) each(t *testing.T, a, b *side, n int) {
	t.Helper()
	for range n {
		w.send(t, a, b, 1)
	}
}

// armed installs a's outbound policies with the flag, or without.
func (w *tunnel) armed(t *testing.T, a, b *side, on bool) {
	t.Helper()
	for _, op := range w.policies(a, b) {
		in := op.(dataplane.InstallPolicy)
		if in.Policy.Dir != dataplane.Out {
			continue
		}
		if on {
			in.Policy.Flags |= dataplane.PolicyCPUAcquire
		}
		must(t, a.x.Apply([]dataplane.Op{in}))
	}
}

// TestAcquireCPU: with the policy's flag a packet on a CPU without an SA of its own is
// reported with the CPU and goes through the fallback; without the flag and the
// kernel's record of it, so do those that follow. An SA of the CPU carries what is
// sent there, and the record is gone.
func TestAcquireCPU(t *testing.T) {
	a, b := pair(t)
	twoCPUs(t, a.x)
	w := tunnel{mode: dataplane.Tunnel}
	w.up(t, a, b)
	w.armed(t, a, b, true)
	onCPU(t, 1)
	w.each(t, a, b, 1)
	e := event(t, a.x, func(dataplane.Acquire) bool { return true })
	if e.CPU == nil || *e.CPU != 1 || e.ReqID != reqID || e.Src != a.outer4 || e.Dst != b.outer4 {
		t.Fatalf("%+v, expected CPU 1, request id %d, %s -> %s", e, reqID, a.outer4, b.outer4)
	}
	if n := a.status(w.ab.SAKey).Packets; n != 1 {
		t.Errorf("%d packets through the fallback, expected that of the report", n)
	}
	w.each(t, a, b, 3)
	t.Logf("%d of 3 packets through the fallback while the kernel waits", a.status(w.ab.SAKey).Packets-1)
	w.armed(t, a, b, false)
	cpu := uint32(1)
	must(t, dataplane.ForgetAcquire(a.x, dataplane.SPIRequest{Src: a.outer4, Dst: b.outer4, Proto: dataplane.ESP, Mode: w.mode, ReqID: reqID, CPU: &cpu, Min: 256, Max: 1<<32 - 1}))
	was := a.status(w.ab.SAKey).Packets
	for cpu := range 2 {
		onCPU(t, cpu)
		w.each(t, a, b, 2)
	}
	if n := a.status(w.ab.SAKey).Packets - was; n != 4 {
		t.Errorf("%d packets through the fallback, expected all 4\n%s", n, a.xfrmStat())
	}
	// One of CPU 1 beside it, and CPU 0 asks for its own.
	own := w.sa(a, b, 0x2000, dataplane.Out)
	own.CPU = &cpu
	in := w.sa(a, b, 0x2000, dataplane.In)
	must(t, b.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: in}}))
	a.enter()
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: own}}))
	w.armed(t, a, b, true)
	onCPU(t, 1)
	w.each(t, a, b, 5)
	if n := a.status(own.SAKey).Packets; n != 5 {
		t.Errorf("%d packets through CPU 1's SA, expected 5\n%s", n, a.xfrmStat())
	}
	onCPU(t, 0)
	w.each(t, a, b, 1)
	e = event(t, a.x, func(dataplane.Acquire) bool { return true })
	if e.CPU == nil || *e.CPU != 0 {
		t.Errorf("%+v, expected CPU 0", e)
	}
	zero := uint32(0)
	second := w.sa(a, b, 0x2001, dataplane.Out)
	second.CPU = &zero
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: second}}))
	for _, s := range listed(t, a) {
		if s.Reserved {
			t.Errorf("the kernel still waits: %+v", s)
		}
	}
	for i, sa := range []dataplane.SA{second, own} {
		onCPU(t, i)
		was := a.status(sa.SAKey).Packets
		w.each(t, a, b, 3)
		if n := a.status(sa.SAKey).Packets - was; n != 3 {
			t.Errorf("%d packets through the SA of CPU %d, expected 3", n, i)
		}
	}
}

// TestAcquireWhileDown: what the kernel has recorded of a packet on a CPU while no daemon
// ran keeps nothing of the next run's from being sent.
func TestAcquireWhileDown(t *testing.T) {
	a, b := pair(t)
	twoCPUs(t, a.x)
	a.enter()
	dir := t.TempDir()
	a.x = openIn(t, dir)
	w := tunnel{mode: dataplane.Tunnel}
	w.up(t, a, b)
	w.armed(t, a, b, true)
	onCPU(t, 1)
	w.each(t, a, b, 1)
	a.x.crash()
	w.each(t, a, b, 1) // the record stands, if the crash has not taken it
	a.enter()
	a.x = openIn(t, dir)
	if n := a.waiting(t); n == 0 {
		t.Fatal("the kernel has no record of the packet: nothing is shown")
	}
	must(t, a.x.RemoveLeftovers())
	if n := a.waiting(t); n != 0 {
		t.Errorf("%d records are left", n)
	}
	w.up(t, a, b)
	was := a.status(w.ab.SAKey).Packets
	w.each(t, a, b, 3)
	if n := a.status(w.ab.SAKey).Packets - was; n != 3 {
		t.Errorf("%d of the next run's packets were sent, expected 3\n%s", n, a.xfrmStat())
	}
}

// waiting counts the kernel's records of packets that wait for an SA.
func (s *side) waiting(t *testing.T) (n int) {
	t.Helper()
	must(t, s.x.eachSA(func() { n = 0 }, func(raw *rawSA) {
		if raw.key().SPI == 0 {
			n++
		}
	}))
	return n
}

// listed lists the kernel's SAs.
func listed(t *testing.T, s *side) []dataplane.InstalledSA {
	t.Helper()
	snap, err := s.x.List()
	must(t, err)
	return snap.SAs
}

// TestCPUOutOfRange: an SA of a CPU that the box can't have is refused, not taken
// for one of any.
func TestCPUOutOfRange(t *testing.T) {
	a, b := pair(t)
	twoCPUs(t, a.x)
	w := tunnel{mode: dataplane.Tunnel}
	sa := w.sa(a, b, 0x1000, dataplane.Out)
	possible, err := os.ReadFile("/sys/devices/system/cpu/possible")
	must(t, err)
	var first, last uint32
	if n, err := fmt.Sscanf(strings.TrimSpace(string(possible)), "%d-%d", &first, &last); n != 2 {
		t.Fatalf("possible CPUs %q: %v", possible, err)
	}
	last++
	sa.CPU = &last
	if err := a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}); err == nil {
		t.Errorf("an SA of CPU %d was installed, of %s", last, possible)
	}
}
