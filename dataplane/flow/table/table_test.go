package table

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

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

// When entries have to move, all stay found, and what does not fit any more is refused.
func TestMakesRoom(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 1})
	tab.a.Config.Buckets = 16 // as many entries as slots
	tab.a.Index = tab.a.Index[:16]
	var in []bpf.Key
	for spi := uint32(1); spi < 5000; spi++ {
		if _, err := tab.Insert(key(spi), Attr{}); err == nil {
			in = append(in, key(spi))
		} else if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if len(in) < 60 {
		t.Errorf("%d keys in 64 entries; expected at least 60", len(in))
	}
	for _, k := range in {
		if _, ok := tab.Lookup(k); !ok {
			t.Errorf("%v is lost", k)
		}
	}
}

func TestSlotIsFreedAfterItsLastRead(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 2})
	slot, err := tab.Insert(key(1), Attr{CPU: 1, Flags: bpf.FlagOwn, Reqid: 7, IfID: 9})
	if err != nil {
		t.Fatal(err)
	}
	tab.a.Counters[slot] = bpf.Counters{Packets: 3, Bytes: 300, LastUsed: 5}
	tab.a.Counters[64+int(slot)] = bpf.Counters{Packets: 4, Bytes: 400, LastUsed: 6}
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
	if c := tab.Counters(slot); c.Packets != 7 || c.Bytes != 700 || c.LastUsed != 6 {
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
	a := NewArrays(bpf.Sizes{Slots: 64, CPUs: 1})
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
	// Stopped in the middle of a move: the entry of key 2 is in both of its buckets.
	k := key(2)
	p := placeOf(a.Config, &k)
	for w := range a.Index[other(a.Config, p.bucket, p.word)].Way {
		if e := &a.Index[other(a.Config, p.bucket, p.word)].Way[w]; e.Key == 0 {
			*e = bpf.IndexEntry{Key: p.word, Value: valueOf(slots[k], 0, 1)}
			break
		}
	}
	// Stopped in the middle of an insertion: a slot without entry. Which slots are
	// free depends on the secret of the hash.
	begun := tab.free.first
	a.SAs[begun].Key, a.SAs[begun].Generation = key(99), 1

	again, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	if again.Used() != 9 || again.free.len() != 55 {
		t.Errorf("used %d, free %d; expected 9 and 55", again.Used(), again.free.len())
	}
	for k, want := range slots {
		if s, ok := again.Lookup(k); !ok || s != want {
			t.Errorf("%v: slot %d, %t; expected %d", k, s, ok, want)
		}
	}
	again.Remove(k)
	if _, ok := again.Lookup(k); ok {
		t.Error("the second copy of a moved entry is still there")
	}
	a.Config.Layout = 99
	if _, err := New(a); err == nil {
		t.Error("maps of another layout are taken over")
	}
}

func TestRefusesWhatDoesNotFit(t *testing.T) {
	a := NewArrays(bpf.Sizes{Slots: 64, CPUs: 2})
	a.Counters = a.Counters[:100]
	if _, err := New(a); err == nil {
		t.Error("counters for another number of CPUs are taken")
	}
	for _, s := range []bpf.Sizes{{}, {Slots: 63, CPUs: 1}, {Slots: 1<<20 + 1, CPUs: 1}, {Slots: 64}, {Slots: 1 << 20, CPUs: 4096}} {
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
