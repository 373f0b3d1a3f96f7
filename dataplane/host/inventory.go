package host

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Inventory is what the box is, as far as it matters to an IPsec gateway. What
// cannot be read is empty.
type Inventory struct {
	Kernel   Kernel    `json:"kernel"`
	CPU      CPU       `json:"cpu"`
	Ciphers  []Cipher  `json:"ciphers"` // for AES-GCM in ESP, the one that the kernel takes first
	NICs     []NIC     `json:"nics"`
	Entropy  Entropy   `json:"entropy"`
	Modules  []Module  `json:"modules"`
	Services []Service `json:"services"` // that may be in the way
	Sysctls  []Sysctl  `json:"sysctls"`
	Findings []Finding `json:"findings"` // the worst first
}

// Kernel is the running one.
type Kernel struct {
	Release  string    `json:"release"`
	Machine  string    `json:"machine"`
	Features []Feat    `json:"features"`
	version  [2]int    // major, minor
	modules  moduleSet // of its release
}

// Feat is something that the kernel has, or has not.
type Feat struct {
	Name string `json:"name"`
	Has  bool   `json:"has"`
}

// CPU is what the processors are.
type CPU struct {
	Model  string   `json:"model"`
	Online int      `json:"online"`
	Flags  []string `json:"flags"` // of those that speed ciphers up: aes, vaes, avx512f ...
}

// Has reports whether the processors have a flag.
func (c *CPU) Has(flag string) bool { return slices.Contains(c.Flags, flag) }

// Cipher is one of the kernel's implementations.
type Cipher struct {
	Name     string `json:"name"`
	Driver   string `json:"driver"`
	Module   string `json:"module"`
	Priority int    `json:"priority"`
}

// NIC is a network interface with a device behind it.
type NIC struct {
	Name     string   `json:"name"`
	Driver   string   `json:"driver"`
	MTU      int      `json:"mtu"`
	RXQueues int      `json:"rx_queues"`
	TXQueues int      `json:"tx_queues"`
	On       []string `json:"on"`  // of nicFeatures, those that work
	Off      []string `json:"off"` // and those that do not
}

// nicFeatures are those of a network device that matter here.
var nicFeatures = []string{"rx-gro", "tx-generic-segmentation", "rx-gro-hw", "esp-hw-offload", "esp-tx-csum-hw-offload", "tx-esp-segmentation"}

// Entropy is where randomness comes from.
type Entropy struct {
	Device string `json:"device"` // hardware generator in use; empty: none
	CPU    bool   `json:"cpu"`    // RDRAND or RDSEED
}

// Sysctl is a setting with its value.
type Sysctl struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Severity says how much a finding matters.
type Severity string

// Severities, the worst first.
const (
	Problem Severity = "problem" // something does not work, or keys are in danger
	Warning Severity = "warning" // something works badly, or may stop to
	Note    Severity = "note"
)

// Finding is something about the box that an administrator wants to know.
type Finding struct {
	Severity Severity `json:"severity"`
	Topic    string   `json:"topic"` // "cpu", "crypto", "nic", "kernel", "module", "sysctl", "service", "firewall", "entropy"
	Cause    string   `json:"cause"` // in plain words
	Fix      string   `json:"fix"`   // what to do; empty: nothing
}

// Inventory looks at the box. It asks no more of it than to be read, but for the
// firewall's rules, which the program nft lists when the kernel has any.
func (l Local) Inventory(ctx context.Context) Inventory {
	inv := Inventory{Kernel: l.kernel(), CPU: l.cpu(), Ciphers: l.ciphers(), NICs: l.nics(), Sysctls: l.sysctls()}
	l.rest(&inv)
	inv.fill()
	inv.Findings = append(inv.Findings, judge(&inv)...)
	inv.Findings = append(inv.Findings, l.networkd(inv.Services)...)
	inv.Findings = append(inv.Findings, l.firewall(ctx, inv.Kernel.modules)...)
	worst := []Severity{Problem, Warning, Note}
	slices.SortStableFunc(inv.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(worst, a.Severity), slices.Index(worst, b.Severity))
	})
	return inv
}

// fill makes empty lists of those that are not there: JSON tells them apart.
func (inv *Inventory) fill() {
	inv.CPU.Flags, inv.Ciphers, inv.NICs = listed(inv.CPU.Flags), listed(inv.Ciphers), listed(inv.NICs)
	inv.Services, inv.Sysctls, inv.Findings = listed(inv.Services), listed(inv.Sysctls), listed(inv.Findings)
	for i := range inv.NICs {
		inv.NICs[i].On, inv.NICs[i].Off = listed(inv.NICs[i].On), listed(inv.NICs[i].Off)
	}
}

