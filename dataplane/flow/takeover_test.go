package flow

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/dataplane/flow/table"
)

// TestCloseKeepsForeign: an orderly end leaves the programs while SAs of others
// are counted, and the guard only logs then.
func TestCloseKeepsForeign(t *testing.T) {
	pins := needKernel(t)
	veth(t, "stay0")
	o := options(t, pins, "stay0")
	o.Guard = GuardOn
	f := open(t, o)
	key := Key{dataplane.Out, netip.MustParseAddr("192.0.2.1"), 0x1000}
	must(t, f.spis.Insert(key, Attrs{}))
	f.spis.InStep(true)
	must(t, f.Close())
	r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
	must(t, err)
	g, err := r.Guard()
	must(t, err)
	spis, err := r.SPIs()
	must(t, err)
	if g.Mode != GuardOn || g.InStep || len(spis) != 1 || spis[0].Key != key {
		t.Errorf("after the end: guard %+v, SPIs %+v", g, spis)
	}
	if d, err := ReadDaemon(ReaderOptions{State: o.State}); err != nil || d.PID != 0 || len(d.Parts) != 3 {
		t.Errorf("state file: %+v, %v", d, err)
	}
	must(t, r.Close())
	f = open(t, o)
	dp := dataplane.NewFake(dataplane.FakeOptions{})
	w, err := f.Wrap(dp)
	must(t, err)
	eventually(t, "what the kernel has not goes", func() bool { return f.tab.Used() == 0 })
	must(t, w.Close())
	must(t, f.Close())
	if _, err := OpenReader(ReaderOptions{Pins: pins, State: o.State}); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("reader after the end: %v, expected ErrNotLoaded", err)
	}
}

