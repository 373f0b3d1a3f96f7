package table

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/bpf"
)

func newTable(t *testing.T, s bpf.Sizes) *Table {
	t.Helper()
	tab, err := New(NewArrays(s))
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func key(spi uint32) bpf.Key {
	return bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), spi)
}

// Every slot can be used, with any keys.
func TestFillsUp(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, slots := range []int{64, 100, 1000, 1 << 16} {
		tab := newTable(t, bpf.Sizes{Slots: slots, CPUs: 1})
		var keys []bpf.Key
		for len(keys) < slots {
			k := bpf.MakeKey(uint8(r.IntN(2)), netip.AddrFrom4([4]byte{10, byte(r.Uint32()), 0, 1}), r.Uint32())
			if _, err := tab.Insert(k, Attr{}); err != nil {
				t.Fatalf("%d of %d: %v", len(keys), slots, err)
			}
			keys = append(keys, k)
		}
		if _, err := tab.Insert(key(1), Attr{}); !errors.Is(err, ErrFull) {
			t.Errorf("one more than %d: %v; expected ErrFull", slots, err)
		}
		seen := map[uint32]bool{}
		for _, k := range keys {
			s, ok := tab.Lookup(k)
			if !ok || seen[s] {
				t.Fatalf("%v: slot %d, found %t, seen before %t", k, s, ok, seen[s])
			}
			seen[s] = true
		}
		if tab.Used() != slots {
			t.Errorf("used %d; expected %d", tab.Used(), slots)
		}
	}
}

// When buckets are full the next ones of a key are taken, up to the last; all stay
// found, and what does not fit any more is refused.
func TestMakesRoom(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 2})
	tab.a.Config.Buckets = 32 // as many entries as slots
	tab.a.Index = tab.a.Index[:2*32]
	var in []bpf.Key
	for spi := uint32(1); spi < 5000; spi++ {
		if _, err := tab.Insert(key(spi), Attr{}); err == nil {
			in = append(in, key(spi))
		} else if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if len(in) != 64 {
		t.Errorf("%d keys in 64 entries; expected all to be used", len(in))
	}
	tab = takeOver(tab.Reader)
	for i, k := range in { // a change to one loses no other
		slot, ok := tab.Lookup(k)
		if !ok {
			t.Fatalf("%v is lost", k)
		}
		if err := tab.SetCPU(slot, uint32(i)); err != nil {
			t.Fatal(err)
		}
	}
	for place := range uint32(64) {
		if a, b := tab.a.entry(0, place), tab.a.entry(1, place); *a != *b {
			t.Errorf("place %d: %+v in row 0, %+v in row 1", place, *a, *b)
		}
	}
	told := func() (n int) {
		for place := range uint32(64) {
			if tab.a.entry(1, place).Where&passed != 0 {
				n++
			}
		}
		return n
	}
	if told() == 0 {
		t.Error("no bucket says that keys went past it")
	}
	for i, k := range in { // those that stay are found when others go
		tab.Remove(k)
		for _, k := range in[i+1:] {
			if _, ok := tab.Lookup(k); !ok {
				t.Fatalf("%v is lost", k)
			}
		}
	}
	if n := told(); n != 0 {
		t.Errorf("%d buckets of an empty table say that keys went past them", n)
	}
}

func TestSlotIsFreedAfterItsLastRead(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 2})
	slot, err := tab.Insert(key(1), Attr{CPU: 1, Flags: bpf.FlagOwn, Reqid: 7, IfID: 9})
	if err != nil {
		t.Fatal(err)
	}
	count := func(cpu int, packets, bytes uint64, used uint32) {
		e := tab.a.entry(cpu, tab.a.SAs[slot].Place)
		e.Packets, e.Bytes, e.LastUsed = packets, bytes, used
	}
	count(0, 3, 300, 1<<32-1) // the clock came round
	count(1, 4, 400, 6)
	tab.a.DropCounts[int(slot)*int(bpf.DropReasons)+int(bpf.DropReplay)] = 2
	sa, ok := tab.Slot(slot)
	if !ok || sa.Key != key(1) || sa.Cpu != 1 || sa.Reqid != 7 || sa.IfId != 9 || sa.Generation != 1 {
		t.Errorf("slot %+v, %t", sa, ok)
	}
	if s, ok := tab.Remove(key(1)); !ok || s != slot {
		t.Fatalf("removed %d, %t; expected %d", s, ok, slot)
	}
	if _, ok := tab.Lookup(key(1)); ok {
		t.Error("found after it was removed")
	}
	if c := tab.Counters(slot); c.Packets != 7 || c.Bytes != 700 || c.LastUsed != 6<<bpf.LastUsedShift {
		t.Errorf("counters after the removal: %+v", c)
	}
	if d := tab.Drops(slot); d[bpf.DropReplay] != 2 {
		t.Errorf("drops after the removal: %v", d)
	}
	for range tab.All() {
		t.Error("All yields what was removed")
	}
	if err := tab.Free(slot); err != nil {
		t.Fatal(err)
	}
	if tab.Free(slot) == nil {
		t.Error("freed twice")
	}
	// Used again, it has the next generation, and counters at zero.
	for spi := uint32(2); ; spi++ {
		s, err := tab.Insert(key(spi), Attr{})
		if err != nil {
			t.Fatal(err)
		}
		if s != slot {
			continue
		}
		sa, _ := tab.Slot(s)
		if sa.Generation != 3 || tab.Counters(s) != (bpf.Counters{}) || tab.Drops(s)[bpf.DropReplay] != 0 {
			t.Errorf("used again by the %dth, %+v, %+v", spi, sa, tab.Counters(s))
		}
		break
	}
}

