package vm

import (
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSteady: a machine's process, and those that it starts later, get their CPUs, the host's
// CPUs have a loop each that gives way to all, and all of it ends.
func TestSteady(t *testing.T) {
	s, err := newSteady(runtime.NumCPU())
	if err != nil {
		t.Fatal(err)
	}
	machine := exec.Command("/bin/sh", "-c", "sleep 0.1; sleep 30 & echo $!; wait")
	machine.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := machine.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-machine.Process.Pid, syscall.SIGKILL)
		_ = machine.Wait()
	}()
	s.place(machine.Process.Pid)
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		wanted := s.wanted(machine.Process.Pid)
		if len(wanted) == 2 && on(t, wanted, 0) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if wanted := s.wanted(machine.Process.Pid); len(wanted) != 2 || !on(t, wanted, 0) {
		t.Errorf("%v; expected a process and its child, both on CPU 0", wanted)
	}
	for cpu, loop := range s.loops {
		attr, err := unix.SchedGetAttr(loop.Process.Pid, 0)
		if err != nil || attr.Policy != unix.SCHED_IDLE || !on(t, map[int]int{loop.Process.Pid: cpu}, cpu) {
			t.Errorf("the loop of CPU %d: %+v, %v; expected SCHED_IDLE, on that CPU", cpu, attr, err)
		}
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	for _, loop := range s.loops {
		if err := syscall.Kill(loop.Process.Pid, 0); err == nil {
			t.Errorf("process %d is still there", loop.Process.Pid)
		}
	}
	if s, err := newSteady(runtime.NumCPU() + 1); err == nil || !strings.Contains(err.Error(), "it has") {
		t.Errorf("%v, %v; expected an error, with one CPU more than there are", s, err)
	}
}

// on tells whether processes run on that one CPU.
func on(t *testing.T, ids map[int]int, cpu int) bool {
	t.Helper()
	for id := range ids {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(id, &set); err != nil {
			t.Error(err)
		}
		if set.Count() != 1 || !set.IsSet(cpu) {
			return false
		}
	}
	return true
}