// TestReader: what the daemon has told is read back, and the guard can be set.
func TestReader(t *testing.T) {
	pins := needKernel(t)
	o := options(t, pins)
	f := open(t, o)
	defer f.Close()
	f.Peers([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/64")}, true)
	f.Peers([]netip.Prefix{netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("198.51.100.7/32")}, true)
	f.OwnIKE(0x1122334455667788, true)
	f.OwnIKE(0x1122334455667789, true)
	f.OwnIKE(0x1122334455667789, false)
	must(t, f.spis.Insert(Key{dataplane.Out, netip.MustParseAddr("2001:db8::9"), 0xabcdef01}, Attrs{Own: true, ReqID: 3, IfID: 4}))
	must(t, f.spis.Insert(Key{dataplane.In, netip.MustParseAddr("192.0.2.1"), 0x1000}, Attrs{Own: true, Reserved: true}))
	slot, _ := f.tab.Lookup(tableKey(Key{dataplane.Out, netip.MustParseAddr("2001:db8::9"), 0xabcdef01}))
	counted(t, f.tab, slot, bpf.Counters{Packets: 5, Bytes: 600, LastUsed: 80}, 9)
	f.tab.AddTotal(bpf.TotalGuardRate, 12)
	cpus := uint64(f.tab.Sizes().CPUs)

	r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
	must(t, err)
	defer r.Close()
	g, err := r.Guard()
	must(t, err)
	want := []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("2001:db8::/64")}
	if g.Mode != GuardLog || !g.PeersOnly || !slices.Equal(g.Peers, want) || g.IKESPIs != 1 || g.InitRate != 100 || g.Prefix6 != 64 {
		t.Errorf("guard: %+v", g)
	}
	if i := slices.Index(g.Totals, TotalCount{Total(bpf.TotalGuardRate), 12}); i < 0 || len(g.Totals) != 5 {
		t.Errorf("the guard's totals: %+v", g.Totals)
	}
	spis, err := r.SPIs()
	must(t, err)
	if len(spis) != 2 || !spis[0].Reserved || spis[0].SPI != 0x1000 || spis[1].IfID != 4 || spis[1].CPU != -1 || !spis[1].Own ||
		spis[1].Counters.Packets != 5*cpus || spis[1].Counters.Bytes != 600*cpus || !slices.Equal(spis[1].Drops, []Drop{{Reason(bpf.DropReplay), 9}}) {
		t.Errorf("SPIs: %+v", spis)
	}
	must(t, r.SetGuard(GuardOn))
	if g, err := r.Guard(); err != nil || g.Mode != GuardOn || f.tab.Config().Guard != uint32(bpf.GuardOn) {
		t.Errorf("guard after the change: %+v, %v", g, err)
	}
	if err := r.SetGuard(9); err == nil {
		t.Error("guard mode 9 was taken")
	}
	s, err := r.State()
	must(t, err)
	if s.Capacity != 1024 || s.Used != 2 || s.PID != os.Getpid() || s.MemoryBytes < 1024*64 || !s.MSS || s.Steering != SteerOff {
		t.Errorf("state: %+v", s)
	}
	if all, err := r.Totals(); err != nil || len(all) != len(totals) {
		t.Errorf("totals: %+v, %v", all, err)
	}
	f.spis.InStep(true)
	for n := range uint64(300) { // more than the map takes
		f.OwnIKE(n<<32, true)
	}
	f.keep.mu.Lock()
	f.keep.synced = true
	f.keep.stepLocked()
	f.keep.mu.Unlock()
	if g, err := r.Guard(); err != nil || g.InStep {
		t.Errorf("guard that does not know all IKE SPIs: %+v, %v, expected it to only log", g, err)
	}
	f.Peers(nil, false)
	if g, err := r.Guard(); err != nil || g.PeersOnly {
		t.Errorf("guard when anybody may: %+v, %v", g, err)
	}
}

// TestIKESPIsOfLastRun: they are known for one run more.
func TestIKESPIsOfLastRun(t *testing.T) {
	pins := needKernel(t)
	o := options(t, pins)
	f := open(t, o)
	f.OwnIKE(1, true)
	for run, want := range []int{1, 2, 1} {
		kill(t, f)
		f = open(t, o)
		if run == 1 {
			f.OwnIKE(2, true)
		}
		_ = want
	}
	n := 0
	var k uint64
	var v uint32
	for it := f.maps.byID["ike_spis"].Iterate(); it.Next(&k, &v); n++ {
		if k != bpf.MakeIKESPI(2) || v != ikeOfLastRun {
			t.Errorf("SPI %x of run %d", k, v)
		}
	}
	if n != 1 {
		t.Errorf("%d IKE SPIs, expected the last run's one", n)
	}
	must(t, f.Close())
}

// TestTakeDown: what a killed daemon left goes, and nothing of another's.
func TestTakeDown(t *testing.T) {
	pins := needKernel(t)
	l, _ := veth(t, "down0")
	o := options(t, pins, "down0")
	must(t, TakeDown(o)) // nothing is there
	f := open(t, o)
	if err := TakeDown(o); !errors.Is(err, ErrInUse) {
		t.Errorf("while it runs: %v, expected ErrInUse", err)
	}
	kill(t, f)
	must(t, TakeDown(o))
	eventually(t, "the program leaves the interface", func() bool {
		l, err := netlink.LinkByIndex(l.Attrs().Index)
		must(t, err)
		return l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached
	})
	for _, path := range []string{pins, o.State} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

// TestMigrationCarriesTwice: what the old programs count while the new ones are
// being attached is not lost, and not counted twice.
func TestMigrationCarriesTwice(t *testing.T) {
	needKernel(t)
	made := func(slots int) (*table.Table, table.Maps) {
		spec, err := bpf.Check(bpf.Sizes{Slots: slots, CPUs: 2})
		must(t, err)
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinNone
		}
		c, err := ebpf.NewCollection(spec)
		must(t, err)
		t.Cleanup(c.Close)
		maps := (&maps{"", c.Maps}).table()
		tab, err := table.Open(maps)
		must(t, err)
		t.Cleanup(func() { must(t, tab.Close()) })
		return tab, maps
	}
	old, oldMaps := made(64)
	next, _ := made(128)
	slot, err := old.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x1000), table.Attr{CPU: 1, Reqid: 7})
	must(t, err)
	goes := bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x2000)
	goesFrom, err := old.Insert(goes, table.Attr{})
	must(t, err)
	count := func(n uint64) {
		for _, slot := range []uint32{slot, goesFrom} {
			counted(t, old, slot, bpf.Counters{Packets: n, Bytes: 100 * n, LastUsed: 80 * n}, n)
		}
		old.AddTotal(bpf.TotalIKE, n)
	}
	count(5)
	m, err := startMigration(oldMaps, next)
	must(t, err)
	s, ok := next.Lookup(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x1000))
	if c := next.Counters(s); !ok || c.Packets != 10 {
		t.Errorf("after the first step: %+v, %v", c, ok)
	}
	// One that goes meanwhile leaves its slot to another, whose the counts are not.
	goesTo, _ := next.Remove(goes)
	must(t, next.Free(goesTo))
	heir := uint32(0)
	for spi := uint32(0x3000); heir != goesTo; spi++ {
		heir, err = next.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), spi), table.Attr{})
		must(t, err)
	}
	count(3)
	m.carry()
	if c := next.Counters(heir); c.Packets != 0 {
		t.Errorf("an SA that came meanwhile: %+v, expected no packets", c)
	}
	must(t, m.close())
	c, sa := next.Counters(s), bpf.Slot{}
	sa, _ = next.Slot(s)
	if c.Packets != 16 || c.Bytes != 1600 || c.LastUsed != 400 || next.Drops(s)[bpf.DropReplay] != 8 || next.Total(bpf.TotalIKE) != 8 || sa.Cpu != 1 || sa.Reqid != 7 {
		t.Errorf("after the second: %+v, drops %d, total %d, %+v", c, next.Drops(s)[bpf.DropReplay], next.Total(bpf.TotalIKE), sa)
	}
}

