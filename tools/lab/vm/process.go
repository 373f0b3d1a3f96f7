package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"espalier/tools/lab/guest"
)

// process is a machine that runs as a process group of the host and answers in frames.
type process struct {
	cmd    *exec.Cmd
	answer *os.File // frames come out here
	log    string   // the guest kernel's console, shown when the machine dies
	// started, unless nil, is told the machine's process, and what it returns is called before that is waited for.
	started func(pid int) (end func())
}

// run starts the machine, passes its output on and ends it, whatever happens.
func (p *process) run(ctx context.Context, job *Job) (int, error) {
	ctx, cancel := limited(ctx, job.TimeLimit)
	defer cancel()
	// Pdeathsig belongs to the thread that starts the child, so that thread must live as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err := p.cmd.Start()
	for _, f := range p.cmd.ExtraFiles {
		f.Close() // the child has its own
	}
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", p.cmd.Path, err)
	}
	defer p.kill()
	if p.started != nil {
		defer p.started(p.cmd.Process.Pid)()
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ctx.Done():
			p.answer.Close() // ends the read below
		case <-ended:
		}
	}()
	status, err := guest.Copy(p.answer, job.Stdout, job.Stderr, job.StepEnded)
	if errors.Is(ctx.Err(), context.Canceled) {
		return 0, context.Cause(ctx)
	}
	if ctx.Err() != nil {
		return 0, fmt.Errorf("%w%s", context.Cause(ctx), p.lastWords())
	}
	if errors.Is(err, guest.ErrNoExit) {
		return 0, fmt.Errorf("%w%s", err, p.lastWords())
	}
	return status, err
}

// kill ends the process group and waits for its leader.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // ESRCH when it has ended by itself
	_ = p.cmd.Wait()                                      // "signal: killed" is what we asked for
	p.answer.Close()
}

// lastWords is the end of the guest kernel's console, to be appended to an error.
func (p *process) lastWords() string {
	const lines = 20
	b, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	all := slices.DeleteFunc(strings.Split(string(b), "\n"), func(line string) bool {
		// User-Mode Linux looks for a disk that we do not give it.
		return strings.TrimSpace(line) == "" || strings.Contains(line, "Failed to initialize ubd device")
	})
	if len(all) == 0 {
		return ""
	}
	return "; the guest kernel's last words:\n  " + strings.Join(all[max(0, len(all)-lines):], "\n  ")
}
