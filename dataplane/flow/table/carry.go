package table

import (
	"sync/atomic"

	"espalier/bpf"
)

// add adds to what a CPU counted of the SA in a slot the difference of two readings.
// A program may be adding at the same time: that CPU's, unless this runs on it.
func (a *Arrays) add(cpu int, slot uint32, now, had bpf.Counters) {
	if now == had {
		return
	}
	e := a.entry(cpu, a.SAs[slot].Place)
	atomic.AddUint64(&e.Packets, now.Packets-had.Packets)
	atomic.AddUint64(&e.Bytes, now.Bytes-had.Bytes)
	used := later(uint64(atomic.LoadUint32(&e.LastUsed))<<bpf.LastUsedShift, now.LastUsed)
	atomic.StoreUint32(&e.LastUsed, uint32(used>>bpf.LastUsedShift))
}

// Add adds to what a CPU counted of the SA in a slot the difference of two readings
// of another table. On that CPU the addition is one instruction, which no program
// that counts there can be in the middle of; from another one it may cost what is
// counted at this moment. Nothing happens for a slot with another generation, or one
// that was freed.
func (t *Table) Add(cpu int, slot, generation uint32, now, had bpf.Counters) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holds(slot, generation) && cpu >= 0 && cpu < t.sizes.CPUs {
		t.a.add(cpu, slot, now, had)
	}
}

// AddDrops is Add for lost packets, by reason.
func (t *Table) AddDrops(slot, generation uint32, now, had [bpf.DropReasons]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holds(slot, generation) {
		t.addDrops(slot, now, had)
	}
}

// holds tells whether a slot has this SA, or had it and was not freed since.
func (t *Table) holds(slot, generation uint32) bool {
	return int(slot) < t.sizes.Slots && generation%2 == 1 && t.a.SAs[slot].Generation == generation
}

func (t *Table) addDrops(slot uint32, now, had [bpf.DropReasons]uint64) {
	for r := range now {
		if n := now[r] - had[r]; n > 0 {
			atomic.AddUint64(&t.a.DropCounts[int(slot)*len(now)+r], n)
		}
	}
}

// AddTotal adds to a total, in the row of the first CPU.
func (t *Table) AddTotal(total bpf.Total, n uint64) {
	if total < bpf.Totals {
		atomic.AddUint64(&t.a.Totals[total], n)
	}
}

// Carried is what Carry has taken over from a slot.
type Carried struct {
	rows  []bpf.Counters // by CPU
	drops [bpf.DropReasons]uint64
}

// Carry adds to one SA's counters what another's slot, which may have been removed,
// counted since the last call with the same was (nil: in all). A packet that one of
// the programs counts at this very moment under the heir may cost what a CPU's row
// carries: moves are rare, and counts are no accounts. Errors: the heir is not in use.
func (t *Table) Carry(from, to uint32, was *Carried) (*Carried, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.live(to); err != nil {
		return nil, err
	}
	if was == nil {
		was = &Carried{rows: make([]bpf.Counters, t.sizes.CPUs)}
	}
	for cpu := range t.sizes.CPUs {
		now := t.CountersOn(cpu, from)
		t.a.add(cpu, to, now, was.rows[cpu])
		was.rows[cpu] = now
	}
	drops := t.Drops(from)
	t.addDrops(to, drops, was.drops)
	was.drops = drops
	return was, nil
}
