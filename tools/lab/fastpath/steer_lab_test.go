//go:build lab

package fastpath

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"espalier/dataplane"
	"espalier/tools/lab/topo"
)

// steering gives each SA's packets to a CPU.
type steering struct {
	cpus *ebpf.Map // by SPI's last byte: CPU, or noCPU
	mode *ebpf.Map
}

const noCPU = 1 << 31

// steer attaches an XDP program to the gateway's outside that gives ESP to the CPU of its SA: a program by hand, as small as it can be.
func steer(t testing.TB, n *topo.Net, sas []dataplane.SA) steering {
	t.Helper()
	array := func(name string, typ ebpf.MapType, size, entries uint32) *ebpf.Map {
		m := need[*ebpf.Map](t)(ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: typ, KeySize: 4, ValueSize: size, MaxEntries: entries}))
		t.Cleanup(func() { m.Close() })
		return m
	}
	s := steering{cpus: array("cpu_of", ebpf.Array, 4, 256), mode: array("mode", ebpf.Array, 4, 1)}
	cpumap := array("cpumap", ebpf.CPUMap, 4, 8)
	for cpu := range uint32(2) {
		must(t, cpumap.Put(cpu, uint32(8192)))
	}
	pass := func(name string) asm.Instructions {
		return asm.Instructions{asm.Mov.Imm(asm.R0, 2).WithSymbol(name), asm.Return()}
	}
	prog := asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapPtr(asm.R1, s.mode.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "drop"),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.Word), asm.LoadMem(asm.R8, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, 38), asm.JGT.Reg(asm.R1, asm.R8, "pass"),
		asm.LoadMem(asm.R1, asm.R7, 12, asm.Half), asm.JNE.Imm(asm.R1, 0x0008, "pass"), // IPv4
		asm.LoadMem(asm.R1, asm.R7, 23, asm.Byte), asm.JNE.Imm(asm.R1, 50, "pass"), // ESP
		asm.LoadMem(asm.R1, asm.R7, 37, asm.Byte), asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, s.cpus.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.Word),
		asm.JGT.Imm(asm.R2, 64, "pass"),
		asm.LoadMapPtr(asm.R1, cpumap.FD()), asm.Mov.Imm(asm.R3, 2), asm.FnRedirectMap.Call(), asm.Return(),
	}
	prog = append(prog, pass("pass")...)
	prog = append(prog, asm.Mov.Imm(asm.R0, 1).WithSymbol("drop"), asm.Return())
	p := need[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{Name: "steer", Type: ebpf.XDP, License: "GPL", Instructions: prog}))
	t.Cleanup(func() { p.Close() })
	attachXDP(t, n.GW1, "out0", p)
	return s
}

// set gives the i-th SA's packets to the i-th CPU; -1: they stay.
func (s steering) set(t testing.TB, cpus ...int) {
	t.Helper()
	for i, cpu := range cpus {
		v := uint32(noCPU)
		if cpu >= 0 {
			v = uint32(cpu)
		}
		must(t, s.cpus.Put(spiOf(i)&0xff, v))
	}
}

// drop makes the program drop everything.
func (s steering) drop(t testing.TB, on bool) {
	t.Helper()
	must(t, s.mode.Put(uint32(0), map[bool]uint32{true: 1}[on]))
}
