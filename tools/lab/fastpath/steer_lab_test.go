//go:build lab

package fastpath

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/dataplane/flow/table"
	"espalier/tools/lab/topo"
)

// steering gives each SA's packets to a CPU.
type steering struct {
	table *table.Table
	slots []uint32
	cpus  *ebpf.Map
}

// steering takes over the table that a daemon has left which steers by slot: only one process may write it.
func (g *gateway) steering(sas []dataplane.SA) steering {
	g.Helper()
	pins := need[[]string](g)(filepath.Glob("/sys/fs/bpf/espalier/*/v1"))
	if len(pins) != 1 {
		g.Fatalf("expected the pinned maps of one daemon, got %q", pins)
	}
	pinned := func(name string) *ebpf.Map {
		m := need[*ebpf.Map](g)(ebpf.LoadPinnedMap(filepath.Join(pins[0], name), nil))
		g.Cleanup(func() { m.Close() })
		return m
	}
	s := steering{cpus: pinned("cpus"), table: need[*table.Table](g)(table.Open(table.Maps{Config: pinned("config"), Index: pinned("index"), SAs: pinned("sas"),
		DropCounts: pinned("drop_counts"), Totals: pinned("totals")}))}
	g.Cleanup(func() { s.table.Close() })
	for i := range sas {
		slot, ok := s.table.Lookup(bpf.MakeKey(bpf.DirIn, sas[i].Dst, sas[i].SPI))
		if !ok {
			g.Fatalf("%s is not in the table", sas[i].SAKey)
		}
		s.slots = append(s.slots, slot)
	}
	return s
}

// set gives the i-th SA's packets to the i-th CPU; -1: they stay.
func (s steering) set(t testing.TB, cpus ...int) {
	t.Helper()
	for i, cpu := range cpus {
		to := uint32(bpf.NoCPU)
		if cpu >= 0 {
			to = uint32(cpu)
		}
		must(t, s.table.SetCPU(s.slots[i], to))
	}
}

// dropAll makes the gateway drop every frame until what is returned is called.
func dropAll(t testing.TB, g *gateway) link.Link {
	t.Helper()
	return dropAt(t, g.n.GW1, "out0")
}

// dropAtWire has what the gateway sends end on the wire.
func dropAtWire(t testing.TB, n *topo.Net) {
	t.Helper()
	dropAt(t, n.Wire, "port1")
}

func dropAt(t testing.TB, h *topo.Host, device string) link.Link {
	t.Helper()
	never := need[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{Name: "drop", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}}))
	t.Cleanup(func() { never.Close() })
	return attachXDP(t, h, device, never)
}
