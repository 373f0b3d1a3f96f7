package flow

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"espalier/bpf"
	"espalier/dataplane"
)

// pinLayout1 pins a table as a daemon of layout 1 left it: room for 64 SAs on all
// CPUs, one in slot 3 and one in slot 5 that was removed.
func pinLayout1(t *testing.T, pins string, keys [2]bpf.Key) {
	t.Helper()
	cpus := ebpf.MustPossibleCPU()
	must(t, os.MkdirAll(filepath.Join(pins, linkFolder), 0o700))
	made := func(name string, size uintptr, n int) *ebpf.Map {
		m, err := ebpf.NewMap(&ebpf.MapSpec{
			Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: uint32(n), Flags: 1 << 10, // BPF_F_MMAPABLE
		})
		must(t, err)
		t.Cleanup(func() { m.Close() })
		must(t, m.Pin(filepath.Join(pins, name)))
		return m
	}
	made("index", 64, 32)
	drops, totals := made("drop_counts", 8, 64*int(bpf.DropReasons)), made("totals", 8, cpus*int(bpf.Totals))
	config := bpf.Config{
		Layout: 1, Slots: 64, Buckets: 32, Cpus: uint32(cpus), HashKey: [3]uint64{1, 3, 5}, JiffiesHz: 1000, Guard: uint32(bpf.GuardOn), Prefix4: 32, Prefix6: 64,
	}
	must(t, made("config", unsafe.Sizeof(config), 1).Put(uint32(0), config))
	sas, counters := made("sas", unsafe.Sizeof(bpf.Slot{}), 64), made(countersOf1, unsafe.Sizeof(bpf.Counters1{}), 64*cpus)
	for i, slot := range []uint32{3, 5} {
		must(t, sas.Put(slot, bpf.Slot{Key: keys[i], Generation: 7, Cpu: bpf.NoCPU, Flags: uint32(i) * bpf.FlagGone, Reqid: 9}))
		for cpu := range uint32(cpus) {
			must(t, counters.Put(cpu*64+slot, bpf.Counters1{Packets: 10, Bytes: 1000, LastUsed: 80}))
		}
		must(t, drops.Put(slot*uint32(bpf.DropReasons)+uint32(bpf.DropReplay), uint64(4)))
	}
	must(t, totals.Put(uint32(bpf.TotalIKE), uint64(6)))
}

// TestLayout1: an upgrade keeps the SAs that a daemon of layout 1 knew, with their
// counts and its settings, and leaves nothing of the former maps.
func TestLayout1(t *testing.T) {
	pins := needKernel(t)
	key, gone := Key{dataplane.Out, netip.MustParseAddr("2001:db8::9"), 0x1000}, Key{dataplane.Out, there, 0x2000}
	pinLayout1(t, pins, [2]bpf.Key{tableKey(key), tableKey(gone)})
	f := open(t, options(t, pins))
	if _, ok := f.tab.Lookup(tableKey(gone)); ok {
		t.Error("an SA that was removed is back")
	}
	slot, ok := f.tab.Lookup(tableKey(key))
	if !ok {
		t.Fatal("the SA is not known any more")
	}
	n := uint64(f.tab.Sizes().CPUs)
	c, sa := f.tab.Counters(slot), bpf.Slot{}
	sa, _ = f.tab.Slot(slot)
	if want := (bpf.Counters{Packets: 10 * n, Bytes: 1000 * n, LastUsed: 80}); c != want || sa.Reqid != 9 || f.tab.Drops(slot)[bpf.DropReplay] != 4 {
		t.Errorf("%+v, %+v, %d drops; expected %+v, reqid 9, 4 drops", c, sa, f.tab.Drops(slot)[bpf.DropReplay], want)
	}
	if total := f.tab.Total(bpf.TotalIKE); total != 6 {
		t.Errorf("%d IKE packets, expected 6", total)
	}
	if c := f.tab.Config(); c.Layout != bpf.LayoutVersion || c.Slots != 1024 {
		t.Errorf("configuration %+v", c)
	}
	if _, err := os.Stat(filepath.Join(pins, countersOf1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the map of layout 1: %v, expected that it is gone", err)
	}
	// And once more, as any restart.
	kill(t, f)
	f = open(t, options(t, pins))
	if slot, ok = f.tab.Lookup(tableKey(key)); !ok || f.tab.Counters(slot).Packets != 10*n {
		t.Errorf("after a restart: %t, %+v", ok, f.tab.Counters(slot))
	}
	f.spis.Remove(key)
	must(t, f.Close())
}
