// Package vm runs a job in a virtual machine that boots in seconds and leaves nothing behind: QEMU (with KVM or software emulation), a User-Mode Linux
// kernel, or, on demand, no machine at all.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"espalier/tools/lab/guest"
)

// Exit statuses of the lab's own, beside those of the command.
const (
	// StatusTimeout: no answer in time (as timeout(1) has it).
	StatusTimeout = 124
	// StatusFault: the machine could not be started or died.
	StatusFault = 125
	// StatusInterrupted: a signal ended the lab.
	StatusInterrupted = 130
)

// Job is what a machine is to run.
type Job struct {
	// Root is the directory that is the lower layer of the guest's root, of which QEMU has a disk (see MakeDisks). Nothing is written to it.
	Root string
	// Shares are directories that the guest sees read-write at the same path.
	Shares []string
	// Env is the environment of the steps, as KEY=VALUE.
	Env []string
	// Steps are the commands.
	Steps []guest.Step
	// CPUs and MemMiB size the machine.
	CPUs   int
	MemMiB int
	// TimeLimit bounds the whole run, boot included; 0 is none.
	TimeLimit time.Duration
	// Init is the guest's first process, a static binary (see package guestinit).
	Init string

	Stdout, Stderr io.Writer
	// StepEnded, unless nil, is called when all output of a step has been written.
	StepEnded func()
}

// Runner runs jobs in one kind of machine.
type Runner interface {
	// Describe says in one line what the machine is and why it was picked.
	Describe() string
	// Run runs the job and returns the exit status of its first failing step, or 0. It fails with ErrTimeout when the job's time
	// limit ran out, with the context's error when that ended, and otherwise when the machine itself failed; it has ended the machine in every case.
	Run(ctx context.Context, job *Job) (int, error)
}

// ErrTimeout means that the job did not answer within its time limit.
var ErrTimeout = errors.New("no answer in time")

// Status is the exit status that stands for the result of Runner.Run.
func Status(status int, err error) int {
	switch {
	case err == nil:
		return status
	case errors.Is(err, ErrTimeout):
		return StatusTimeout
	case errors.Is(err, context.Canceled):
		return StatusInterrupted
	}
	return StatusFault
}

// limited derives the context of one run, which ends with ErrTimeout as its cause when the time limit runs out.
func limited(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w (limit %s)", ErrTimeout, limit))
}
