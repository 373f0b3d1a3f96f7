package flow

import (
	"fmt"
	"runtime"
	"slices"
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

// startMigration fills the new table from the old one: its SAs, and their counts
// so far. Errors: the old table is of a layout before the last one; then its counts
// are lost.
func startMigration(former table.Maps, t *table.Table) (*migration, error) {
	old, err := table.OpenFormer(former)
	if err != nil {
		return nil, err
	}
	m := &migration{old: old, new: t}
	for from, sa := range old.All() {
		if sa.Key.Dir == bpf.DirFlow {
			continue // after the SAs, if there is room
		}
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

// close lets go of the old table.
func (m *migration) close() error { return m.old.Close() }

// carry adds what the old table has more than was carried. The row of a CPU is
// added to on that CPU: an addition there is one instruction, which no program
// that counts on the same CPU can be in the middle of.
func (m *migration) carry() {
	m.sas = slices.DeleteFunc(m.sas, func(sa migrated) bool {
		to, ok := m.new.Slot(sa.to)
		return !ok || to.Generation != sa.gen
	})
	rows := min(m.old.Sizes().CPUs, m.new.Sizes().CPUs)
	for cpu := range rows {
		onCPU(cpu, func() {
			for i := range m.sas {
				sa := &m.sas[i]
				now := m.old.CountersOn(cpu, sa.from)
				m.new.Add(cpu, sa.to, sa.gen, now, sa.carried[cpu])
				sa.carried[cpu] = now
			}
		})
	}
	for i := range m.sas {
		sa := &m.sas[i]
		now := m.old.Drops(sa.from)
		m.new.AddDrops(sa.to, sa.gen, now, sa.drops)
		sa.drops = now
	}
	onCPU(0, func() {
		for n := range m.done {
			now := m.old.Total(bpf.Total(n))
			m.new.AddTotal(bpf.Total(n), now-m.done[n])
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

// editConfig changes the programs' configuration in a map, of whatever layout.
func editConfig(m *ebpf.Map, edit func(*bpf.Config)) error {
	b, err := unix.Mmap(m.FD(), 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the configuration into memory: %w", err)
	}
	edit((*bpf.Config)(unsafe.Pointer(&b[0])))
	return unix.Munmap(b)
}

// notInStep keeps the guard of the programs that read this configuration from
// dropping anything.
func notInStep(config *ebpf.Map) error {
	return editConfig(config, func(c *bpf.Config) { c.TailKnown = 0 })
}
