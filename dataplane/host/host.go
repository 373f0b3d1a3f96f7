// Package host is what the box is and the privileged verbs that change it: a
// fixed list behind one interface, so that a small root helper can take them
// over and the daemon keeps no more capabilities than it needs.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Verbs are the privileged things that the data plane asks of the box.
// Implementations are safe for concurrent use.
type Verbs interface {
	// LoadModule makes a kernel module available; nil when it is loaded or
	// built in. Names are those of modprobe.
	LoadModule(name string) error
	// Sysctl reads a setting of the calling thread's network namespace by its
	// dotted name, e.g. "net.core.xfrm_acq_expires".
	Sysctl(name string) (string, error)
	// SetSysctl writes one.
	SetSysctl(name, value string) error
	// Setting reads a setting that the tuner may change: a sysctl, or one of those
	// that CPUGovernor, Pcrypt, RPS, XPS, IRQAffinity and Feature name. Errors:
	// fs.ErrNotExist when the box has none of this name, fs.ErrPermission when nobody
	// may change it here.
	Setting(name string) (string, error)
	// SetSetting writes one.
	SetSetting(name, value string) error
	// MountBPF mounts a BPF file system on the folder, usually /sys/fs/bpf; nil when
	// there is one.
	MountBPF(dir string) error
	// RunScript runs a command by the shell until it ends, or ctx does, which kills it
	// with all that it has started. line is called for each line that it prints.
	// Errors: how it ended.
	RunScript(ctx context.Context, command string, env []string, line func(string)) error
	// StartFirewall removes what a former run has put into the box's packet filter, and
	// keeps what goes into tunnels from being masqueraded, with nftables.
	StartFirewall() error
	// StopFirewall removes all of it.
	StopFirewall() error
	// AdmitTunnel puts rules that let a tunnel's packets through first into every chain
	// of nftables that filters them. Those that iptables made are left alone: skipped.
	AdmitTunnel(Pass) (skipped []string, err error)
	// RevokeTunnel removes them again, by the tunnel's request id.
	RevokeTunnel(reqid uint32) error
	// AddAddress puts an address on an interface.
	AddAddress(Address) error
	// RemoveAddress takes it off; nil when it is not there.
	RemoveAddress(Address) error
	// AddRoute adds a route, in the place of one with the same destination in
	// the same table.
	AddRoute(Route) error
	// RemoveRoute removes it; nil when it is not there.
	RemoveRoute(Route) error
	// AddRule adds a rule that looks a routing table up.
	AddRule(Rule) error
	// RemoveRule removes it; nil when it is not there.
	RemoveRule(Rule) error
}

// Local performs the verbs in this process, which needs the rights itself.
type Local struct {
	root string // of /proc and /sys, another folder in tests
}

// moduleTime bounds a modprobe; a loaded crypto driver tests itself first.
const moduleTime = 20 * time.Second

// LoadModule implements Verbs.
func (Local) LoadModule(name string) error {
	if !word(name) {
		return fmt.Errorf("module name %q: expected letters, digits, - and _", name)
	}
	if _, err := os.Stat("/sys/module/" + strings.ReplaceAll(name, "-", "_")); err == nil {
		return nil
	}
	tool, err := modprobe()
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), moduleTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "--", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("load module %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// modprobe finds the tool also where a daemon's PATH lacks sbin.
func modprobe() (string, error) {
	for _, p := range []string{"/usr/sbin/modprobe", "/sbin/modprobe"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", errors.New("modprobe not found in /usr/sbin and /sbin (package kmod)")
}

// Sysctl implements Verbs.
func (l Local) Sysctl(name string) (string, error) {
	path, err := sysctlPath(name)
	if err != nil {
		return "", err
	}
	v, err := l.read(path)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return v, nil
}

// SetSysctl implements Verbs.
func (l Local) SetSysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	if err := l.write(path, value); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// MountBPF implements Verbs.
func (Local) MountBPF(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("BPF file system on %s: %w", dir, err)
	}
	if uint32(st.Type) == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system on %s: %w", dir, err)
	}
	return nil
}

func sysctlPath(name string) (string, error) {
	parts := strings.Split(name, ".")
	for _, p := range parts {
		if !word(p) {
			return "", fmt.Errorf("sysctl %q: expected words of letters, digits, - and _ with dots between them", name)
		}
	}
	return filepath.Join(append([]string{"/proc/sys"}, parts...)...), nil
}

func word(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != "" && s[0] != '-'
}
