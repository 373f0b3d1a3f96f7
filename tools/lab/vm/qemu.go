package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/tools/lab/guest"
)

// QEMU runs jobs in a kernel of Debian's with all its modules, under KVM or software emulation.
type QEMU struct {
	// Image is the bootable kernel, Modules a directory that stands for its /lib/modules, Release its name there.
	Image, Modules, Release string
	// RootDisk and ModulesDisk are images with what is in the guest's root and in Modules, as MakeDisks makes them.
	RootDisk, ModulesDisk string
	// KVM chooses the processor's virtualisation instead of software emulation.
	KVM bool
	// OneThread makes software emulation run all processors in turn on one thread, for a QEMU that is too old to run them side by side.
	OneThread bool
	// Why says why this runner was picked.
	Why string
}

// Binary is QEMU's program.
const Binary = "qemu-system-x86_64"

// Describe implements Runner.
func (q *QEMU) Describe() string {
	accel := "software emulation"
	if q.KVM {
		accel = "KVM"
	} else if q.OneThread {
		accel += " on one thread"
	}
	return fmt.Sprintf("QEMU with %s, Linux %s (%s)", accel, q.Release, q.Why)
}

// Run implements Runner.
func (q *QEMU) Run(ctx context.Context, job *Job) (int, error) {
	dir, err := os.MkdirTemp("", "espalier-qemu-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	spec := guest.Spec{Transport: guest.Transport9P, Modules: true, Env: job.Env, Steps: job.Steps}
	var exports []string
	for i, s := range job.Shares {
		tag := fmt.Sprintf("share%d", i)
		spec.Shares = append(spec.Shares, guest.Share{Tag: tag, Path: s})
		exports = append(exports, export(tag, s))
	}
	raw, err := json.Marshal(&spec)
	if err != nil {
		return 0, err
	}
	args, err := q.args(dir, job.Init, raw, "")
	if err != nil {
		return 0, err
	}
	args = append(args, cardArgs(ctx)...)
	args = append(args, "-smp", fmt.Sprint(job.CPUs), "-m", fmt.Sprintf("%dM", job.MemMiB),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=lab,fd=3", "-device", "virtserialport,chardev=lab,name="+guest.PortName)
	args = append(args, diskArgs(guest.RootDisk, q.RootDisk)...)
	args = append(args, diskArgs(guest.ModulesDisk, q.ModulesDisk)...)
	for _, e := range exports {
		args = append(args, "-virtfs", e)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making a pair of sockets: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that closing it ends a read
		return 0, err
	}
	cmd := exec.Command(Binary, args...)
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fds[1]), "qemu's end")}
	said, err := os.OpenFile(consoleFile(dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	p := &process{cmd: cmd, answer: os.NewFile(uintptr(fds[0]), "guest"), log: said.Name()}
	return p.run(ctx, job)
}

// cardArgs are two network cards with several queues and an interrupt for each, and a cable between them, where this QEMU has such (8.0). Until a test
// loads their driver (igb), they cost the guest nothing.
func cardArgs(ctx context.Context) (args []string) {
	if exec.CommandContext(ctx, Binary, "-device", "igb,help").Run() != nil {
		return nil
	}
	for i, slot := range []int{8, 10} { // each has two more, 16 above, for virtual cards
		args = append(args, "-netdev", fmt.Sprintf("hubport,id=card%d,hubid=0", i), "-device", fmt.Sprintf("igb,netdev=card%d,addr=%#x", i, slot))
	}
	return args
}

// consoleFile is where the guest kernel's serial console and QEMU's own complaints go.
func consoleFile(dir string) string { return filepath.Join(dir, "console") }

// export is an argument of -virtfs. Commas are doubled, as QEMU's options have it.
func export(tag, path string) string {
	return fmt.Sprintf("local,mount_tag=%s,path=%s,security_model=passthrough,multidevs=remap", tag, strings.ReplaceAll(path, ",", ",,"))
}

// args writes the initial root into dir and returns the arguments that every run has.
func (q *QEMU) args(dir, init string, spec []byte, extra string) ([]string, error) {
	initrd := filepath.Join(dir, "initrd")
	f, err := os.OpenFile(initrd, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := writeInitrd(f, init, spec, q.Modules, q.Release); err != nil {
		return nil, fmt.Errorf("writing the guest's initial root: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// The guest is a test's, so what guards a processor's secrets is off: under emulation it only costs.
	cmdline := "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr nowatchdog no_timer_check tsc=reliable random.trust_cpu=1 " + extra
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
		"-kernel", q.Image, "-initrd", initrd, "-append", cmdline,
		"-chardev", "file,id=console,path=" + consoleFile(dir) + ",append=on", "-serial", "chardev:console"}
	if q.KVM {
		return append(args, "-accel", "kvm", "-cpu", "host"), nil
	}
	// Five-level page tables cost an emulator one more step at every miss.
	threads := "multi"
	if q.OneThread {
		threads = "single"
	}
	return append(args, "-accel", "tcg,thread="+threads, "-cpu", "max,la57=off"), nil
}

// RunsThreadsSafely tells whether software emulation with a thread a processor can be trusted in the QEMU that prints this text for --version. Before 8.1
// one processor may translate code while another one changes it; Linux changes its code all the time (static branches), and dies of an int3 that is no
// longer there.
func RunsThreadsSafely(version string) bool {
	var major, minor int
	_, after, _ := strings.Cut(version, "version ")
	if _, err := fmt.Sscanf(after, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 8 || major == 8 && minor >= 1
}

// QEMUVersion is what QEMU prints for --version.
func QEMUVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, Binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", Binary, err)
	}
	return string(out), nil
}
