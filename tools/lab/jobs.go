package main

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"espalier/tools/lab/vm"
)

// runJobs runs the job in several machines at once, whose guests claim its steps, and returns the first status that is not 0. Each step's output
// is printed as a whole, when the step has ended.
func runJobs(ctx context.Context, runner vm.Runner, job vm.Job, jobs int) (int, error) {
	if jobs == 1 {
		return runner.Run(ctx, &job)
	}
	var printing sync.Mutex
	statuses, errs := make([]int, jobs), make([]error, jobs)
	var all sync.WaitGroup
	for i := range jobs {
		all.Go(func() {
			own, held := job, &held{printing: &printing}
			own.Stdout, own.Stderr, own.StepEnded = held.of(os.Stdout), held.of(os.Stderr), held.print
			statuses[i], errs[i] = runner.Run(ctx, &own)
			held.print() // of a machine that died in a step
		})
	}
	all.Wait()
	for _, status := range statuses {
		if status != 0 {
			return status, errors.Join(errs...)
		}
	}
	return 0, errors.Join(errs...)
}

// held is output of one machine that waits to be printed. One goroutine, the one that reads what the machine says, writes and prints it.
type held struct {
	printing *sync.Mutex
	parts    []part
}

type part struct {
	to   io.Writer
	text []byte
}

// of is a writer whose text is held for to.
func (h *held) of(to io.Writer) io.Writer { return heldWriter{h, to} }

// print writes all that is held, in the order in which it came. What cannot be written is lost, as it would be without machines.
func (h *held) print() {
	h.printing.Lock()
	defer h.printing.Unlock()
	for _, p := range h.parts {
		_, _ = p.to.Write(p.text)
	}
	h.parts = nil
}

type heldWriter struct {
	held *held
	to   io.Writer
}

func (w heldWriter) Write(b []byte) (int, error) {
	w.held.parts = append(w.held.parts, part{w.to, append([]byte(nil), b...)})
	return len(b), nil
}
