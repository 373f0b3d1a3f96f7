package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"

	"espalier/tools/lab/guest"
)

// Here runs jobs on this very machine.
type Here struct{}

// NewHere returns the runner that is no machine. It refuses to where somebody else's IPsec is at work.
func NewHere() (*Here, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("--here: expected to be root")
	}
	states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("--here: listing XFRM states: %w (has this kernel xfrm_user?)", err)
	}
	policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("--here: listing XFRM policies: %w", err)
	}
	if len(states)+len(policies) > 0 {
		return nil, fmt.Errorf("--here: expected no XFRM on this machine, found %d states and %d policies that belong to somebody else", len(states), len(policies))
	}
	return &Here{}, nil
}

// Describe implements Runner.
func (*Here) Describe() string { return "this very machine (asked for by --here)" }

// Run implements Runner.
func (*Here) Run(ctx context.Context, job *Job) (int, error) {
	ctx, cancel := limited(ctx, job.TimeLimit)
	defer cancel()
	status := guest.RunSteps(&guest.Spec{Env: job.Env, Steps: job.Steps}, job.Stdout, job.Stderr,
		func(step guest.Step, env []string, stdout, stderr io.Writer) (int, error) {
			cmd := exec.CommandContext(ctx, step.Argv[0], step.Argv[1:]...)
			cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = step.Dir, env, stdout, stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			err := cmd.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
					return 128 + int(ws.Signal()), nil
				}
				return exit.ExitCode(), nil
			}
			return 0, err
		}, job.StepEnded)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return status, nil
}
