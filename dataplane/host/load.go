package host

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// CPUTime is how a CPU has spent its time since the box started.
type CPUTime struct {
	CPU       int
	Processes time.Duration // in programs, of whatever priority
	Kernel    time.Duration // in the kernel for them, and in its threads
	Interrupt time.Duration
	SoftIRQ   time.Duration // soft interrupts; of what is in no process where the kernel tells them apart
	Stolen    time.Duration // taken by the hypervisor
	Idle      time.Duration
}

// Total is all of it.
func (c CPUTime) Total() time.Duration {
	return c.Processes + c.Kernel + c.Interrupt + c.SoftIRQ + c.Stolen + c.Idle
}

// CPUTimes reads /proc/stat, to a hundredth of a second. CPUs that are offline may
// be missing.
func CPUTimes() ([]CPUTime, error) { return Local{}.cpuTimes() }

// userHZ is the unit of /proc/stat on every architecture that runs Go.
const userHZ = 100

func (l Local) cpuTimes() ([]CPUTime, error) {
	s, err := l.read("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("times of CPUs: %w", err)
	}
	var out []CPUTime
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		if len(fields) < 9 || !strings.HasPrefix(fields[0], "cpu") || fields[0] == "cpu" {
			continue
		}
		cpu, err := strconv.Atoi(fields[0][len("cpu"):])
		if err != nil {
			return nil, fmt.Errorf("times of CPUs: line %q: expected a CPU's number", line)
		}
		var v [8]time.Duration // user, nice, system, idle, iowait, irq, softirq, steal
		for i := range v {
			n, err := strconv.ParseUint(fields[1+i], 10, 63)
			if err != nil {
				return nil, fmt.Errorf("times of CPU %d: expected numbers, got %q", cpu, fields[1+i])
			}
			v[i] = time.Duration(n) * (time.Second / userHZ)
		}
		out = append(out, CPUTime{CPU: cpu, Processes: v[0] + v[1], Kernel: v[2], Idle: v[3] + v[4], Interrupt: v[5], SoftIRQ: v[6], Stolen: v[7]})
	}
	return out, nil
}

// Softnet is what a CPU's packet processing counted since the box started.
type Softnet struct {
	CPU       int
	Processed uint64
	Dropped   uint64 // packets that found the CPU's backlog full
	Squeezed  uint64 // times that it ended with packets left
}

// SoftnetStats reads /proc/net/softnet_stat.
func SoftnetStats() ([]Softnet, error) { return Local{}.softnet() }

func (l Local) softnet() ([]Softnet, error) {
	s, err := l.read("/proc/net/softnet_stat")
	if err != nil {
		return nil, fmt.Errorf("packet processing of CPUs: %w", err)
	}
	var out []Softnet
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		v := make([]uint64, len(fields))
		for i := range v {
			if v[i], err = strconv.ParseUint(fields[i], 16, 64); err != nil {
				return nil, fmt.Errorf("packet processing of CPUs: line %q: expected hexadecimal numbers", line)
			}
		}
		if len(v) < 3 {
			return nil, fmt.Errorf("packet processing of CPUs: line %q: expected at least 3 numbers", line)
		}
		n := Softnet{CPU: len(out), Processed: v[0], Dropped: v[1], Squeezed: v[2]}
		if len(v) > 12 {
			n.CPU = int(v[12]) // since Linux 5.10
		}
		out = append(out, n)
	}
	return out, nil
}
