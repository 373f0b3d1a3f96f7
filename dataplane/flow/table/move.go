package table

import (
	"fmt"
	"sync/atomic"
	"time"

	"espalier/bpf"
)

// A move takes an SA to another CPU without a packet overtaking another: Depart
// begins it, Seen lets it go over as soon as nothing of it is under way to its old
// CPU, and SetCPU ends it. What is seen when is the caller's to know; headers/layout.h
// says what the programs make of it (struct sa_slot).

// Place is where an SA's packets go.
type Place struct {
	From   uint32 // bpf.NoCPU, a CPU, or bpf.Shed; as To when it has gone over
	To     uint32
	Passed uint32 // packets that came since it departed
}

// Over tells whether packets go to the new CPU.
func (p Place) Over() bool { return p.From == p.To }

// Depart begins a move: packets go on to where they went, until the SA may go over.
// Errors: the slot has another SA, or none.
func (t *Table) Depart(slot, generation, to uint32) error {
	return t.move(slot, generation, func(sa *bpf.Slot) {
		atomic.StoreUint64(&sa.Seen, unseen)
		atomic.StoreUint32(&sa.Passed, 0)
		atomic.StoreUint32(&sa.From, sa.Cpu)
		atomic.StoreUint32(&sa.Cpu, to)
		t.enter(slot, sa.Place, bpf.EntryMoving)
	})
}

// unseen is no count that packets reach.
const unseen = 1<<64 - 1

// Seen says that the packets before the departure and the first ones that came since,
// that many, have been delivered: it goes over with the next one, if that is the next
// one still.
func (t *Table) Seen(slot, generation, passed uint32) error {
	return t.see(slot, generation, uint64(passed))
}

func (t *Table) see(slot, generation uint32, seen uint64) error {
	return t.move(slot, generation, func(sa *bpf.Slot) { atomic.StoreUint64(&sa.Seen, seen) })
}

// Unsee keeps the SA from going over, from the next packet that arrives on.
func (t *Table) Unsee(slot, generation uint32) error { return t.see(slot, generation, unseen) }

// Shed drops the SA's packets until Arrive or Return, or a time of the kernel's monotonic
// clock, when it goes over whatever may still be under way.
func (t *Table) Shed(slot, generation uint32, until time.Duration) error {
	return t.move(slot, generation, func(sa *bpf.Slot) {
		atomic.StoreUint64(&sa.Seen, uint64(until))
		atomic.StoreUint32(&sa.From, bpf.Shed)
	})
}

// Arrive ends a move: packets go where the SA was going, or with back, where they
// still go.
func (t *Table) Arrive(slot, generation uint32, back bool) error {
	return t.move(slot, generation, func(sa *bpf.Slot) {
		cpu := sa.Cpu
		if from := atomic.LoadUint32(&sa.From); back && from != bpf.Shed {
			cpu = from
		}
		t.steer(slot, sa, cpu)
	})
}

// Return ends a move whose packets were shed: they go to this CPU, as before it.
func (t *Table) Return(slot, generation, cpu uint32) error {
	return t.move(slot, generation, func(sa *bpf.Slot) { t.steer(slot, sa, cpu) })
}

// Place is where the packets of a moving SA go now.
func (t *Table) Place(slot, generation uint32) (p Place, err error) {
	err = t.move(slot, generation, func(sa *bpf.Slot) {
		// The count first: what has gone over has been counted.
		p.Passed = atomic.LoadUint32(&sa.Passed)
		p.From, p.To = atomic.LoadUint32(&sa.From), sa.Cpu
	})
	return p, err
}

// move does something with a slot that has this SA.
func (t *Table) move(slot, generation uint32, do func(*bpf.Slot)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	sa, err := t.live(slot)
	if err != nil {
		return err
	}
	if sa.Generation != generation {
		return fmt.Errorf("slot %d: expected the SA of generation %d, found %d", slot, generation, sa.Generation)
	}
	do(sa)
	return nil
}

// recoverMove ends a move that a former run had begun: packets stay where they go. A
// change of the CPU that the former run told only some rows is told to all.
func (t *Table) recoverMove(slot, where uint32) {
	sa := &t.a.SAs[slot]
	cpu := sa.Cpu
	if cpuOf(where) == bpf.EntryMoving && sa.From != bpf.Shed {
		cpu = sa.From
	}
	t.steer(slot, sa, cpu)
}
