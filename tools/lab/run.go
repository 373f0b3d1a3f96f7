package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"espalier/tools/lab/debian"
	"espalier/tools/lab/guest"
	"espalier/tools/lab/store"
	"espalier/tools/lab/vm"
)

type runCmd struct {
	machineFlags
}

// Run implements the verb run.
func (c *runCmd) Run(ctx context.Context, l *lab) error {
	if len(l.rest) == 0 {
		return fmt.Errorf("%w: lab [FLAGS] -- COMMAND [ARG...]; no command was given", errUsage)
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	return c.machineFlags.run(ctx, nil, []guest.Step{{Dir: dir, Argv: l.rest}}, 1)
}

type prepareCmd struct {
	machineFlags
}

// Run implements the verb prepare.
func (c *prepareCmd) Run(ctx context.Context) error {
	m, err := c.machineFlags.prepare(ctx)
	if err != nil {
		return err
	}
	say("ready: %s", m.runner.Describe())
	return nil
}

// machine is a runner and what every job of it has in common.
type machine struct {
	runner vm.Runner
	root   string
	init   string
	module string
}

// prepare picks the runner and gets what it needs.
func (f *machineFlags) prepare(ctx context.Context) (*machine, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	module, err := moduleDir(ctx)
	if err != nil {
		return nil, err
	}
	if f.Here {
		runner, err := vm.NewHere()
		return &machine{runner: runner, module: module}, err
	}
	st, err := store.Open()
	if err != nil {
		return nil, err
	}
	host := &debian.Host{Say: say, Progress: &indent{w: os.Stderr}}
	recipe, err := debian.FindRecipe(f.Root)
	if err != nil {
		return nil, err
	}
	m := &machine{module: module}
	if m.init, err = buildInit(ctx, st, module); err != nil {
		return nil, err
	}
	if m.runner, err = f.pick(ctx, st, host, m.init); err != nil {
		return nil, err
	}
	if m.root, err = host.Root(ctx, st, recipe); err != nil {
		return nil, err
	}
	if q, ok := m.runner.(*vm.QEMU); ok {
		if err := host.Need(ctx, "mke2fs", "e2fsprogs"); err != nil {
			return nil, err
		}
		return m, q.MakeDisks(ctx, st, m.root)
	}
	return m, nil
}

// umlVar names the environment variable with the path of a User-Mode Linux kernel.
const umlVar = "ESPALIER_LAB_UML"

// pick chooses the runner: what was asked for by flag or variable, then KVM when it really boots, then software emulation.
func (f *machineFlags) pick(ctx context.Context, st *store.Store, host *debian.Host, init string) (vm.Runner, error) {
	uml, why := f.UML, "given by --uml"
	if uml == "" && f.Kernel == "" && f.Accel == "auto" {
		uml, why = os.Getenv(umlVar), "given by "+umlVar
	}
	if uml != "" {
		if err := host.Need(ctx, "xz", "xz-utils"); err != nil {
			return nil, err
		}
		kernel, err := vm.UMLKernel(st, uml)
		return &vm.UML{Kernel: kernel, Why: why, Steady: f.Steady}, err
	}
	if f.Steady {
		return nil, fmt.Errorf("%w: --steady: expected a User-Mode Linux kernel (--uml, or %s)", errUsage, umlVar)
	}
	if err := needQEMU(ctx, host); err != nil {
		return nil, err
	}
	kernel, err := host.Kernel(ctx, st, cmp.Or(f.Kernel, "newest"))
	if err != nil {
		return nil, err
	}
	q := &vm.QEMU{Image: kernel.Image, Modules: kernel.Modules, Release: kernel.Release, Why: "asked for by --accel"}
	switch f.Accel {
	case "kvm":
		q.KVM = true
		return q, nil
	case "tcg":
		return q, f.tcg(ctx, host, q)
	}
	switch err := q.ProbeKVM(ctx, st, init, say); {
	case err == nil:
		q.KVM, q.Why = true, "KVM boots here"
	case errors.Is(err, vm.ErrNoKVM):
		q.Why = err.Error()
	default:
		return nil, err
	}
	return q, f.tcg(ctx, host, q)
}

// needQEMU installs what running and feeding QEMU takes. Bookworm's own would be replaced at once (see tcg), so there it is the backport that is
// installed, if there is one.
func needQEMU(ctx context.Context, host *debian.Host) error {
	err := host.Need(ctx, "xz", "xz-utils", "zstd", "zstd", "depmod", "kmod", "mmdebstrap", "mmdebstrap")
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(vm.Binary); err != nil && host.Codename() == "bookworm" {
		if err := host.InstallBackports(ctx, "qemu-system-x86"); err == nil {
			return nil
		}
	}
	return host.Need(ctx, vm.Binary, "qemu-system-x86")
}

// tcg makes q fit for software emulation with the QEMU that is here, getting a newer one when need be.
func (f *machineFlags) tcg(ctx context.Context, host *debian.Host, q *vm.QEMU) error {
	if q.KVM {
		return nil
	}
	version, err := vm.QEMUVersion(ctx)
	if err != nil || vm.RunsThreadsSafely(version) {
		return err
	}
	if err := host.InstallBackports(ctx, "qemu-system-x86"); err != nil {
		say("no newer QEMU to be had, so its processors share one thread: %v", err)
	}
	version, err = vm.QEMUVersion(ctx)
	q.OneThread = !vm.RunsThreadsSafely(version)
	return err
}

// run runs the steps in a machine, or in several that claim them, and turns their status into an error. The shares come on top of those of the flags.
func (f *machineFlags) run(ctx context.Context, shares []string, steps []guest.Step, jobs int) error {
	m, err := f.prepare(ctx)
	if err != nil {
		return err
	}
	env, err := f.environment()
	if err != nil {
		return err
	}
	shares, err = shareDirs(append(append([]string{m.module}, f.Share...), shares...))
	if err != nil {
		return err
	}
	size := ""
	if !f.Here {
		size = fmt.Sprintf("; %d CPUs, %d MiB", f.CPUs, f.Mem)
	}
	if jobs > 1 {
		size += fmt.Sprintf("; %d of them at once", jobs)
	}
	say("runner: %s%s, time limit %s", m.runner.Describe(), size, f.TimeLimit)
	status, err := runJobs(ctx, m.runner, vm.Job{Root: m.root, Shares: shares, Env: env, Steps: steps, CPUs: f.CPUs, MemMiB: f.Mem,
		TimeLimit: f.TimeLimit, Init: m.init, Stdout: os.Stdout, Stderr: os.Stderr}, jobs)
	if err != nil {
		return err
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// environment is what the command finds in its environment.
func (f *machineFlags) environment() ([]string, error) {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "ESPALIER_") {
			env = append(env, kv)
		}
	}
	for _, e := range f.Env {
		k, _, ok := strings.Cut(e, "=")
		if !ok {
			v, set := os.LookupEnv(k)
			if !set {
				return nil, fmt.Errorf("--env %s: expected KEY=VALUE, or a KEY that is set here", e)
			}
			e = k + "=" + v
		}
		env = append(env, e)
	}
	return env, nil
}

// shareDirs makes the paths absolute and real and drops those that lie below another one.
func shareDirs(dirs []string) ([]string, error) {
	var real []string
	for _, d := range dirs {
		abs, err := filepath.Abs(d)
		if err == nil {
			abs, err = filepath.EvalSymlinks(abs)
		}
		if err != nil {
			return nil, fmt.Errorf("share: %w", err)
		}
		if info, err := os.Stat(abs); err != nil || !info.IsDir() || abs == "/" {
			return nil, fmt.Errorf("share %s: expected a directory other than /", d)
		}
		real = append(real, abs)
	}
	var out []string
	for i, d := range real {
		covered := false
		for j, other := range real {
			covered = covered || strings.HasPrefix(d, other+"/") || d == other && j < i
		}
		if !covered {
			out = append(out, d)
		}
	}
	return out, nil
}

// moduleDir is the directory of the Go module that the lab belongs to.
func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}").Output()
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if err != nil || path != "espalier" {
		return "", fmt.Errorf("expected to be run inside the repository, whose Go module is espalier; 'go list -m' says %q (%w)", path, err)
	}
	return dir, nil
}

// buildInit builds the guest's first process, one for each tree of the repository. It is replaced in one step, as another lab may be starting a guest
// with it right now.
func buildInit(ctx context.Context, st *store.Store, module string) (string, error) {
	path := st.Path("init" + strings.ReplaceAll(module, "/", "-"))
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(fresh) // gone already when all went well
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", fresh, "./tools/lab/guestinit")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the guest's init: %w\n%s", err, out)
	}
	return path, os.Rename(fresh, path)
}

// indent is a writer that puts blanks before every line.
type indent struct {
	w      *os.File
	inLine bool
}

func (i *indent) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if !i.inLine {
			line = "  " + line
		}
		if _, err := i.w.WriteString(line); err != nil {
			return 0, err
		}
		i.inLine = !strings.HasSuffix(line, "\n")
	}
	return len(b), nil
}