// A restarted daemon finds what its predecessor left, wherever that was stopped.
func TestTakesOver(t *testing.T) {
	a := NewArrays(bpf.Sizes{Slots: 64, CPUs: 2})
	tab, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	slots := map[bpf.Key]uint32{}
	for spi := uint32(1); spi <= 10; spi++ {
		slots[key(spi)], _ = tab.Insert(key(spi), Attr{Reqid: spi})
	}
	tab.Remove(key(1)) // never freed
	delete(slots, key(1))
	// Stopped in the middle of an insertion: a slot without entry, and one that has
	// its entry in all rows but the first. Which slots and buckets are free depends on
	// the secret of the hash.
	begun := tab.free.take()
	a.SAs[begun].Key, a.SAs[begun].Generation = key(99), 1
	half, err := tab.Insert(key(98), Attr{})
	if err != nil {
		t.Fatal(err)
	}
	a.entry(0, a.SAs[half].Place).Key = 0
	// Stopped in the middle of a removal: the first row has it no more.
	gone := slots[key(2)]
	delete(slots, key(2))
	a.entry(0, a.SAs[gone].Place).Key = 0
	a.entry(1, a.SAs[slots[key(3)]].Place).Packets = 7

	again, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	if again.Used() != 8 || again.free.len() != 56 {
		t.Errorf("used %d, free %d; expected 8 and 56", again.Used(), again.free.len())
	}
	if n := again.Counters(slots[key(3)]).Packets; n != 7 {
		t.Errorf("%d packets, expected the 7 of the former run", n)
	}
	keys := 0
	for place := range a.Config.Buckets * indexWays {
		first := a.entry(0, place).Key
		if first != 0 {
			keys++
		}
		if second := a.entry(1, place).Key; first != second {
			t.Errorf("place %d: key %#x in row 0, %#x in row 1", place, first, second)
		}
	}
	if keys != 8 {
		t.Errorf("%d keys in the index, expected 8", keys)
	}
	for k, want := range slots {
		if s, ok := again.Lookup(k); !ok || s != want {
			t.Errorf("%v: slot %d, %t; expected %d", k, s, ok, want)
		}
	}
	// What is free can be used, all of it, and nothing else.
	for spi := uint32(1000); again.free.len() > 0; spi++ {
		if _, err := again.Insert(key(spi), Attr{}); err != nil {
			t.Fatal(err)
		}
	}
	for k, want := range slots {
		if s, ok := again.Lookup(k); !ok || s != want {
			t.Errorf("%v when the table is full: slot %d, %t; expected %d", k, s, ok, want)
		}
	}
	for k := range slots {
		again.Remove(k)
	}
	a.Config.Layout = 99
	if _, err := New(a); err == nil {
		t.Error("maps of another layout are taken over")
	}
}

func TestRefusesWhatDoesNotFit(t *testing.T) {
	a := NewArrays(bpf.Sizes{Slots: 64, CPUs: 2})
	a.Index = a.Index[:64]
	if _, err := New(a); err == nil {
		t.Error("an index for another number of CPUs is taken")
	}
	for _, s := range []bpf.Sizes{{}, {Slots: 63, CPUs: 1}, {Slots: 1<<20 + 1, CPUs: 1}, {Slots: 64}, {Slots: 64, CPUs: 2047}} {
		if s.Check() == nil {
			t.Errorf("%+v: expected an error", s)
		}
	}
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 1})
	if tab.SetCPU(5, 0) == nil || tab.Update(64, Attr{}) == nil || tab.Free(1000) == nil {
		t.Error("slots that are not in use are changed")
	}
	if c := tab.Counters(1 << 30); c != (bpf.Counters{}) {
		t.Errorf("counters of no slot: %+v", c)
	}
}

func TestSetCPU(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 1})
	slot, _ := tab.Insert(key(1), Attr{CPU: bpf.NoCPU})
	if err := tab.SetCPU(slot, 1); err != nil {
		t.Fatal(err)
	}
	if err := tab.Update(slot, Attr{CPU: 2, Flags: bpf.FlagOwn | bpf.FlagGone}); err != nil {
		t.Fatal(err)
	}
	if sa, _ := tab.Slot(slot); sa.Cpu != 2 || sa.Flags != bpf.FlagOwn {
		t.Errorf("%+v", sa)
	}
}

// Readings around the end of the 32 bits that an entry has for the time.
func TestIdle(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 1})
	hz := uint64(tab.a.Config.JiffiesHz)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	jiffies := uint64(uint32(-300*int64(hz))) + uint64(now.Nano())*hz/uint64(time.Second)
	for _, ago := range []time.Duration{0, time.Minute, 100 * 24 * time.Hour} {
		used := uint64(uint32((jiffies-uint64(ago)*hz/uint64(time.Second))>>bpf.LastUsedShift)) << bpf.LastUsedShift
		// The test may be kept waiting for a while.
		if d, ok := tab.Idle(used); !ok || d < ago-time.Second || d > ago+time.Hour {
			t.Errorf("used %s ago: %s, %t", ago, d, ok)
		}
	}
	if d, ok := tab.Idle((jiffies + hz) &^ (1<<bpf.LastUsedShift - 1)); !ok || d > time.Hour {
		t.Errorf("a use that seems to be about to come: %s, %t; expected just now", d, ok)
	}
	if _, ok := tab.Idle(0); ok {
		t.Error("never used, and idle for a time")
	}
	const last = (1<<32 - 1) << bpf.LastUsedShift
	for _, c := range [][3]uint64{{0, 16, 16}, {16, 0, 16}, {16, 24, 24}, {last, 16, 16}, {16, last, 16}, {0, 0, 0}} {
		if got := later(c[0], c[1]); got != c[2] {
			t.Errorf("the later of %d and %d: %d, expected %d", c[0], c[1], got, c[2])
		}
	}
}
