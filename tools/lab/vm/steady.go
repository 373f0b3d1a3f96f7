package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// steady has a User-Mode Linux guest's CPUs be CPUs of this machine. By itself the host
// gives a guest's CPU, which is a thread, and the programs that it runs, which are
// processes that it waits for, any CPU it has at the moment, two of the guest's the
// same one at times, while an idle one is asleep and takes tens of microseconds to wake
// up: what the guest gets done in a second varies by three times then, from one second
// to the next.
//
// With it, each CPU of the guest keeps one of the host, user space of all of them
// the first one, and no CPU of the host sleeps: a loop of the least priority has what
// time is left.
type steady struct {
	cpus  int
	loops []*exec.Cmd
	stop  chan struct{}
	ended sync.WaitGroup
}

// placeEvery is how often new threads and processes of the guest are looked for.
const placeEvery = 20 * time.Millisecond

// newSteady has the host's CPUs stay awake.
func newSteady(cpus int) (*steady, error) {
	if have := runtime.NumCPU(); cpus > have {
		return nil, fmt.Errorf("%d CPUs that are CPUs of this machine: it has %d", cpus, have)
	}
	s := &steady{cpus: cpus, stop: make(chan struct{})}
	for cpu := range cpus {
		loop := exec.Command("/bin/sh", "-c", "while :; do :; done")
		loop.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := loop.Start(); err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.loops = append(s.loops, loop)
		idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
		if err := errors.Join(unix.SchedSetAttr(loop.Process.Pid, &idle, 0), bind(loop.Process.Pid, cpu)); err != nil {
			return nil, errors.Join(fmt.Errorf("keeping CPU %d awake: %w", cpu, err), s.close())
		}
	}
	return s, nil
}

// place goes on placing the guest's threads and processes until close.
func (s *steady) place(pid int) {
	s.ended.Go(func() {
		placed := map[int]bool{}
		for {
			for id, cpu := range s.wanted(pid) {
				if !placed[id] {
					placed[id] = bind(id, cpu) == nil // else it has ended, or is to be seen again
				}
			}
			select {
			case <-s.stop:
				return
			case <-time.After(placeEvery):
			}
		}
	})
}

// wanted says where the threads of the kernel, and the processes in which its programs
// run, are to be. The threads of its CPUs are its first ones; others wait for input.
func (s *steady) wanted(pid int) map[int]int {
	out := map[int]int{}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	var threads []int
	for _, task := range tasks {
		if id, err := strconv.Atoi(filepath.Base(task)); err == nil {
			threads = append(threads, id)
		}
		children, _ := os.ReadFile(filepath.Join(task, "children"))
		for _, child := range strings.Fields(string(children)) {
			if id, err := strconv.Atoi(child); err == nil {
				out[id] = 0
			}
		}
	}
	slices.Sort(threads)
	for cpu, id := range threads[:min(s.cpus, len(threads))] {
		out[id] = cpu
	}
	return out
}

// close ends what newSteady and place have begun.
func (s *steady) close() error {
	close(s.stop)
	s.ended.Wait()
	var errs []error
	for _, loop := range s.loops {
		errs = append(errs, loop.Process.Kill())
		_ = loop.Wait() // "signal: killed" is what we asked for
	}
	return errors.Join(errs...)
}

// bind has a thread run on one CPU.
func bind(id, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(id, &set)
}
