package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"espalier/tools/lab/guest"
	"espalier/tools/lab/store"
)

// probeLimit is how long a boot under KVM may take; a working one takes about 2 seconds.
const probeLimit = 20 * time.Second

// ErrNoKVM is why KVM is not used; the text that wraps it says what is wrong.
var ErrNoKVM = errors.New("KVM does not work here")

// ProbeKVM tells whether KVM boots the kernel: nil, or an error that wraps ErrNoKVM. That the device exists says little: nested
// ones may hang. The answer is kept in the store until this machine is booted again.
func (q *QEMU) ProbeKVM(ctx context.Context, st *store.Store, init string, say func(string, ...any)) error {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrNoKVM, err)
	} else {
		f.Close()
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	path := st.Path("kvm-" + strings.TrimSpace(string(boot)))
	answer, err := os.ReadFile(path)
	if err != nil {
		say("trying whether KVM boots a kernel here (%s at most, once)", probeLimit)
		reason := ""
		if err := q.probe(ctx, init); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			reason = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		answer = []byte(reason)
		if err := os.WriteFile(path, answer, 0o644); err != nil {
			return err
		}
	}
	if len(answer) > 0 {
		return fmt.Errorf("%w: %s", ErrNoKVM, answer)
	}
	return nil
}

// probe boots the kernel under KVM with an init that says one sentence.
func (q *QEMU) probe(ctx context.Context, init string) error {
	dir, err := os.MkdirTemp("", "espalier-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kvm := *q
	kvm.KVM = true
	args, err := kvm.args(dir, init, nil, guest.ProbeArg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary, append(args, "-m", "512M")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	console, _ := os.ReadFile(consoleFile(dir)) // missing when QEMU did not get that far
	switch {
	case bytes.Contains(console, []byte(guest.ProbeAnswer)):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("a kernel that should boot in 2 s did not in %s", probeLimit)
	case err != nil:
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return errors.New("the kernel ended without reaching its init")
}
