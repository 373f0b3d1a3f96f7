package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
// With it, each CPU of the guest keeps one of the host, the programs of all of them
// the first one, and no CPU of the host sleeps: a loop of the least priority has what
// time is left.
type steady struct {
	cpus   []int // of the host: one for each of the guest
	loops  []*exec.Cmd
	stop   chan struct{}
	once   sync.Once
	ended  sync.WaitGroup
	placed bool // all CPUs of the guest were
}

// placeEvery is how often new threads and processes of the guest are looked for.
const placeEvery = 20 * time.Millisecond

// newSteady has CPUs of the host stay awake. The calling thread must live until close.
func newSteady(cpus int) (*steady, error) {
	s := &steady{stop: make(chan struct{})}
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return nil, err
	}
	for cpu := 0; cpu < len(may)*64 && len(s.cpus) < cpus; cpu++ {
		if may.IsSet(cpu) {
			s.cpus = append(s.cpus, cpu)
		}
	}
	if len(s.cpus) < cpus {
		return nil, fmt.Errorf("%d CPUs that are CPUs of this machine: it has %d", cpus, len(s.cpus))
	}
	for _, cpu := range s.cpus {
		loop := exec.Command("/bin/sh", "-c", "while :; do :; done")
		loop.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := loop.Start(); err != nil {
			return nil, errors.Join(err, s.sleep())
		}
		s.loops = append(s.loops, loop)
		idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
		if err := errors.Join(unix.SchedSetAttr(loop.Process.Pid, &idle, 0), bind(loop.Process.Pid, cpu)); err != nil {
			return nil, errors.Join(fmt.Errorf("keeping CPU %d awake: %w", cpu, err), s.sleep())
		}
	}
	return s, nil
}

// place goes on placing the guest's threads and processes until the function that it
// returns is called.
func (s *steady) place(pid int) (end func()) {
	s.ended.Go(func() {
		done := map[int]bool{}
		for {
			now := map[int]bool{} // what has ended is forgotten: another one may get its number
			cpus, programs := s.tasks(pid)
			all := len(cpus) == len(s.cpus)
			for i, id := range cpus {
				now[id] = done[id] || bind(id, s.cpus[i]) == nil
				all = all && now[id]
			}
			for _, id := range programs {
				now[id] = done[id] || bind(id, s.cpus[0]) == nil
			}
			done, s.placed = now, s.placed || all
			select {
			case <-s.stop:
				return
			case <-time.After(placeEvery):
			}
		}
	})
	return s.end
}

// end ends what place has begun.
func (s *steady) end() {
	s.once.Do(func() { close(s.stop) })
	s.ended.Wait()
}

// tasks are the threads of the kernel that are the guest's CPUs, its first ones (others
// wait for input), and the processes in which its programs run.
func (s *steady) tasks(pid int) (cpus, programs []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	for _, task := range tasks {
		if id, err := strconv.Atoi(filepath.Base(task)); err == nil {
			cpus = append(cpus, id)
		}
		children, _ := os.ReadFile(filepath.Join(task, "children"))
		for _, child := range strings.Fields(string(children)) {
			if id, err := strconv.Atoi(child); err == nil {
				programs = append(programs, id)
			}
		}
	}
	slices.Sort(cpus)
	return cpus[:min(len(s.cpus), len(cpus))], programs
}

// sleep ends the loops. Errors: one had ended before.
func (s *steady) sleep() error {
	var errs []error
	for i, loop := range s.loops {
		if ended, _ := unix.Wait4(loop.Process.Pid, nil, unix.WNOHANG, nil); ended != 0 {
			errs = append(errs, fmt.Errorf("CPU %d was not kept awake: its loop had ended", s.cpus[i]))
			continue
		}
		_ = loop.Process.Kill()
		_ = loop.Wait() // "signal: killed" is what we asked for
	}
	s.loops = nil
	return errors.Join(errs...)
}

// close ends all. Errors: it was not steady.
func (s *steady) close() error {
	s.end()
	err := s.sleep()
	if !s.placed {
		err = errors.Join(err, errors.New("the guest's CPUs did not get CPUs of this machine"))
	}
	return err
}

// bind has a thread run on one CPU.
func bind(id, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(id, &set)
}
