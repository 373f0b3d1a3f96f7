package host

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// judge says what of the inventory an administrator wants to know.
func judge(inv *Inventory) []Finding {
	var out []Finding
	for _, about := range []func(*Inventory) []Finding{judgeCipher, judgeModules, judgeKernel, judgeNICs, judgeSysctls, judgeEntropy, judgeServices} {
		out = append(out, about(inv)...)
	}
	return out
}

func judgeCipher(inv *Inventory) []Finding {
	c := &inv.CPU
	fast := c.Has("aes")
	if !fast && len(c.Flags) > 0 {
		return []Finding{{Warning, "cpu", "the processors have no instructions for AES: encryption takes about ten times as long",
			"use chacha20poly1305 in esp_proposals, or another machine; a virtual one may hide what its host has (CPU type host)"}}
	}
	if len(inv.Ciphers) == 0 {
		return nil // the kernel makes it with the first SA
	}
	first := inv.Ciphers[0]
	if fast && strings.Contains(first.Driver, "generic") {
		return []Finding{{Problem, "crypto", fmt.Sprintf("AES-GCM is computed by %s, though the processors have instructions for AES", first.Driver),
			"modprobe aesni_intel, then set the tunnels up again: an SA keeps the driver that it began with"}}
	}
	if c.Has("vaes") && !strings.Contains(first.Driver, "vaes") && !inv.Kernel.atLeast(6, 11) {
		return []Finding{{Note, "crypto", fmt.Sprintf("AES-GCM is computed by %s; kernels from 6.11 on use the processors' wider instructions (VAES)", first.Driver),
			"a newer kernel (Debian backports)"}}
	}
	return nil
}

func judgeModules(inv *Inventory) (out []Finding) {
	for _, m := range inv.Modules {
		switch {
		case m.State == ModuleLoadable:
			out = append(out, Finding{Note, "module", "kernel module " + m.Name + " is not loaded", "espalierd loads it when it starts; by hand: modprobe " + m.Name})
		case m.State == ModuleAbsent && (m.Name == "xfrm_user" || m.Name == "esp4"):
			out = append(out, Finding{Problem, "module", "the kernel has no " + m.Name + ": without it there are no tunnels", "a kernel with CONFIG_XFRM_USER and CONFIG_INET_ESP, such as Debian's"})
		case m.State == ModuleAbsent:
			out = append(out, Finding{Note, "module", "the kernel has no " + m.Name, ""})
		}
	}
	return out
}

func judgeKernel(inv *Inventory) (out []Finding) {
	why := map[string]string{
		"xfrm statistics":     "why packets are lost is only known by SA (CONFIG_XFRM_STATISTICS)",
		"types for BPF (BTF)": "why packets are lost is not known by SA (CONFIG_DEBUG_INFO_BTF)",
		"BPF compiled (JIT)":  "each packet's way through the fast path takes several times as long (net.core.bpf_jit_enable)",
	}
	for _, f := range inv.Kernel.Features {
		if text := why[f.Name]; !f.Has && text != "" {
			out = append(out, Finding{Note, "kernel", "the kernel lacks " + f.Name + ": " + text, ""})
		}
	}
	return out
}

func judgeNICs(inv *Inventory) (out []Finding) {
	for _, n := range inv.NICs {
		if n.RXQueues == 1 && inv.CPU.Online > 1 {
			out = append(out, Finding{Note, "nic", fmt.Sprintf("%s (%s) has one receive queue for %d CPUs: one CPU takes all its packets", n.Name, n.Driver, inv.CPU.Online),
				"steering = pinned spreads tunnels over the CPUs; ethtool -L " + n.Name + " combined N where the device has more"})
		}
		if slices.Contains(n.Off, "rx-gro") {
			out = append(out, Finding{Warning, "nic", n.Name + " does not join received packets (GRO): each costs its way through the kernel alone", "ethtool -K " + n.Name + " gro on"})
		}
	}
	return out
}

// sysctlIn finds a value.
func sysctlIn(inv *Inventory, name string) (string, bool) {
	for _, s := range inv.Sysctls {
		if s.Name == name {
			return s.Value, true
		}
	}
	return "", false
}

// least are the sizes below which a gateway loses packets under load, octets.
const leastBuffer = 16 << 20

func judgeSysctls(inv *Inventory) (out []Finding) {
	if v, ok := sysctlIn(inv, "net.ipv4.ip_forward"); ok && v == "0" {
		out = append(out, Finding{Warning, "sysctl", "the box does not forward IPv4: hosts behind it reach no tunnel", "sysctl -w net.ipv4.ip_forward=1 (and in /etc/sysctl.d)"})
	}
	if v, ok := sysctlIn(inv, "net.ipv6.conf.all.forwarding"); ok && v == "0" {
		out = append(out, Finding{Note, "sysctl", "the box does not forward IPv6", "sysctl -w net.ipv6.conf.all.forwarding=1 where tunnels carry IPv6"})
	}
	for _, name := range []string{"net.core.rmem_max", "net.core.wmem_max"} {
		if v, ok := sysctlIn(inv, name); ok {
			if n, err := strconv.Atoi(v); err == nil && n < leastBuffer {
				out = append(out, Finding{Note, "sysctl", fmt.Sprintf("%s is %d octets: netlink loses messages when many SAs change at once", name, n),
					fmt.Sprintf("the tuner raises it (tune = on); by hand: sysctl -w %s=%d", name, leastBuffer)})
			}
		}
	}
	return append(out, judgeLinks(inv)...)
}

// judgeLinks looks at what each interface can have for itself.
func judgeLinks(inv *Inventory) (out []Finding) {
	all, _ := sysctlIn(inv, "net.ipv4.conf.all.rp_filter")
	redirects, _ := sysctlIn(inv, "net.ipv4.conf.all.send_redirects")
	var strict, tells []string
	for _, s := range inv.Sysctls {
		rest, ours := strings.CutPrefix(s.Name, "net.ipv4.conf.")
		link, what, _ := strings.Cut(rest, ".")
		switch {
		case !ours || link == "all":
		case what == "rp_filter" && max(s.Value, all) == "1": // the higher of the two counts
			strict = append(strict, link)
		case what == "send_redirects" && (s.Value == "1" || redirects == "1"): // either is enough
			tells = append(tells, link)
		}
	}
	if len(strict) > 0 {
		out = append(out, Finding{Warning, "sysctl", "packets that come in by " + some(strict) + ", decrypted ones as well, are dropped without a word when the way back to their source leads elsewhere (rp_filter 1)",
			"sysctl -w net.ipv4.conf.all.rp_filter=2: the higher of this and the interface's own counts"})
	}
	if len(tells) > 0 {
		out = append(out, Finding{Note, "sysctl", "hosts behind " + some(tells) + " are told to go round the box when their packets leave by the interface that they came by (send_redirects)",
			"sysctl -w net.ipv4.conf.all.send_redirects=0, and the same for each of these interfaces"})
	}
	return out
}

// some names a few of a list.
func some(names []string) string {
	const few = 4
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

func judgeEntropy(inv *Inventory) []Finding {
	if inv.Entropy.CPU || inv.Entropy.Device != "" {
		return nil
	}
	return []Finding{{Warning, "entropy", "neither the processors nor a device give randomness: shortly after boot keys wait for it", "virtio-rng for a virtual machine, or the package jitterentropy-rngd"}}
}
