package flow

import (
	"fmt"

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
		c.Steer, c.FlowSteer = uint32(bpf.SteerOff), 0
		f.spis.pin(nil)
		f.dropCPUs()
		return
	}
	cpus, err := host.OnlineCPUs()
	if err == nil {
		cpus, err = f.wakeCPUs(cpus)
	}
	if err != nil || len(cpus) == 0 {
		f.log.Error().Err(err).Msg("packets are not steered")
		c.Steer, c.FlowSteer = uint32(bpf.SteerOff), 0
		return
	}
	n := min(len(cpus), len(c.SteerList))
	copy(c.SteerList[:], cpus[:n])
	c.SteerCpus = uint32(n)
	c.FlowSteer = 0
	if mode.flows() {
		c.FlowSteer = 1
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
// those that have one.
func (f *Flow) wakeCPUs(cpus []uint32) ([]uint32, error) {
	m := f.maps.byID["cpus"]
	if m == nil {
		return nil, fmt.Errorf("no map of CPUs: the programs that steer are not loaded")
	}
	e := bpf.CPUMapValue{Queue: cpuQueue}
	f.need(func(name string, _ *ebpf.ProgramSpec) bool { return name == progCPUIn })
	if p := f.progs.loaded[progCPUIn]; p != nil {
		e.Program = uint32(p.FD())
	}
	var out []uint32
	var last error
	for _, cpu := range cpus {
		if err := m.Update(cpu, e, ebpf.UpdateAny); err != nil {
			last = fmt.Errorf("queue of CPU %d: %w", cpu, err)
			continue
		}
		out = append(out, cpu)
	}
	return out, last
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
