package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"

	"espalier/tools/lab/guest"
)

// runStep runs one step as a child of the first process. It waits for any child, since orphans become children of the first process and
// would stay zombies; that is why it does not use os/exec's Wait. When the step ends, whatever it left running is killed.
func runStep(step guest.Step, env []string, stdout, stderr io.Writer) (int, error) {
	path, err := exec.LookPath(step.Argv[0])
	if err != nil {
		return 0, err
	}
	if step.Claim != "" {
		if err := os.Mkdir(step.Claim, 0o755); errors.Is(err, os.ErrExist) {
			return 0, guest.ErrTaken
		} else if err != nil {
			return 0, fmt.Errorf("claiming the step: %w", err)
		}
		if path, err = guest.Near(path); err != nil { // the program of several steps
			return 0, err
		}
	}
	var copies sync.WaitGroup
	files := make([]*os.File, 3)
	if files[0], err = os.Open(os.DevNull); err != nil {
		return 0, err
	}
	for i, w := range []io.Writer{stdout, stderr} {
		r, child, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		files[i+1] = child
		copies.Go(func() {
			_, _ = io.Copy(w, r) // a host that no longer listens ends the guest anyway
			r.Close()
		})
	}
	p, err := os.StartProcess(path, step.Argv, &os.ProcAttr{Dir: step.Dir, Env: env, Files: files})
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return 0, err
	}
	status, err := waitFor(p.Pid)
	_ = unix.Kill(-1, unix.SIGKILL) // everybody but this process; ESRCH when nobody is left
	reap()
	copies.Wait()
	return status, err
}

// waitFor reaps children until the given one has ended and returns its exit status.
func waitFor(pid int) (int, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("waiting for the command: %w", err)
		case got == pid && ws.Exited():
			return ws.ExitStatus(), nil
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
	}
}

// reap waits until no child is left.
func reap() {
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(-1, &ws, 0, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}
