package flow

import (
	"errors"
	"slices"
	"sync"
	"time"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/dataplane/flow/table"
)

// spiTable is the programs' table of SPIs as its keeper wants it.
type spiTable struct {
	t *table.Table

	mu    sync.Mutex
	gone  []goneSlot
	cpus  []uint32 // CPUs that SAs may be steered to; empty: none
	turn  bool     // they are given to SAs in turn
	turns int
	fixed map[uint32]bool // slots of SAs that are one CPU's by negotiation
}

// goneSlot waits for its last counts.
type goneSlot struct {
	slot uint32
	at   time.Time
	heir *heir // nil: its SA has ended
}

// heir is the slot that a moved SA has now.
type heir struct {
	slot, generation uint32
	carried          *table.Carried
}

// lastCount is how long a program may still count for an SA that it found just
// before the SA went.
const lastCount = 10 * time.Millisecond

func newSPITable(t *table.Table) *spiTable {
	return &spiTable{t: t, fixed: map[uint32]bool{}}
}

func tableKey(k Key) bpf.Key {
	dir := uint8(bpf.DirIn)
	if k.Dir == dataplane.Out {
		dir = bpf.DirOut
	}
	return bpf.MakeKey(dir, k.Dst, k.SPI)
}

func keyFrom(k *bpf.Key) Key {
	dir := dataplane.In
	if k.Dir == bpf.DirOut {
		dir = dataplane.Out
	}
	return Key{dir, bpf.KeyAddr(k), bpf.KeySPI(k)}
}

func attrsFrom(s *bpf.Slot) Attrs {
	return Attrs{Own: s.Flags&bpf.FlagOwn != 0, Reserved: s.Flags&bpf.FlagReserved != 0, ReqID: s.Reqid, IfID: s.IfId}
}

// Insert implements Table.
func (s *spiTable) Insert(k Key, a Attrs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	attr := table.Attr{CPU: bpf.NoCPU, Reqid: a.ReqID, IfID: a.IfID}
	if a.Own {
		attr.Flags |= bpf.FlagOwn
	}
	if a.Reserved {
		attr.Flags |= bpf.FlagReserved
	}
	key := tableKey(k)
	if slot, had := s.t.Lookup(key); had {
		old, _ := s.t.Slot(slot)
		if attr.CPU = old.Cpu; a.PerCPU && k.Dir == dataplane.In && len(s.cpus) > 0 {
			attr.CPU = a.CPU
		}
		s.fixLocked(slot, a)
		return s.t.Update(slot, attr)
	}
	attr.CPU = s.cpuLocked(k, a)
	slot, err := s.insertLocked(key, attr)
	if errors.Is(err, table.ErrFull) && s.yieldLocked() {
		slot, err = s.insertLocked(key, attr)
	}
	if err == nil {
		s.fixLocked(slot, a)
	}
	return err
}

// insertLocked takes a key that is not there in.
func (s *spiTable) insertLocked(key bpf.Key, attr table.Attr) (slot uint32, err error) {
	s.freeLocked()
	slot, err = s.t.Insert(key, attr)
	if errors.Is(err, table.ErrFull) && len(s.gone) > 0 {
		time.Sleep(lastCount)
		s.freeLocked()
		slot, err = s.t.Insert(key, attr)
	}
	return slot, err
}

func (s *spiTable) fixLocked(slot uint32, a Attrs) {
	delete(s.fixed, slot)
	if a.PerCPU {
		s.fixed[slot] = true
	}
}

// isFixed reports whether a slot's SA is one CPU's.
func (s *spiTable) isFixed(slot uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fixed[slot]
}

// cpuLocked is the CPU of a new SA: its own, or the next one's turn.
func (s *spiTable) cpuLocked(k Key, a Attrs) uint32 {
	switch {
	case k.Dir != dataplane.In || len(s.cpus) == 0:
		return bpf.NoCPU
	case a.PerCPU:
		return a.CPU
	case !s.turn:
		return bpf.NoCPU
	}
	s.turns++
	return s.cpus[s.turns%len(s.cpus)]
}

// Remove implements Table.
func (s *spiTable) Remove(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(tableKey(k))
}

