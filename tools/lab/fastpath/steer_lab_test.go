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
)

// steering gives each SA's packets to a CPU, in the daemon's own table, as the tuner does.
type steering struct {
	sas   *ebpf.Map
	slots []uint32
}

// steering opens the table of a gateway that steers by slot.
func (g *gateway) steering(sas []dataplane.SA) steering {
	g.Helper()
	pins := need[[]string](g)(filepath.Glob("/sys/fs/bpf/espalier/*/v1/sas"))
	if len(pins) != 1 {
		g.Fatalf("expected the pinned table of one daemon, got %q", pins)
	}
	s := steering{sas: need[*ebpf.Map](g)(ebpf.LoadPinnedMap(pins[0], nil))}
	g.Cleanup(func() { s.sas.Close() })
	have := g.entries()
	for i := range sas {
		s.slots = append(s.slots, have[entryOf(&sas[i])].Slot)
	}
	return s
}

// set gives the i-th SA's packets to the i-th CPU; -1: they stay.
func (s steering) set(t testing.TB, cpus ...int) {
	t.Helper()
	for i, cpu := range cpus {
		var slot bpf.Slot
		must(t, s.sas.Lookup(s.slots[i], &slot))
		slot.Cpu = bpf.NoCPU
		if cpu >= 0 {
			slot.Cpu = uint32(cpu)
		}
		must(t, s.sas.Put(s.slots[i], slot))
	}
}

// dropAll makes the gateway drop every frame until what is returned is called.
func dropAll(t testing.TB, g *gateway) link.Link {
	t.Helper()
	never := need[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{Name: "drop", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}}))
	t.Cleanup(func() { never.Close() })
	return attachXDP(t, g.n.GW1, "out0", never)
}
