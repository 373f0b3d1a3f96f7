package table

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// Maps are the arrays of headers/layout.h, in the kernel. The table keeps none
// of them open: a mapping holds its array.
type Maps struct {
	Index      *ebpf.Map
	SAs        *ebpf.Map
	Counters   *ebpf.Map // of layout 1 only
	DropCounts *ebpf.Map
	Totals     *ebpf.Map
	Config     *ebpf.Map
}

// Arrays are the same as this process sees them. Tests make them without a kernel.
type Arrays struct {
	Index      []bpf.IndexBucket // CPU-major
	SAs        []bpf.Slot
	DropCounts []uint64 // slot-major
	Totals     []uint64 // CPU-major
	Config     *bpf.Config

	counters1 []bpf.Counters1 // CPU-major: of layout 1, where Index is nil
	mapped    [][]byte
}

// NewArrays makes arrays on the heap.
func NewArrays(s bpf.Sizes) *Arrays {
	n := s.MaxEntries()
	return &Arrays{
		Index: make([]bpf.IndexBucket, n["index"]), SAs: make([]bpf.Slot, n["sas"]),
		DropCounts: make([]uint64, n["drop_counts"]), Totals: make([]uint64, n["totals"]), Config: &bpf.Config{},
	}
}

// mapArrays maps the kernel's arrays into memory, for reading and, when write, for writing.
func mapArrays(m Maps, write bool) (a *Arrays, err error) {
	a = &Arrays{}
	defer func(a *Arrays) {
		if err != nil {
			err = errors.Join(err, a.unmap())
		}
	}(a)
	var config []bpf.Config
	if config, err = mapArray[bpf.Config](a, "config", m.Config, write); err != nil {
		return nil, err
	}
	a.Config = &config[0]
	if a.Config.Layout == 1 && !write {
		a.counters1, err = mapArray[bpf.Counters1](a, "counters", m.Counters, false)
	} else {
		a.Index, err = mapArray[bpf.IndexBucket](a, "index", m.Index, write)
	}
	if err != nil {
		return nil, err
	}
	if a.SAs, err = mapArray[bpf.Slot](a, "sas", m.SAs, write); err != nil {
		return nil, err
	}
	if a.DropCounts, err = mapArray[uint64](a, "drop_counts", m.DropCounts, write); err != nil {
		return nil, err
	}
	a.Totals, err = mapArray[uint64](a, "totals", m.Totals, write)
	return a, err
}

// mapArray maps one array, whose elements must have T's size.
func mapArray[T any](a *Arrays, name string, m *ebpf.Map, write bool) ([]T, error) {
	if m == nil {
		return nil, fmt.Errorf("map %s: missing", name)
	}
	var elem T
	if size := uint32(unsafe.Sizeof(elem)); m.Type() != ebpf.Array || m.ValueSize() != size || m.MaxEntries() == 0 {
		return nil, fmt.Errorf("map %s: expected an array with elements of %d bytes, got %s with %d", name, size, m.Type(), m.ValueSize())
	}
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	page := os.Getpagesize()
	length := (int(m.MaxEntries())*int(m.ValueSize()) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, length, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: mapping it into memory: %w", name, err)
	}
	a.mapped = append(a.mapped, b)
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), m.MaxEntries()), nil
}

// unmap gives the memory back; nothing of the arrays may be used any more.
func (a *Arrays) unmap() error {
	var errs []error
	for _, b := range a.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	*a = Arrays{}
	return errors.Join(errs...)
}

// sizes are what the arrays have room for, or what does not fit together.
func (a *Arrays) sizes() (bpf.Sizes, error) {
	s := bpf.Sizes{Slots: len(a.SAs), CPUs: len(a.Totals) / int(bpf.Totals)}
	if err := s.Check(); err != nil {
		return s, err
	}
	n := s.MaxEntries()
	have := map[string]int{"index": len(a.Index), "drop_counts": len(a.DropCounts), "totals": len(a.Totals)}
	if a.counters1 != nil {
		delete(have, "index")
		n["counters"], have["counters"] = uint32(s.Slots*s.CPUs), len(a.counters1)
	}
	for name, have := range have {
		if have != int(n[name]) {
			return s, fmt.Errorf("map %s: expected %d elements for %d SPIs and %d CPUs, got %d", name, n[name], s.Slots, s.CPUs, have)
		}
	}
	return s, nil
}

// entry is a CPU's entry of a place (sa_slot.place).
func (a *Arrays) entry(cpu int, place uint32) *bpf.IndexEntry {
	return &a.Index[uint32(cpu)*a.Config.Buckets+place/indexWays].Way[place%indexWays]
}

// counters are what one CPU counted of the SA in a slot.
func (a *Arrays) counters(cpu int, slot uint32) bpf.Counters {
	if a.counters1 != nil {
		c := &a.counters1[cpu*len(a.SAs)+int(slot)]
		return bpf.Counters{Packets: atomic.LoadUint64(&c.Packets), Bytes: atomic.LoadUint64(&c.Bytes), LastUsed: atomic.LoadUint64(&c.LastUsed)}
	}
	e := a.entry(cpu, atomic.LoadUint32(&a.SAs[slot].Place))
	return bpf.Counters{
		Packets: atomic.LoadUint64(&e.Packets), Bytes: atomic.LoadUint64(&e.Bytes),
		LastUsed: uint64(atomic.LoadUint32(&e.LastUsed)) << bpf.LastUsedShift,
	}
}

// later is the later one of two uses (Counters.LastUsed).
func later(a, b uint64) uint64 {
	x, y := uint32(a>>bpf.LastUsedShift), uint32(b>>bpf.LastUsedShift)
	if x == 0 || y != 0 && int32(y-x) > 0 {
		return b
	}
	return a
}