func (s *spiTable) removeLocked(key bpf.Key) {
	s.freeLocked()
	if slot, ok := s.t.Remove(key); ok {
		delete(s.fixed, slot)
		s.gone = append(s.gone, goneSlot{slot, time.Now(), nil})
	}
}

// Move implements Table.
func (s *spiTable) Move(from, to Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freeLocked()
	slot, ok := s.t.Lookup(tableKey(to))
	if !ok {
		return
	}
	sa, _ := s.t.Slot(slot)
	old, ok := s.t.Remove(tableKey(from))
	if !ok {
		return
	}
	delete(s.fixed, old)
	h := &heir{slot: slot, generation: sa.Generation}
	s.carryLocked(old, h)
	s.gone = append(s.gone, goneSlot{old, time.Now(), h})
}

// carryLocked gives the heir what the old slot counted since the last call.
func (s *spiTable) carryLocked(old uint32, h *heir) {
	if sa, ok := s.t.Slot(h.slot); !ok || sa.Generation != h.generation {
		return // it has gone as well
	}
	if c, err := s.t.Carry(old, h.slot, h.carried); err == nil {
		h.carried = c
	}
}

// freeLocked gives slots back that nobody counts in any more.
func (s *spiTable) freeLocked() {
	n := 0
	for ; n < len(s.gone) && time.Since(s.gone[n].at) >= lastCount; n++ {
		if h := s.gone[n].heir; h != nil {
			s.carryLocked(s.gone[n].slot, h)
		}
		_ = s.t.Free(s.gone[n].slot) // fails only for a slot that was not removed
	}
	s.gone = s.gone[n:]
}

// InStep implements Table.
func (s *spiTable) InStep(is bool) { s.t.Programs().TailKnown = boolByte(is) }

// pin gives the inbound SAs that have none a CPU in turn, from now on new ones,
// too; without CPUs it takes them all back.
func (s *spiTable) pin(cpus []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cpus, s.turn = cpus, len(cpus) > 0
	for slot, sa := range s.t.All() {
		if sa.Key.Dir != bpf.DirIn {
			continue
		}
		switch {
		case len(cpus) == 0 && sa.Cpu != bpf.NoCPU:
			_ = s.t.SetCPU(slot, bpf.NoCPU) // gone meanwhile: fine
		case len(cpus) > 0 && sa.Cpu == bpf.NoCPU:
			s.turns++
			_ = s.t.SetCPU(slot, cpus[s.turns%len(cpus)])
		}
	}
}

// group has the table know groups of clear connections, which stay where they arrive
// until they are shifted, or not; false: there is no room for all of them.
func (s *spiTable) group(want bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groupLocked(want)
}

// yieldLocked gives the groups' room to SAs; false: there are none.
func (s *spiTable) yieldLocked() bool {
	if _, there := s.t.Lookup(bpf.FlowKey(0)); !there {
		return false
	}
	s.t.Programs().FlowSteer = uint32(bpf.FlowStay)
	return s.groupLocked(false)
}

func (s *spiTable) groupLocked(want bool) bool {
	for n := range bpf.FlowGroups {
		key := bpf.FlowKey(n)
		switch _, there := s.t.Lookup(key); {
		case want && !there:
			if _, err := s.insertLocked(key, table.Attr{CPU: bpf.NoCPU}); err != nil {
				return false
			}
		case !want && there:
			s.removeLocked(key)
		}
	}
	return true
}

// sas is how many SAs the table has.
func (s *spiTable) sas() int {
	n := s.t.Used()
	for g := range bpf.FlowGroups {
		if _, there := s.t.Lookup(bpf.FlowKey(g)); there {
			n--
		}
	}
	return n
}

// leave leaves SAs on the CPUs that they have, and new ones where they arrive,
// until they are shifted to one of these.
func (s *spiTable) leave(cpus []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cpus, s.turn = cpus, false
	for slot, sa := range s.t.All() {
		if sa.Key.Dir != bpf.DirOut && sa.Cpu != bpf.NoCPU && !slices.Contains(cpus, sa.Cpu) {
			_ = s.t.SetCPU(slot, bpf.NoCPU) // gone meanwhile: fine
		}
	}
}

// steered are the CPUs that SAs may be shifted to.
func (s *spiTable) steered() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cpus
}
