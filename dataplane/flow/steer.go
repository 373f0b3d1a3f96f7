package flow

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"espalier/bpf"
	"espalier/dataplane/host"
)

// cpuQueue is how many packets wait for a CPU that they are steered to.
const cpuQueue = 2048

// steer sets how inbound packets get their CPU; the caller has f.work.
func (f *Flow) steer(mode Steering) {
	c := f.tab.Programs()
	if mode == SteerOff {
		c.Steer, c.FlowSteer = uint32(bpf.SteerOff), uint32(bpf.FlowStay)
		f.spis.pin(nil)
		f.spis.group(false)
		f.dropCPUs()
		return
	}
	cpus, err := host.OnlineCPUs()
	if mode == SteerAuto && len(cpus) == 1 {
		f.steer(SteerOff) // there is nowhere else to go
		return
	}
	if err == nil {
		cpus, err = f.wakeCPUs(cpus)
	}
	if err != nil || len(cpus) == 0 {
		f.log.Error().Err(err).Msg("packets are not steered")
		c.Steer, c.FlowSteer = uint32(bpf.SteerOff), uint32(bpf.FlowStay)
		return
	}
	n := min(len(cpus), len(c.SteerList))
	copy(c.SteerList[:], cpus[:n])
	c.SteerCpus = uint32(n)
	flows := mode.flows()
	if flows == bpf.FlowGroup && !f.spis.group(true) {
		f.log.Warn().Int("groups", bpf.FlowGroups).Msg("clear packets are not steered: the table of SPIs has no room for groups of them (espalier.max_spis)")
		flows = bpf.FlowStay
	}
	c.FlowSteer = uint32(flows)
	if flows != bpf.FlowGroup {
		f.spis.group(false)
	}
	switch mode {
	case SteerHash:
		c.Steer = uint32(bpf.SteerHash)
		f.spis.pin(nil)
		return
	case SteerAuto:
		f.spis.leave(cpus[:n])
	default:
		f.spis.pin(cpus[:n])
	}
	c.Steer = uint32(bpf.SteerSlot)
}

// wakeCPUs gives each CPU a queue and the program that runs there, and returns
// those that have one. A queue that is right stays: a new one would be worked off
// beside the old one, and packets that wait there be overtaken.
func (f *Flow) wakeCPUs(cpus []uint32) ([]uint32, error) {
	m := f.maps.byID["cpus"]
	if m == nil {
		return nil, fmt.Errorf("no map of CPUs: the programs that steer are not loaded")
	}
	e := bpf.CPUMapValue{Queue: cpuQueue}
	f.need(func(name string, _ *ebpf.ProgramSpec) bool { return name == progCPUIn })
	p := f.progs.loaded[progCPUIn]
	if p != nil {
		e.Program = uint32(p.FD())
	}
	var out []uint32
	var last error
	for _, cpu := range cpus {
		if !awake(m, cpu, p) {
			if err := m.Update(cpu, e, ebpf.UpdateAny); err != nil {
				last = fmt.Errorf("queue of CPU %d: %w", cpu, err)
				continue
			}
		}
		out = append(out, cpu)
	}
	return out, last
}

// awake tells whether a CPU has such a queue, with that program, or one of a former
// run that does the same; p is nil: with none.
func awake(m *ebpf.Map, cpu uint32, p *ebpf.Program) bool {
	var now bpf.CPUMapValue // with the program's id in place of a descriptor
	if m.Lookup(cpu, &now) != nil || now.Queue != cpuQueue || (now.Program == 0) != (p == nil) {
		return false
	}
	return p == nil || sameProgram(ebpf.ProgramID(now.Program), p)
}

// sameProgram tells whether a loaded program is p, or has its instructions and maps.
func sameProgram(id ebpf.ProgramID, p *ebpf.Program) bool {
	own, err := p.Info()
	if err != nil {
		return false
	}
	if ownID, ok := own.ID(); ok && ownID == id {
		return true
	}
	other, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false // it may not be looked at
	}
	defer other.Close()
	info, err := other.Info()
	if err != nil || info.Tag != own.Tag {
		return false
	}
	maps, ok := info.MapIDs()
	ownMaps, ownOK := own.MapIDs()
	slices.Sort(maps)
	slices.Sort(ownMaps)
	return ok && ownOK && slices.Equal(maps, ownMaps)
}

func (f *Flow) dropCPUs() {
	m := f.maps.byID["cpus"]
	if m == nil {
		return
	}
	for cpu := range m.MaxEntries() {
		_ = m.Delete(cpu) // not there: fine
	}
}