func listed[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// rest is what follows from the first part.
func (l Local) rest(inv *Inventory) {
	inv.Entropy.Device, _ = l.read("/sys/class/misc/hw_random/rng_current") // not there: none
	if inv.Entropy.Device == "none" {
		inv.Entropy.Device = ""
	}
	inv.Entropy.CPU = inv.CPU.Has("rdrand") || inv.CPU.Has("rdseed")
	for _, name := range wantedModules(&inv.CPU) {
		inv.Modules = append(inv.Modules, Module{name, l.moduleState(name, inv.Kernel.modules)})
	}
	inv.Services = l.services()
}

func (l Local) exists(p string) bool {
	_, err := os.Stat(l.path(p))
	return err == nil
}

// kernel reads the release, and features by what shows them.
func (l Local) kernel() Kernel {
	var u unix.Utsname
	k := Kernel{Release: "unknown"}
	if unix.Uname(&u) == nil {
		k.Release, k.Machine = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	}
	if s, err := l.read("/proc/sys/kernel/osrelease"); err == nil {
		k.Release = s
	}
	major, rest, _ := strings.Cut(k.Release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	k.version[0], _ = strconv.Atoi(major)
	k.version[1], _ = strconv.Atoi(strings.TrimRight(minor, "-+abcdefghijklmnopqrstuvwxyz"))
	k.modules = l.modulesOf(k.Release)
	jit, err := l.read("/proc/sys/net/core/bpf_jit_enable")
	compiled := errors.Is(err, fs.ErrNotExist) || jit != "" && jit != "0" // another network namespace does not see it
	k.Features = []Feat{
		{"xfrm statistics", l.exists("/proc/net/xfrm_stat")},
		{"types for BPF (BTF)", l.exists("/sys/kernel/btf/vmlinux")},
		{"BPF compiled (JIT)", compiled},
		{"tcx (6.6)", k.atLeast(6, 6)},
		{"SAs for each CPU (6.13)", k.atLeast(6, 13)},
	}
	return k
}

func (k *Kernel) atLeast(major, minor int) bool {
	return k.version[0] > major || k.version[0] == major && k.version[1] >= minor
}

// cpuFlags are those that ciphers and randomness profit from.
var cpuFlags = []string{"aes", "pclmulqdq", "avx2", "vaes", "vpclmulqdq", "avx512f", "avx512bw", "rdrand", "rdseed", "pmull", "sha2"}

// cpu reads /proc/cpuinfo.
func (l Local) cpu() CPU {
	var c CPU
	if online, err := l.onlineCPUs(); err == nil {
		c.Online = len(online)
	}
	text, err := l.read("/proc/cpuinfo")
	if err != nil {
		return c
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		switch name, value = strings.TrimSpace(name), strings.TrimSpace(value); {
		case c.Model == "" && (name == "model name" || name == "Model" || name == "host"):
			c.Model = value
		case c.Flags == nil && (name == "flags" || name == "Features"):
			all := strings.Fields(value)
			for _, f := range cpuFlags {
				if slices.Contains(all, f) {
					c.Flags = append(c.Flags, f)
				}
			}
		}
	}
	return c
}

// espCipher is AES-GCM as ESP has it (RFC 4106).
const espCipher = "rfc4106(gcm(aes))"

// ciphers reads /proc/crypto: those for AES-GCM in ESP, the preferred one first.
func (l Local) ciphers() (out []Cipher) {
	f, err := os.Open(l.path("/proc/crypto"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var c Cipher
	add := func() {
		if c.Name == espCipher {
			out = append(out, c)
		}
		c = Cipher{}
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, value, ok := strings.Cut(s.Text(), ":")
		if !ok {
			add()
			continue
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
		case "name":
			c.Name = value
		case "driver":
			c.Driver = value
		case "module":
			c.Module = value
		case "priority":
			c.Priority, _ = strconv.Atoi(value)
		}
	}
	add()
	slices.SortStableFunc(out, func(a, b Cipher) int { return cmp.Compare(b.Priority, a.Priority) })
	return out
}

// nics lists the interfaces that have a device behind them.
func (l Local) nics() (out []NIC) {
	const dir = "/sys/class/net"
	links, _ := os.ReadDir(l.path(dir)) // none: none
	for _, e := range links {
		at := filepath.Join(dir, e.Name())
		driver, err := os.Readlink(l.path(at + "/device/driver"))
		if err != nil {
			continue
		}
		n := NIC{Name: e.Name(), Driver: filepath.Base(driver)}
		mtu, _ := l.read(at + "/mtu")
		n.MTU, _ = strconv.Atoi(mtu)
		n.RXQueues, n.TXQueues = l.queues(at)
		features, _ := Features(e.Name()) // another's namespace: none
		for _, f := range nicFeatures {
			if on, known := features[f]; on {
				n.On = append(n.On, f)
			} else if known {
				n.Off = append(n.Off, f)
			}
		}
		out = append(out, n)
	}
	return out
}

// forwarding and the like, for all interfaces; judge knows what they mean.
var sysctlNames = []string{
	"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.all.send_redirects",
	"net.core.rmem_max", "net.core.wmem_max", "net.core.netdev_max_backlog", "net.core.netdev_budget", "net.core.xfrm_acq_expires",
}

// sysctls reads those, and of each interface the ones that can differ there.
func (l Local) sysctls() (out []Sysctl) {
	read := func(name, path string) {
		if v, err := l.read(path); err == nil {
			out = append(out, Sysctl{name, v})
		}
	}
	for _, name := range sysctlNames {
		if path, err := sysctlPath(name); err == nil {
			read(name, path)
		}
	}
	const conf = "/proc/sys/net/ipv4/conf"
	links, _ := os.ReadDir(l.path(conf))
	for _, e := range links {
		if e.Name() == "all" || e.Name() == "default" || e.Name() == "lo" {
			continue
		}
		for _, what := range []string{"rp_filter", "send_redirects"} {
			// As sysctl(8) writes names with dots in them.
			read("net.ipv4.conf."+strings.ReplaceAll(e.Name(), ".", "/")+"."+what, filepath.Join(conf, e.Name(), what))
		}
	}
	return out
}
