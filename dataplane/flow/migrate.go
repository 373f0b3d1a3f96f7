package flow

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// migration carries a table of another size over, with its counts. The programs
// of the former run count in the old maps until they are replaced, so it has two
// steps: fill before, add what came in between after. SAs may come and go meanwhile.
type migration struct {
	old  *table.Reader
	new  *table.Table
	arr  *counterArrays
	sas  []migrated
	done [bpf.Totals]uint64
}

// migrated is one SA in both tables, with what has been carried.
type migrated struct {
	from, to uint32
	gen      uint32         // of the new slot: another SA may have it before the end
	carried  []bpf.Counters // by CPU
	drops    [bpf.DropReasons]uint64
}

// counterArrays are the new maps' counters, to add to.
type counterArrays struct {
	counters []bpf.Counters
	drops    []uint64
	totals   []uint64
	slots    int
	cpus     int
	mapped   [][]byte
}

// startMigration fills the new table from the old one: its SAs, and their counts
// so far. Errors: the old table is of another layout; then its counts are lost.
func startMigration(former table.Maps, t *table.Table, to table.Maps) (*migration, error) {
	old, err := table.OpenReader(former)
	if err != nil {
		return nil, err
	}
	m := &migration{old: old, new: t}
	if m.arr, err = mapCounters(to, t.Sizes()); err != nil {
		_ = old.Close()
		return nil, err
	}
	for from, sa := range old.All() {
		slot, err := t.Insert(sa.Key, table.Attr{CPU: sa.Cpu, Flags: sa.Flags, Reqid: sa.Reqid, IfID: sa.IfId})
		if err != nil {
			continue // a smaller table: the keeper says that it is full
		}
		to, _ := t.Slot(slot)
		m.sas = append(m.sas, migrated{from: from, to: slot, gen: to.Generation, carried: make([]bpf.Counters, old.Sizes().CPUs)})
	}
	m.carry()
	return m, nil
}

// close lets go of both tables.
func (m *migration) close() error {
	err := m.arr.unmap()
	if e := m.old.Close(); err == nil {
		err = e
	}
	return err
}

// carry adds what the old table has more than was carried. The row of a CPU is
// added to on that CPU: an addition there is one instruction, which no program
// that counts on the same CPU can be in the middle of.
func (m *migration) carry() {
	m.sas = slices.DeleteFunc(m.sas, func(sa migrated) bool {
		to, ok := m.new.Slot(sa.to)
		return !ok || to.Generation != sa.gen
	})
	rows := min(m.old.Sizes().CPUs, m.arr.cpus)
	for cpu := range rows {
		onCPU(cpu, func() {
			for i := range m.sas {
				sa := &m.sas[i]
				now := m.old.CountersOn(cpu, sa.from)
				c, had := &m.arr.counters[cpu*m.arr.slots+int(sa.to)], &sa.carried[cpu]
				if now.Packets != had.Packets {
					atomic.AddUint64(&c.Packets, now.Packets-had.Packets)
					atomic.AddUint64(&c.Bytes, now.Bytes-had.Bytes)
					if now.LastUsed > atomic.LoadUint64(&c.LastUsed) {
						atomic.StoreUint64(&c.LastUsed, now.LastUsed)
					}
				}
				*had = now
			}
		})
	}
	for i := range m.sas {
		sa := &m.sas[i]
		now := m.old.Drops(sa.from)
		for r := range now {
			atomic.AddUint64(&m.arr.drops[int(sa.to)*len(now)+r], now[r]-sa.drops[r])
		}
		sa.drops = now
	}
	onCPU(0, func() {
		for n := range m.done {
			now := m.old.Total(bpf.Total(n))
			atomic.AddUint64(&m.arr.totals[n], now-m.done[n])
			m.done[n] = now
		}
	})
}

// onCPU runs f on a CPU; when that is not to be had, where it can: a CPU that is
// off counts nothing.
func onCPU(cpu int, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if unix.SchedGetaffinity(0, &before) == nil {
		one.Set(cpu)
		if unix.SchedSetaffinity(0, &one) == nil {
			defer func() { _ = unix.SchedSetaffinity(0, &before) }()
		}
	}
	f()
}

// mapCounters maps the counters for writing.
func mapCounters(m table.Maps, s bpf.Sizes) (_ *counterArrays, err error) {
	a := &counterArrays{slots: s.Slots, cpus: s.CPUs}
	defer func() {
		if err != nil {
			_ = a.unmap()
		}
	}()
	if a.counters, err = mapped[bpf.Counters](a, m.Counters); err != nil {
		return nil, err
	}
	if a.drops, err = mapped[uint64](a, m.DropCounts); err != nil {
		return nil, err
	}
	a.totals, err = mapped[uint64](a, m.Totals)
	return a, err
}

func mapped[T any](a *counterArrays, m *ebpf.Map) ([]T, error) {
	page := unix.Getpagesize()
	size := (int(m.MaxEntries())*int(m.ValueSize()) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map counters into memory: %w", err)
	}
	a.mapped = append(a.mapped, b)
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), m.MaxEntries()), nil
}

func (a *counterArrays) unmap() (err error) {
	for _, b := range a.mapped {
		if e := unix.Munmap(b); err == nil {
			err = e
		}
	}
	a.mapped = nil
	return err
}

// notInStep keeps the guard of the programs that read this configuration from
// dropping anything.
func notInStep(config *ebpf.Map) error {
	a := &counterArrays{}
	c, err := mapped[bpf.Config](a, config)
	if err != nil {
		return err
	}
	c[0].TailKnown = 0
	return a.unmap()
}
