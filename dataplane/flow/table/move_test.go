package table

import (
	"testing"
	"time"

	"espalier/bpf"
)

// indexed is what the index says of an SA, as the programs of every CPU read it.
func indexed(t *testing.T, tab *Table, k bpf.Key) uint32 {
	t.Helper()
	_, at, ok := tab.find(placeOf(tab.a.Config, &k))
	if !ok {
		t.Fatal("not in the index")
	}
	cpu := cpuOf(tab.a.entry(0, at).Where)
	for row := range tab.sizes.CPUs {
		if c := cpuOf(tab.a.entry(row, at).Where); c != cpu {
			t.Errorf("CPU %d is told %#x, CPU 0 %#x", row, c, cpu)
		}
	}
	return cpu
}

func TestMove(t *testing.T) {
	tab := newTable(t, bpf.Sizes{Slots: 64, CPUs: 4})
	slot, err := tab.Insert(key(1), Attr{CPU: 1})
	if err != nil {
		t.Fatal(err)
	}
	sa, _ := tab.Slot(slot)
	g := sa.Generation
	if tab.Depart(slot, g+2, 2) == nil || tab.Depart(slot+1, 1, 2) == nil {
		t.Error("an SA that is not there departs")
	}
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	try(tab.Depart(slot, g, 2))
	if c := indexed(t, tab, key(1)); c != bpf.EntryMoving {
		t.Errorf("the index has CPU %#x, expected that it moves", c)
	}
	// What the keeper says of the SA meanwhile does not end the move.
	try(tab.Update(slot, Attr{CPU: 2, Reqid: 5}))
	if c := indexed(t, tab, key(1)); c != bpf.EntryMoving {
		t.Errorf("after an update the index has CPU %#x, expected that it moves", c)
	}
	if p, err := tab.Place(slot, g); err != nil || p.From != 1 || p.To != 2 || p.Over() {
		t.Errorf("place %+v, error %v", p, err)
	}
	try(tab.Arrive(slot, g, true))
	if sa, _ := tab.Slot(slot); sa.Cpu != 1 || indexed(t, tab, key(1)) != 1 {
		t.Errorf("back: slot %+v, index %d; expected CPU 1", sa, indexed(t, tab, key(1)))
	}
	try(tab.Depart(slot, g, 2))
	try(tab.Shed(slot, g, time.Second))
	try(tab.Arrive(slot, g, true))
	if sa, _ := tab.Slot(slot); sa.Cpu != 2 || indexed(t, tab, key(1)) != 2 {
		t.Errorf("after it shed: slot %+v, index %d; expected CPU 2", sa, indexed(t, tab, key(1)))
	}
}

// What a run left on its way stays where it is, in a run that takes over.
func TestMoveTakenOver(t *testing.T) {
	a := NewArrays(bpf.Sizes{Slots: 64, CPUs: 4})
	tab, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	for spi, shed := range []bool{false, true} {
		slot, err := tab.Insert(key(uint32(spi+1)), Attr{CPU: 1})
		if err != nil {
			t.Fatal(err)
		}
		sa, _ := tab.Slot(slot)
		if err := tab.Depart(slot, sa.Generation, 2); err != nil {
			t.Fatal(err)
		}
		if shed {
			if err := tab.Shed(slot, sa.Generation, time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	// SetCPU, stopped after the first row.
	slot, err := tab.Insert(key(3), Attr{CPU: 1})
	if err != nil {
		t.Fatal(err)
	}
	a.SAs[slot].Cpu = 3
	setWhere(a.entry(0, a.SAs[slot].Place), whereOf(slot, 3))
	if tab, err = New(a); err != nil {
		t.Fatal(err)
	}
	for spi, want := range []uint32{1, 2, 3} {
		if c := indexed(t, tab, key(uint32(spi+1))); c != want {
			t.Errorf("SA %d: CPU %d; expected %d", spi, c, want)
		}
	}
}
