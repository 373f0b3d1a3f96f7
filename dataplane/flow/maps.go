package flow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// maps are those that programs and user space share, by name, pinned.
type maps struct {
	dir  string
	byID map[string]*ebpf.Map
}

func (m *maps) close() {
	for _, x := range m.byID {
		x.Close()
	}
}

func (m *maps) table() table.Maps {
	return table.Maps{
		Index: m.byID["index"], SAs: m.byID["sas"], Counters: m.byID[countersOf1],
		DropCounts: m.byID["drop_counts"], Totals: m.byID["totals"], Config: m.byID["config"],
	}
}

// tableMaps are those that make one table: of one size, or useless.
var tableMaps = []string{"config", "index", "sas", "drop_counts", "totals"}

// countersOf1 is a map of layout 1 that later ones have not.
const countersOf1 = "counters"

// isTable reports whether the map is one of the table's.
func isTable(name string) bool { return slices.Contains(tableMaps, name) }

// openMaps opens the pinned maps that fit what the programs want, and makes the
// others. When the table is of another size or layout, all of it is made anew,
// unpinned, and the former one is the second answer.
func openMaps(dir string, want map[string]*ebpf.MapSpec) (now, former *maps, err error) {
	now, former = &maps{dir, map[string]*ebpf.Map{}}, &maps{dir, map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			now.close()
			former.close()
			now, former = nil, nil
		}
	}()
	fits := true
	for name, spec := range want {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			fits = fits && !isTable(name)
			continue
		}
		if err != nil {
			return now, former, fmt.Errorf("pinned map %s: %w", name, err)
		}
		if spec.Compatible(m) == nil {
			now.byID[name] = m
			continue
		}
		fits = fits && !isTable(name)
		former.byID[name] = m
	}
	if !fits {
		for _, name := range tableMaps {
			if m := now.byID[name]; m != nil {
				former.byID[name] = m
				delete(now.byID, name)
			}
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, countersOf1), nil)
		switch {
		case err == nil:
			former.byID[countersOf1] = m
		case !errors.Is(err, os.ErrNotExist):
			return now, former, fmt.Errorf("pinned map %s: %w", countersOf1, err)
		}
	}
	for name, spec := range want {
		if now.byID[name] != nil {
			continue
		}
		spec = spec.Copy()
		spec.Pinning = ebpf.PinNone
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return now, former, fmt.Errorf("map %s with %d entries: %w", name, spec.MaxEntries, err)
		}
		now.byID[name] = m
	}
	if len(former.byID) == 0 {
		former = nil
	}
	return now, former, nil
}

// pin puts the maps where a later run and readers find them, in the place of the
// former ones.
func (m *maps) pin() error {
	for name, x := range m.byID {
		if x.IsPinned() {
			continue
		}
		path := filepath.Join(m.dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		if err := x.Pin(path); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	if err := os.Remove(filepath.Join(m.dir, countersOf1)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pinned map of a former layout: %w", err)
	}
	return nil
}

// sizesFor are the sizes of the maps.
func sizesFor(spis int) (bpf.Sizes, error) {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return bpf.Sizes{}, fmt.Errorf("possible CPUs: %w", err)
	}
	return bpf.Sizes{Slots: spis, CPUs: n}, nil
}

// memory is what the maps take, in bytes, by the kernel's word.
func (m *maps) memory() (sum uint64) {
	for _, x := range m.byID {
		if info, err := x.Info(); err == nil {
			if n, ok := info.Memlock(); ok {
				sum += n
			}
		}
	}
	return sum
}

// id is the kernel's number of a map; 0 when there is none.
func (m *maps) id(name string) uint32 {
	x := m.byID[name]
	if x == nil {
		return 0
	}
	info, err := x.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID() // every kernel that has CPUMAPs tells it
	return uint32(id)
}
