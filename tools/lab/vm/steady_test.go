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
	runtime.LockOSThread() // the loops end with the thread that starts them
	defer runtime.UnlockOSThread()
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
	end := s.place(machine.Process.Pid)
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if cpus, programs := s.tasks(machine.Process.Pid); len(cpus) == 1 && len(programs) == 1 && on(t, append(cpus, programs...), s.cpus[0]) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if cpus, programs := s.tasks(machine.Process.Pid); len(cpus) != 1 || len(programs) != 1 || !on(t, append(cpus, programs...), s.cpus[0]) {
		t.Errorf("%v, %v; expected a process and its child, both on CPU %d", cpus, programs, s.cpus[0])
	}
	for i, loop := range s.loops {
		attr, err := unix.SchedGetAttr(loop.Process.Pid, 0)
		if err != nil || attr.Policy != unix.SCHED_IDLE || !on(t, []int{loop.Process.Pid}, s.cpus[i]) {
			t.Errorf("the loop of CPU %d: %+v, %v; expected SCHED_IDLE, on that CPU", s.cpus[i], attr, err)
		}
	}
	loops := s.loops
	end()
	// A shell has one thread, a guest of several CPUs several.
	if err := s.close(); (err == nil) != (len(s.cpus) == 1) {
		t.Errorf("%v; expected to be told that %d CPUs were wanted", err, len(s.cpus))
	}
	for _, loop := range loops {
		if err := syscall.Kill(loop.Process.Pid, 0); err == nil {
			t.Errorf("process %d is still there", loop.Process.Pid)
		}
	}
	s, err = newSteady(1)
	if err != nil {
		t.Fatal(err)
	}
	s.placed = true
	_ = syscall.Kill(s.loops[0].Process.Pid, syscall.SIGKILL)
	time.Sleep(50 * time.Millisecond)
	if err := s.close(); err == nil || !strings.Contains(err.Error(), "not kept awake") {
		t.Errorf("%v; expected to be told of a loop that had ended", err)
	}
	if s, err := newSteady(runtime.NumCPU() + 1); err == nil || !strings.Contains(err.Error(), "it has") {
		t.Errorf("%v, %v; expected an error, with one CPU more than there are", s, err)
	}
}

// on tells whether processes run on that one CPU.
func on(t *testing.T, ids []int, cpu int) bool {
	t.Helper()
	for _, id := range ids {
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
