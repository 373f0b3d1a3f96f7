package table

import (
	"errors"
	"fmt"
	"os"
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
	Counters   *ebpf.Map
	DropCounts *ebpf.Map
	Totals     *ebpf.Map
	Config     *ebpf.Map
}

// Arrays are the same as this process sees them. Tests make them without a kernel.
type Arrays struct {
	Index      []bpf.IndexBucket
	SAs        []bpf.Slot
	Counters   []bpf.Counters // CPU-major
	DropCounts []uint64       // slot-major
	Totals     []uint64       // CPU-major
	Config     *bpf.Config

	mapped [][]byte
}

// NewArrays makes arrays on the heap.
func NewArrays(s bpf.Sizes) *Arrays {
	n := s.MaxEntries()
	return &Arrays{
		Index: make([]bpf.IndexBucket, n["index"]), SAs: make([]bpf.Slot, n["sas"]), Counters: make([]bpf.Counters, n["counters"]),
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
	if a.Index, err = mapArray[bpf.IndexBucket](a, "index", m.Index, write); err != nil {
		return nil, err
	}
	if a.SAs, err = mapArray[bpf.Slot](a, "sas", m.SAs, write); err != nil {
		return nil, err
	}
	if a.Counters, err = mapArray[bpf.Counters](a, "counters", m.Counters, write); err != nil {
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
	for name, have := range map[string]int{
		"index": len(a.Index), "counters": len(a.Counters), "drop_counts": len(a.DropCounts), "totals": len(a.Totals),
	} {
		if have != int(n[name]) {
			return s, fmt.Errorf("map %s: expected %d elements for %d SPIs and %d CPUs, got %d", name, n[name], s.Slots, s.CPUs, have)
		}
	}
	return s, nil
}
