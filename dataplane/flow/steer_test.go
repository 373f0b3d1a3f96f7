package flow

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/dataplane/host"
)

// queueThreads are the kernel's threads that work off the queues of CPUs, by the
// numbers of their processes.
func queueThreads() map[string]string {
	out := map[string]string{}
	comms, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is good
	for _, path := range comms {
		b, _ := os.ReadFile(path)
		if name := strings.TrimSpace(string(b)); strings.HasPrefix(name, "cpumap/") {
			out[filepath.Base(filepath.Dir(path))] = name
		}
	}
	return out
}

// TestQueuesStay: the queues of CPUs, in which packets may wait, are the same ones
// after the settings have changed and with the next run's programs.
func TestQueuesStay(t *testing.T) {
	pins := needKernel(t)
	cpus, err := host.OnlineCPUs()
	must(t, err)
	if len(cpus) < 2 {
		t.Skip("one CPU")
	}
	o := options(t, pins)
	o.objects, o.Steering = nil, SteerAuto
	others := queueThreads()
	f := open(t, o)
	first := map[string]string{}
	for pid, name := range queueThreads() {
		if others[pid] == "" {
			first[pid] = name
		}
	}
	if len(first) != len(cpus) {
		t.Skipf("%d threads for %d CPUs are to be seen", len(first), len(cpus))
	}
	same := func(when string) {
		t.Helper()
		now := queueThreads()
		for pid, name := range first {
			if now[pid] != name {
				t.Errorf("%s: thread %s, %s, is gone: %v", when, pid, name, now)
			}
		}
	}
	s := o.Settings
	s.MSS, s.Steering = false, SteerSlot
	f.Set(s)
	same("other settings")
	kill(t, f)
	f = open(t, o)
	same("the next run")
	if got := f.SteerCPUs(); len(got) != 0 {
		t.Errorf("without a program that steers, SAs can be moved to %v", got)
	}
	s.Steering = SteerOff
	f.Set(s)
	eventually(t, "no queues without steering", func() bool {
		left := 0
		for pid := range queueThreads() {
			if first[pid] != "" {
				left++
			}
		}
		return left == 0
	})
	must(t, f.Close())
}
