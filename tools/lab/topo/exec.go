package topo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Do calls f on a thread that is in the host's namespace. Sockets that f opens and processes that it starts stay there; goroutines that it starts
// do not begin there.
func (h *Host) Do(f func() error) error {
	runtime.LockOSThread()
	back, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer back.Close()
	there, err := os.Open(h.path())
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("namespace %s: %w", h.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering namespace %s: %w", h.Name, err)
	}
	err = f()
	if e := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); e != nil {
		// The thread stays locked, so it dies with the goroutine instead of serving others in the wrong namespace.
		return errors.Join(err, fmt.Errorf("leaving namespace %s: %w", h.Name, e))
	}
	runtime.UnlockOSThread()
	return err
}

// Run runs a command in the namespace and returns its standard output. The error of a command that fails carries
// what it printed.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	return h.RunInput(ctx, "", argv...)
}

// RunInput is Run with text on the command's standard input.
func (h *Host) RunInput(ctx context.Context, input string, argv ...string) (string, error) {
	return h.run(ctx, nil, input, argv...)
}

func (h *Host) run(ctx context.Context, env []string, input string, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second // a child of the command that holds the pipes must not hold us
	if err := h.Do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %s: %w", h.Name, argv[0], err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return stdout.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(argv, " "), err,
			strings.TrimSpace(stdout.String()+stderr.String()))
	}
	return stdout.String(), nil
}

// Process is a command that runs in the background in a namespace, its output in a file.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // how, valid after that
}

// Start starts a command in the namespace, in the background. Net.Close stops it, if it still runs.
func (h *Host) Start(env []string, argv ...string) (*Process, error) {
	return h.start(env, nil, argv...)
}

// start is Start with files that the command finds as descriptors from 3 on.
func (h *Host) start(env []string, files []*os.File, argv ...string) (*Process, error) {
	out, err := os.CreateTemp(h.net.dir, h.Name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &Process{name: argv[0] + " in " + h.Name, cmd: exec.Command(argv[0], argv[1:]...), log: out.Name(), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = out, out, files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.Do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", h.Name, argv[0], err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.net.daemons = append(h.net.daemons, p)
	return p, nil
}

// Log is what the process has printed.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(p.PID(), s) }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.done }

// stopTime is how long a process may take to end when it is asked to.
const stopTime = 15 * time.Second

// Stop asks the process to end (SIGTERM) and kills it when it does not. It is an error when it had to be killed or ended with a
// status other than 0; one that the signal itself ended is none.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return nil // whoever waited for it knows how
	default:
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGTERM) // ESRCH: it ended just now
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s did not end within %s of a SIGTERM; it printed:\n%s", p.name, stopTime, p.Log())
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w; it printed:\n%s", p.name, p.err, p.Log())
	}
	return nil
}

// Kill ends the process without giving it time for anything (SIGKILL), as a crash does, and waits for it.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

func (p *Process) title() string { return p.name }
