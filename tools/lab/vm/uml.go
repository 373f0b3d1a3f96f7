package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/tools/lab/guest"
)

// UML runs jobs in a Linux kernel that was built as a user program. It needs no privilege of the processor, boots in a second, and runs user-space
// code at native speed; it has no BPF JIT, no AES-NI and no modules.
type UML struct {
	// Kernel is the executable.
	Kernel string
	// Why says why this runner was picked.
	Why string
	// Steady has each of the guest's CPUs be one of this machine, that is awake: for measuring.
	Steady bool
}

// Describe implements Runner.
func (u *UML) Describe() string {
	steady := ""
	if u.Steady {
		steady = ", steady"
	}
	return fmt.Sprintf("User-Mode Linux %s (%s%s)", filepath.Base(u.Kernel), u.Why, steady)
}

// Run implements Runner.
func (u *UML) Run(ctx context.Context, job *Job) (int, error) {
	var st *steady
	if u.Steady {
		// The loops end with the thread that starts them.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var err error
		if st, err = newSteady(job.CPUs); err != nil {
			return 0, err
		}
		defer func() { _ = st.close() }() // a second time changes nothing
	}
	dir, err := os.MkdirTemp("", "espalier-uml-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	boot := filepath.Join(dir, "boot")
	if err := umlBoot(boot, job); err != nil {
		return 0, fmt.Errorf("preparing the guest's initial root: %w", err)
	}
	answer, child, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	silent, hold, err := os.Pipe() // an input on which nothing ever comes
	if err != nil {
		return 0, err
	}
	defer hold.Close()
	logFile, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return 0, err
	}
	defer logFile.Close()
	cmd := exec.Command(u.Kernel,
		"seccomp=on", // SMP guests need it
		fmt.Sprintf("mem=%dM", job.MemMiB), fmt.Sprintf("ncpus=%d", job.CPUs),
		"rootfstype=hostfs", "rootflags="+boot, "rw", "init=/init",
		"con0=null,fd:2", "con1=fd:3,fd:4", "con=null", "quiet", "panic=-1", "oops=panic",
		"umid=lab", "uml_dir="+dir+"/uml/")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{silent, child}
	// The kernel takes the top of its address space from the highest environment string on its stack and moves PATH off the stack: with PATH alone, or
	// with a last string of more than a page, it computes nonsense and dies. A short variable of its own makes it independent of the caller's environment.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LAB=uml"}
	p := &process{cmd: cmd, answer: answer, log: logFile.Name()}
	if st == nil {
		return p.run(ctx, job)
	}
	p.started = st.place
	status, err := p.run(ctx, job)
	if wobble := st.close(); err == nil && status == 0 {
		err = wobble
	}
	return status, err
}

// umlBoot makes the directory that the kernel takes as its initial root: the init, its job, and the two devices that a process
// needs before devtmpfs is mounted.
func umlBoot(boot string, job *Job) error {
	for _, d := range []string{"dev", "proc", "sys", "new"} {
		if err := os.MkdirAll(filepath.Join(boot, d), 0o755); err != nil {
			return err
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "console": 0} {
		major := uint32(1)
		if name == "console" {
			major, minor = 5, 1
		}
		if err := unix.Mknod(filepath.Join(boot, "dev", name), unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	spec := guest.Spec{Transport: guest.TransportHostFS, Channel: "/dev/tty1", Root: job.Root, Env: job.Env, Steps: job.Steps}
	for _, s := range job.Shares {
		if strings.ContainsAny(s, ", ") {
			return fmt.Errorf("share %q: hostfs takes no path with a comma or blank", s)
		}
		spec.Shares = append(spec.Shares, guest.Share{Path: s})
	}
	raw, err := json.Marshal(&spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(boot, guest.SpecFile), raw, 0o600); err != nil {
		return err
	}
	init, err := os.ReadFile(job.Init)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(boot, "init"), init, 0o755)
}
