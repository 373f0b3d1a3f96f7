package programs

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// Actions of XDP and of traffic control.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
	tcNext      = 0xffffffff
	tcShot      = 2
)

// box is a loaded set of programs with their maps and the table on them.
type box struct {
	t        *testing.T
	programs map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
	table    *table.Table
	slots    map[string]uint32 // by the name that the tests give an SA
}

// needBPF skips tests for a user who may not load programs.
func needBPF(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, os.ErrPermission) && os.Getuid() != 0 {
		t.Skip("no BPF for this user: run as root")
	}
	if v := (*ebpf.VerifierError)(nil); errors.As(err, &v) {
		t.Fatalf("%s", strings.Join(v.Log[max(0, len(v.Log)-30):], "\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// here skips what a table of packets shows as well on this machine, whose kernel translates the programs: an emulated processor takes
// minutes to verify them for each test. User-Mode Linux interprets them, so it runs all.
func here(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/core/bpf_jit_enable"); inGuest && err == nil {
		t.Skip("runs outside of the guest: go test ./dataplane/flow/programs")
	}
}

// onCPU0 runs f on the first CPU, so that all others are other ones to a program.
func onCPU0(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, zero unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	zero.Set(0)
	if err := unix.SchedSetaffinity(0, &zero); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			t.Error(err)
		}
	}()
	f()
}

// newBox loads the programs of all objects for packets.
func newBox(t *testing.T) *box {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	s := bpf.Sizes{Slots: 4 * bpf.FlowGroups, CPUs: cpus}
	b := &box{t: t, programs: map[string]*ebpf.Program{}, slots: map[string]uint32{}}
	for _, load := range []func(bpf.Sizes) (*ebpf.CollectionSpec, error){bpf.XDP, bpf.TC} {
		spec, err := load(s)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: b.maps})
		needBPF(t, err)
		t.Cleanup(c.Close)
		for name, p := range c.Programs {
			b.programs[name] = p
		}
		if b.maps == nil {
			b.maps = c.Maps
		}
	}
	m := b.maps
	b.table, err = table.Open(table.Maps{Index: m["index"], SAs: m["sas"], DropCounts: m["drop_counts"],
		Totals: m["totals"], Config: m["config"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.table.Close() })
	c := b.table.Programs()
	c.Ports[0], c.Ports[1] = bpf.Port{Port: 500, Kind: bpf.PortIKE}, bpf.Port{Port: 4500, Kind: bpf.PortNATT}
	return b
}

// add makes an SA known.
func (b *box) add(name string, dir uint8, dst string, spi, cpu uint32) {
	b.t.Helper()
	slot, err := b.table.Insert(bpf.MakeKey(dir, netip.MustParseAddr(dst), spi), table.Attr{CPU: cpu})
	if err != nil {
		b.t.Fatal(err)
	}
	b.slots[name] = slot
}

// put writes an entry of a hash or LPM map.
func (b *box) put(m string, key, value any) {
	b.t.Helper()
	if err := b.maps[m].Put(key, value); err != nil {
		b.t.Fatalf("map %s: %v", m, err)
	}
}

// counts are what a packet may change; empty: nothing.
type counts struct {
	sa      string // the SA that counts it, as a packet
	packets uint64 // of sa; 0: 1
	bytes   uint64
	totals  []bpf.Total // each grows by one
}

// testCase is a packet and what becomes of it.
type testCase struct {
	name    string
	program string
	packet  []byte
	set     func(c *bpf.Config) // before the packet, for this one only
	action  uint32
	out     []byte // nil: the packet is unchanged
	counts
}

// run gives the packet to the program and compares.
func (b *box) run(t *testing.T, c testCase) {
	t.Helper()
	config := b.table.Programs()
	if c.set != nil {
		old := *config
		c.set(config)
		defer func() { *config = old }()
	}
	before := b.snapshot()
	var action uint32
	var out []byte
	var err error
	onCPU0(t, func() { action, out, err = b.programs[c.program].Test(c.packet) })
	if err != nil {
		t.Fatalf("%s: %v", c.program, err)
	}
	if action != c.action {
		t.Errorf("action %d; expected %d", int32(action), int32(c.action))
	}
	want := c.out
	if want == nil {
		want = c.packet
	}
	if !bytes.Equal(out, want) {
		t.Errorf("packet out:\n% x\nexpected:\n% x", out, want)
	}
	expected := before
	expected.sas = map[string]bpf.Counters{}
	for name, n := range before.sas {
		if name == c.sa {
			n.Packets += max(1, c.packets)
			n.Bytes += c.bytes
		}
		expected.sas[name] = n
	}
	for _, total := range c.totals {
		expected.totals[total]++
	}
	got := b.snapshot()
	if g, w := fmt.Sprint(got), fmt.Sprint(expected); g != w {
		t.Errorf("counters:\n%s\nexpected:\n%s\n(before:\n%s)", g, w, fmt.Sprint(before))
	}
}

// snapshot is all that is counted.
type snapshot struct {
	sas    map[string]bpf.Counters
	totals [bpf.Totals]uint64
}

func (b *box) snapshot() snapshot {
	s := snapshot{sas: map[string]bpf.Counters{}}
	for name, slot := range b.slots {
		n := b.table.Counters(slot)
		n.LastUsed = 0
		s.sas[name] = n
	}
	for i := range s.totals {
		if bpf.Total(i) != bpf.TotalSampling {
			s.totals[i] = b.table.Total(bpf.Total(i))
		}
	}
	return s
}
