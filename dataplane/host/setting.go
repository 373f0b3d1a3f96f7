package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Names of settings that are no sysctls; a sysctl has its dotted name.
const (
	// CPUGovernor is the frequency governor of all CPUs, one word when they have
	// the same, otherwise one for each of the kernel's policies in their order.
	CPUGovernor = "cpu.governor"
	// Pcrypt is whether new SAs of AES-GCM spread their packets over CPUs to encrypt
	// and decrypt them: "on" or "off". SAs keep the cipher that they began with.
	Pcrypt = "pcrypt"
)

// RPS names the CPUs that a receive queue's packets are spread to, a list such
// as 0-3; empty: those of the interrupt.
func RPS(link string, queue int) string { return fmt.Sprintf("rps/%s/%d", link, queue) }

// XPS names the CPUs that send by a transmit queue.
func XPS(link string, queue int) string { return fmt.Sprintf("xps/%s/%d", link, queue) }

// IRQAffinity names the CPUs that an interrupt may be served by, a list; it is
// never empty.
func IRQAffinity(irq int) string { return fmt.Sprintf("irq/%d", irq) }

// Feature names a feature of a network device by the kernel's name, such as
// rx-gro, tx-generic-segmentation, esp-hw-offload: "on" or "off".
func Feature(link, feature string) string { return fmt.Sprintf("feature/%s/%s", link, feature) }

// knob is a setting's way to read and write it.
type knob struct {
	get func() (string, error)
	set func(string) error
}

// Setting implements Verbs.
func (l Local) Setting(name string) (string, error) {
	k, err := l.knob(name)
	if err != nil {
		return "", err
	}
	v, err := k.get()
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", name, err)
	}
	return v, nil
}

// SetSetting implements Verbs.
func (l Local) SetSetting(name, value string) error {
	k, err := l.knob(name)
	if err != nil {
		return err
	}
	if err := k.set(value); err != nil {
		return fmt.Errorf("set setting %s to %q: %w", name, value, err)
	}
	return nil
}

func (l Local) knob(name string) (knob, error) {
	kind, rest, slashes := strings.Cut(name, "/")
	switch {
	case name == CPUGovernor:
		return knob{l.governor, l.setGovernor}, nil
	case name == Pcrypt:
		return knob{l.pcrypt, l.setPcrypt}, nil
	case !slashes && strings.Contains(name, "."):
		path, err := sysctlPath(name)
		if err != nil {
			return knob{}, err
		}
		return l.file(path), nil
	}
	first, second, _ := strings.Cut(rest, "/")
	switch kind {
	case "rps", "xps":
		if !linkName(first) || !number(second) {
			return knob{}, fmt.Errorf("setting %q: expected %s/INTERFACE/QUEUE", name, kind)
		}
		dir, file := "rx-", "rps_cpus"
		if kind == "xps" {
			dir, file = "tx-", "xps_cpus"
		}
		return l.mask("/sys/class/net/" + first + "/queues/" + dir + second + "/" + file), nil
	case "irq":
		if !number(rest) {
			return knob{}, fmt.Errorf("setting %q: expected irq/NUMBER", name)
		}
		return l.file("/proc/irq/" + rest + "/smp_affinity_list"), nil
	case "feature":
		if !linkName(first) || !word(second) {
			return knob{}, fmt.Errorf("setting %q: expected feature/INTERFACE/FEATURE", name)
		}
		return knob{
			func() (string, error) { return l.feature(first, second) },
			func(v string) error { return l.setFeature(first, second, v) },
		}, nil
	}
	return knob{}, fmt.Errorf("setting %q: expected a sysctl, %s, %s, rps/…, xps/…, irq/… or feature/…", name, CPUGovernor, Pcrypt)
}

// linkName keeps names of interfaces inside their folder.
func linkName(s string) bool { return s != "" && s != "." && s != ".." && !strings.Contains(s, "/") }

func number(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

func (l Local) path(p string) string { return filepath.Join(l.root, p) }

func (l Local) read(p string) (string, error) {
	b, err := os.ReadFile(l.path(p))
	return strings.TrimSpace(string(b)), err
}

func (l Local) write(p, value string) error {
	if value == "" {
		return errors.New("expected a value")
	}
	// Never made anew: what is not there is no setting.
	f, err := os.OpenFile(l.path(p), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (l Local) file(path string) knob {
	return knob{
		func() (string, error) {
			// Some are of the whole machine, and another network namespace only sees them.
			if st, err := os.Stat(l.path(path)); err == nil && st.Mode().Perm()&0o222 == 0 {
				return "", fmt.Errorf("nobody may change it here: %w", fs.ErrPermission)
			}
			return l.read(path)
		},
		func(v string) error { return l.write(path, v) },
	}
}

// mask is a file with a mask of CPUs, as a list.
func (l Local) mask(path string) knob {
	return knob{
		func() (string, error) {
			s, err := l.read(path)
			if err != nil {
				return "", err
			}
			cpus, err := parseMask(s)
			return FormatCPUs(cpus), err
		},
		func(v string) error {
			cpus, err := ParseCPUs(v)
			if err != nil {
				return err
			}
			return l.write(path, formatMask(cpus))
		},
	}
}

// governors are the files of the kernel's policies, in their order.
func (l Local) governors() ([]string, error) {
	const dir = "/sys/devices/system/cpu/cpufreq"
	list, err := os.ReadDir(l.path(dir))
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, e := range list {
		if s, ok := strings.CutPrefix(e.Name(), "policy"); ok {
			if n, err := strconv.Atoi(s); err == nil {
				ids = append(ids, n)
			}
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("the CPUs' clock is not the kernel's to set: %w", fs.ErrNotExist)
	}
	slices.Sort(ids)
	var out []string
	for _, n := range ids {
		out = append(out, dir+"/policy"+strconv.Itoa(n)+"/scaling_governor")
	}
	return out, nil
}

func (l Local) governor() (string, error) {
	files, err := l.governors()
	if err != nil {
		return "", err
	}
	var words []string
	for _, f := range files {
		s, err := l.read(f)
		if err != nil {
			return "", err
		}
		words = append(words, s)
	}
	if len(slices.Compact(slices.Clone(words))) == 1 {
		return words[0], nil
	}
	return strings.Join(words, " "), nil
}

func (l Local) setGovernor(value string) error {
	files, err := l.governors()
	if err != nil {
		return err
	}
	words := strings.Fields(value)
	if len(words) != 1 && len(words) != len(files) {
		return fmt.Errorf("expected one word, or one for each of %d policies", len(files))
	}
	for i, f := range files {
		if err := l.write(f, words[min(i, len(words)-1)]); err != nil {
			return err
		}
	}
	return nil
}
