// Lab runs a command, or Go tests, as root in a virtual machine whose kernel has IPsec, and exits with its status. It finds a way
// that works on the machine it is on, says which, and gets from Debian what is missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"espalier/tools/lab/vm"
)

// machineFlags choose and size the machine; every verb that starts one has them.
type machineFlags struct {
	Kernel    string        `help:"Guest kernel for QEMU: a Debian suite (trixie-backports, trixie, bookworm, sid), or newest, which is the default." placeholder:"SUITE"`
	UML       string        `name:"uml" help:"Run in this User-Mode Linux kernel, an executable or an .xz of it. Without --kernel and --accel, $$ESPALIER_LAB_UML does the same." placeholder:"PATH"`
	Steady    bool          `help:"For measuring, with User-Mode Linux: each CPU of the guest is one of this machine, which is kept awake; its programs run on the first."`
	Accel     string        `help:"Accelerator for QEMU: auto, kvm or tcg." enum:"auto,kvm,tcg" default:"auto"`
	Here      bool          `help:"Run on this very machine, without a guest. Refused while there are XFRM states or policies."`
	CPUs      int           `name:"cpus" help:"Processors of the guest." default:"2"`
	Mem       int           `help:"Memory of the guest in MiB (default 2048)." default:"2048" placeholder:"MIB"`
	TimeLimit time.Duration `help:"End the guest after this time, with status 124." default:"10m"`
	Share     []string      `help:"Directories that the guest sees read-write at the same path (the repository always is one)." placeholder:"DIR" sep:"none"`
	Root      string        `help:"Guest root: default (Debian trixie) or sid (for a newer strongSwan)." default:"default"`
	Env       []string      `help:"Environment of the command, KEY=VALUE or KEY. Variables that begin with ESPALIER_ are always passed on." placeholder:"KEY" sep:"none"`
}

// cli is the command line. The command to run follows after --.
type cli struct {
	Run     runCmd     `cmd:"" default:"withargs" help:"Run a command in the guest: lab [FLAGS] -- COMMAND [ARG...]"`
	Test    testCmd    `cmd:"" help:"Build the tests of Go packages (tag lab) and run them in one guest: lab test [FLAGS] PACKAGE... [-- TEST-FLAGS]"`
	Prepare prepareCmd `cmd:"" help:"Fetch and build what a run needs, and run nothing."`
}

func main() {
	os.Exit(realMain())
}

func realMain() int {
	args, rest := os.Args[1:], []string(nil)
	if i := slices.Index(args, "--"); i >= 0 {
		args, rest = args[:i], args[i+1:] // what follows is the guest's, even when it looks like ours
	}
	var c cli
	parser, err := kong.New(&c, kong.Name("lab"), kong.Description("Runs a command as root in a virtual machine with IPsec."), kong.UsageOnError())
	if err != nil {
		return fail(err)
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		parser.Errorf("%s", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	kctx.BindTo(ctx, (*context.Context)(nil))
	l := &lab{rest: rest}
	var status exitStatus
	switch err := kctx.Run(l); {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, errUsage):
		say("%v", err)
		return 2
	default:
		return fail(err)
	}
}

// fail reports an error and returns the status that stands for it.
func fail(err error) int {
	say("%v", err)
	return vm.Status(0, err)
}

// say tells in one line, on stderr, what the lab is doing.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "lab: "+format+"\n", args...)
}

// errUsage marks errors in the command line.
var errUsage = errors.New("usage")

// exitStatus is the error that ends the lab with a command's own status, without a word.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// lab is what the verbs share.
type lab struct {
	// rest are the arguments after --.
	rest []string
}

// check refuses flags that cannot be.
func (f *machineFlags) check() error {
	switch {
	case f.CPUs < 1 || f.CPUs > 64:
		return fmt.Errorf("%w: --cpus %d: expected 1 to 64 (this machine has %d)", errUsage, f.CPUs, runtime.NumCPU())
	case f.Mem < 256:
		return fmt.Errorf("%w: --mem %d: expected at least 256 MiB", errUsage, f.Mem)
	case f.UML != "" && (f.Kernel != "" || f.Accel != "auto"):
		return fmt.Errorf("%w: --uml is a kernel and a way to run it; it goes with neither --kernel nor --accel", errUsage)
	case f.Steady && f.Here:
		return fmt.Errorf("%w: --steady with --here: expected a guest", errUsage)
	case f.TimeLimit <= 0:
		return fmt.Errorf("%w: --time-limit %s: expected more than 0", errUsage, f.TimeLimit)
	}
	return nil
}