// TestGuardOfAKilledDaemon: nobody takes back that all SPIs are known, and the guard
// lets go all the same.
func TestGuardOfAKilledDaemon(t *testing.T) {
	pins := needKernel(t)
	o := options(t, pins)
	f := open(t, o)
	f.keep.mu.Lock()
	f.keep.synced = true
	f.keep.stepLocked()
	f.keep.mu.Unlock()
	r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
	must(t, err)
	defer r.Close()
	inStep := func() bool {
		g, err := r.Guard()
		must(t, err)
		return g.InStep
	}
	if !inStep() {
		t.Error("a daemon that lives: expected the guard in step")
	}
	a, b := f.tab.Config().AliveUntil, uint32(0)
	eventually(t, "it says so again", func() bool { b = f.tab.Config().AliveUntil; return b > a })
	kill(t, f)
	if r.tab.Config().TailKnown != 1 {
		t.Error("killed, and took the word back")
	}
	eventually(t, "the guard lets go", func() bool { return !inStep() })
	f = open(t, o)
	if inStep() {
		t.Error("the next daemon has not listed the kernel's SAs, expected the guard out of step")
	}
	must(t, f.Close())
}

// TestMovedCounts: what an SA counted before it moved counts on under its new key,
// with what the programs count for the old one a moment later.
func TestMovedCounts(t *testing.T) {
	pins := needKernel(t)
	f := open(t, options(t, pins))
	defer f.Close()
	from, to := Key{dataplane.Out, there, 0x1000}, Key{dataplane.Out, other, 0x1000}
	must(t, f.spis.Insert(from, Attrs{ReqID: 7}))
	old, _ := f.tab.Lookup(tableKey(from))
	count := func(slot uint32, n uint64) {
		counted(t, f.tab, slot, bpf.Counters{Packets: n, Bytes: 100 * n, LastUsed: 8 * n}, n)
	}
	count(old, 5)
	must(t, f.spis.Insert(to, Attrs{ReqID: 7}))
	heir, _ := f.tab.Lookup(tableKey(to))
	count(heir, 2)
	f.spis.Move(from, to)
	f.spis.Move(from, to) // nothing more
	expect := func(n uint64) {
		t.Helper()
		c, drops := f.tab.Counters(heir), f.tab.Drops(heir)
		if c.Packets != n*uint64(f.tab.Sizes().CPUs) || c.Bytes != 100*c.Packets || c.LastUsed != 40 || drops[bpf.DropReplay] != n {
			t.Errorf("%+v, %d drops, expected %d packets a CPU", c, drops[bpf.DropReplay], n)
		}
	}
	expect(7)
	if _, ok := f.tab.Lookup(tableKey(from)); ok {
		t.Error("the old key is still there")
	}
	count(old, 1)
	time.Sleep(lastCount)
	f.spis.Remove(Key{dataplane.Out, other, 0x9999}) // any change gives slots back
	expect(8)
	f.spis.Remove(to)
}
