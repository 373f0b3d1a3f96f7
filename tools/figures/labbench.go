package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// labBench measures a Go benchmark with the build tag lab in a virtual machine
// with two CPUs: in $ESPALIER_LAB_UML where that is set, in QEMU otherwise.
type labBench struct {
	pkg   string // import path
	bench string // name
	count int    // how often; odd, for the median
	// steady has each CPU of the User-Mode Linux guest be one of this machine.
	steady bool
}

func (l *labBench) String() string {
	lab := "the lab"
	if l.steady {
		lab = "the steady lab"
	}
	return fmt.Sprintf("%s of %s in %s", l.bench, l.pkg, lab)
}

func (l *labBench) measure(ctx context.Context, progress io.Writer) (metrics, error) {
	const cpus = "2" // go test appends them to the names
	if l.steady && os.Getenv("ESPALIER_LAB_UML") == "" {
		return nil, errors.New("it needs User-Mode Linux, in $ESPALIER_LAB_UML: QEMU emulates the CPUs")
	}
	args := []string{"run", "./tools/lab", "test", "--cpus", cpus, "--time-limit", "30m", "--run", "^$"}
	if l.steady {
		args = append(args, "--steady")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, l.pkg, "--",
		"-test.bench="+(&goBench{bench: l.bench}).pattern(), "-test.benchtime=1x", "-test.count="+strconv.Itoa(l.count), "-test.cpu="+cpus)...)
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	cmd.Dir, cmd.Stderr = root, progress
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("go run ./tools/lab: %w", err)
	}
	m, readErr := readBench(io.TeeReader(out, progress), l.bench+"-"+cpus)
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	return m, readErr
}
