package flow

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// shiftOfTwo moves a group of connections to CPU 3 whose packets have come to CPU 0 and to CPU 1, lately to CPU 1, and go to a CPU or stay. asleep says
// which CPUs have nothing to do, as Kernel.Asleep.
func shiftOfTwo(t *testing.T, at uint32, asleep func(cpu uint32, queue bool) bool) Shifted {
	t.Helper()
	a := table.NewArrays(bpf.Sizes{Slots: 64, CPUs: 4})
	tab, err := table.New(a)
	must(t, err)
	a.Config.Steer = uint32(bpf.SteerSlot)
	slot, err := tab.Insert(bpf.FlowKey(3), table.Attr{CPU: at})
	must(t, err)
	sa, _ := tab.Slot(slot)
	for row, packets := range []uint64{10, 11} {
		e := &a.Index[row*int(a.Config.Buckets)+int(sa.Place)/2].Way[sa.Place%2]
		e.Packets = packets
	}
	now := time.Hour
	s := NewShifterOn(tab, Kernel{
		Asleep:   func(cpu uint32, queue bool) (bool, bool) { return asleep(cpu, queue), true },
		RunOn:    func(int) error { return nil },
		Pause:    func(d time.Duration) { now += d },
		Now:      func() time.Duration { now += time.Microsecond; return now },
		Received: func(uint32) (uint64, bool) { return 0, true },
	})
	out := s.Shift(t.Context(), []Shift{{Slot: slot, Generation: sa.Generation, To: 3}, {Slot: slot, Generation: sa.Generation, To: 2}})
	if !errors.Is(out[1].Err, ErrTwice) {
		t.Errorf("named twice: %v", out[1].Err)
	}
	if now, _ := tab.Slot(slot); out[0].Err == nil && now.Cpu != 3 {
		t.Errorf("moved to CPU %d", now.Cpu)
	}
	return out[0]
}

// TestShiftOfSeveralReceivers: where several CPUs receive a group's packets, none of them may have any in hand, nor the queue in which some of
// them wait, though the CPU of that queue receives packets as well.
func TestShiftOfSeveralReceivers(t *testing.T) {
	if r := shiftOfTwo(t, 0, func(cpu uint32, queue bool) bool { return cpu != 0 || !queue }); !errors.Is(r.Err, ErrNoMoment) {
		t.Errorf("moved (%v) while packets wait in the queue of the CPU that it leaves", r.Err)
	}
	for busy := range uint32(2) {
		if r := shiftOfTwo(t, bpf.NoCPU, func(cpu uint32, _ bool) bool { return cpu != busy }); !errors.Is(r.Err, ErrNoMoment) {
			t.Errorf("moved (%v) while soft interrupts of CPU %d are left over, which has received packets", r.Err, busy)
		}
	}
	for _, at := range []uint32{0, bpf.NoCPU} {
		if r := shiftOfTwo(t, at, func(uint32, bool) bool { return true }); r.Err != nil {
			t.Errorf("from %s: %v, though nothing is under way", fmt.Sprint(int32(at)), r.Err)
		}
	}
}
