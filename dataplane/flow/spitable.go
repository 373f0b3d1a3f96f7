package flow

import (
	"errors"
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
	cpus  []uint32 // CPUs that SAs are given in turn; empty: none
	turns int
}

// goneSlot waits for its last counts.
type goneSlot struct {
	slot uint32
	at   time.Time
}

// lastCount is how long a program may still count for an SA that it found just
// before the SA went.
const lastCount = 10 * time.Millisecond

func newSPITable(t *table.Table) *spiTable { return &spiTable{t: t} }

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
		return s.t.Update(slot, attr)
	}
	attr.CPU = s.cpuLocked(k, a)
	s.freeLocked()
	_, err := s.t.Insert(key, attr)
	if errors.Is(err, table.ErrFull) && len(s.gone) > 0 {
		time.Sleep(lastCount)
		s.freeLocked()
		_, err = s.t.Insert(key, attr)
	}
	return err
}

// cpuLocked is the CPU of a new SA: its own, or the next one's turn.
func (s *spiTable) cpuLocked(k Key, a Attrs) uint32 {
	switch {
	case k.Dir != dataplane.In || len(s.cpus) == 0:
		return bpf.NoCPU
	case a.PerCPU:
		return a.CPU
	}
	s.turns++
	return s.cpus[s.turns%len(s.cpus)]
}

// Remove implements Table.
func (s *spiTable) Remove(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freeLocked()
	if slot, ok := s.t.Remove(tableKey(k)); ok {
		s.gone = append(s.gone, goneSlot{slot, time.Now()})
	}
}

// freeLocked gives slots back that nobody counts in any more.
func (s *spiTable) freeLocked() {
	n := 0
	for ; n < len(s.gone) && time.Since(s.gone[n].at) >= lastCount; n++ {
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
	s.cpus = cpus
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
