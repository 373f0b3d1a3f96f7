package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// gateway is a made-up box with nothing to say about it; change alters its files
// (empty: takes one away).
func gateway(t *testing.T, change map[string]string) Local {
	t.Helper()
	files := map[string]string{
		"/proc/sys/kernel/osrelease": "6.12.9-amd64", "/proc/net/xfrm_stat": "", "/sys/kernel/btf/vmlinux": "", "/proc/sys/net/core/bpf_jit_enable": "1",
		"/sys/devices/system/cpu/online": "0-3", "/sys/class/misc/hw_random/rng_current": "virtio_rng.0",
		"/proc/cpuinfo": "processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu aes sse pclmulqdq vaes rdrand\n\nprocessor\t: 1\nmodel name\t: Some Processor\nflags\t: fpu\n",
		"/proc/crypto": "name         : rfc4106(gcm(aes))\ndriver       : rfc4106-gcm-aesni\nmodule       : aesni_intel\npriority     : 400\n\n" +
			"name         : rfc4106(gcm(aes))\ndriver       : rfc4106-gcm-vaes-avx512\nmodule       : aesni_intel\npriority     : 800\n\n" +
			"name         : sha256\ndriver       : sha256-generic\npriority     : 900\n",
		"/lib/modules/6.12.9-amd64/modules.builtin": "kernel/net/xfrm/xfrm_user.ko\n",
		"/lib/modules/6.12.9-amd64/modules.dep": "kernel/net/ipv4/esp4.ko.xz: kernel/net/x.ko.xz\nkernel/net/ipv6/esp6.ko.xz:\nkernel/net/ipv4/esp4_offload.ko.xz:\n" +
			"kernel/net/ipv6/esp6_offload.ko.xz:\nkernel/net/xfrm/xfrm_interface.ko.xz:\nkernel/arch/x86/crypto/aesni-intel.ko.xz:\n",
		"/proc/sys/net/ipv4/ip_forward": "1", "/proc/sys/net/ipv6/conf/all/forwarding": "1", "/proc/sys/net/ipv4/conf/all/rp_filter": "0",
		"/proc/sys/net/ipv4/conf/all/send_redirects": "0", "/proc/sys/net/ipv4/conf/eth0.5/rp_filter": "2", "/proc/sys/net/ipv4/conf/eth0.5/send_redirects": "0",
		"/proc/sys/net/core/rmem_max": "16777216", "/proc/sys/net/core/wmem_max": "16777216",
		"/proc/1/comm": "systemd", "/proc/9/comm": "espalierd",
		"/sys/class/net/eth0/mtu": "1500", "/sys/class/net/eth0/queues/rx-0/rps_cpus": "0", "/sys/class/net/eth0/queues/rx-1/rps_cpus": "0",
		"/sys/class/net/eth0/queues/tx-0/xps_cpus": "0",
	}
	for _, m := range Modules {
		files["/sys/module/"+m+"/refcnt"] = "1"
	}
	for name, content := range change {
		files[name] = content
		if content == "" {
			delete(files, name)
		}
	}
	files[bootID] = "b1"
	l := fakeRoot(t, files)
	must(t, os.MkdirAll(l.path("/sys/class/net/eth0/device"), 0o755))
	must(t, os.Symlink("../../bus/drivers/ixgbe", l.path("/sys/class/net/eth0/device/driver")))
	must(t, os.Remove(l.path(bootID)))
	return l
}

func TestInventory(t *testing.T) {
	inv := gateway(t, nil).Inventory(t.Context())
	if len(inv.Findings) != 0 {
		t.Errorf("findings on a box with nothing wrong: %+v", inv.Findings)
	}
	if inv.Kernel.Release != "6.12.9-amd64" || inv.Kernel.version != [2]int{6, 12} || inv.CPU.Model != "Some Processor" || inv.CPU.Online != 4 ||
		!slices.Equal(inv.CPU.Flags, []string{"aes", "pclmulqdq", "vaes", "rdrand"}) || inv.Entropy != (Entropy{"virtio_rng.0", true}) {
		t.Errorf("%+v", inv)
	}
	if len(inv.Ciphers) != 2 || inv.Ciphers[0] != (Cipher{espCipher, "rfc4106-gcm-vaes-avx512", "aesni_intel", 800}) {
		t.Errorf("ciphers %+v, expected the two of AES-GCM, the preferred one first", inv.Ciphers)
	}
	if len(inv.NICs) != 1 || inv.NICs[0].Driver != "ixgbe" || inv.NICs[0].MTU != 1500 || inv.NICs[0].RXQueues != 2 || inv.NICs[0].TXQueues != 1 {
		t.Errorf("NICs %+v", inv.NICs)
	}
	if i := slices.Index(inv.Modules, Module{"xfrm_user", ModuleBuiltIn}); i < 0 || len(inv.Modules) != len(Modules) {
		t.Errorf("modules %+v", inv.Modules)
	}
	if i := slices.Index(inv.Sysctls, Sysctl{"net.ipv4.conf.eth0/5.rp_filter", "2"}); i < 0 {
		t.Errorf("sysctls %+v", inv.Sysctls)
	}
}

// TestInventoryJSON: what is not there is an empty list, not null.
func TestInventoryJSON(t *testing.T) {
	b, err := json.Marshal(Local{root: t.TempDir()}.Inventory(t.Context()))
	if err != nil || strings.Contains(string(b), "null") || !strings.Contains(string(b), `"ciphers":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}

// TestFindings: each thing that is wrong is found, and nothing else.
func TestFindings(t *testing.T) {
	const cpuinfo = "model name : x\nflags : "
	for _, c := range []struct {
		name   string
		change map[string]string
		want   []string // severity, topic and a part of cause and fix
	}{
		{"no AES", map[string]string{"/proc/cpuinfo": cpuinfo + "sse rdrand avx2\n"}, []string{"warning cpu: no instructions for AES -> chacha20poly1305"}},
		{"slow driver", map[string]string{"/proc/crypto": "name : rfc4106(gcm(aes))\ndriver : rfc4106(gcm_base(ctr(aes-generic),ghash-generic))\n"},
			[]string{"problem crypto: ghash-generic -> modprobe aesni_intel"}},
		{"old kernel", map[string]string{"/proc/sys/kernel/osrelease": "6.1.0-42-amd64", "/proc/crypto": "name : rfc4106(gcm(aes))\ndriver : rfc4106-gcm-aesni\n"},
			[]string{"note crypto: (VAES) -> newer kernel"}},
		{"not chosen yet", map[string]string{"/proc/crypto": "name : sha1\n"}, nil},
		{"module not loaded", map[string]string{"/sys/module/esp4_offload/refcnt": ""}, []string{"note module: esp4_offload is not loaded -> modprobe esp4_offload"}},
		{"no ESP", map[string]string{"/sys/module/esp4/refcnt": "", "/lib/modules/6.12.9-amd64/modules.dep": "kernel/x.ko:"}, []string{"problem module: no esp4 -> CONFIG_INET_ESP"}},
		{"a kernel that does not tell", map[string]string{"/sys/module/esp4/refcnt": "", "/lib/modules/6.12.9-amd64/modules.dep": "", "/lib/modules/6.12.9-amd64/modules.builtin": ""}, nil},
		{"no types", map[string]string{"/sys/kernel/btf/vmlinux": ""}, []string{"note kernel: CONFIG_DEBUG_INFO_BTF -> "}},
		{"no JIT", map[string]string{"/proc/sys/net/core/bpf_jit_enable": "0"}, []string{"note kernel: bpf_jit_enable -> "}},
		{"no forwarding", map[string]string{"/proc/sys/net/ipv4/ip_forward": "0", "/proc/sys/net/ipv6/conf/all/forwarding": "0"},
			[]string{"warning sysctl: not forward IPv4 -> net.ipv4.ip_forward=1", "note sysctl: not forward IPv6 -> forwarding=1"}},
		{"strict of one", map[string]string{"/proc/sys/net/ipv4/conf/eth0.5/rp_filter": "1"}, []string{"warning sysctl: eth0/5, decrypted -> rp_filter=2"}},
		{"strict of all", map[string]string{"/proc/sys/net/ipv4/conf/all/rp_filter": "1", "/proc/sys/net/ipv4/conf/eth0.5/rp_filter": "0"}, []string{"warning sysctl: eth0/5, decrypted -> rp_filter=2"}},
		{"loose of all", map[string]string{"/proc/sys/net/ipv4/conf/all/rp_filter": "2", "/proc/sys/net/ipv4/conf/eth0.5/rp_filter": "1"}, nil},
		{"redirects", map[string]string{"/proc/sys/net/ipv4/conf/all/send_redirects": "1"}, []string{"note sysctl: behind eth0/5 are told -> send_redirects=0"}},
		{"small buffers", map[string]string{"/proc/sys/net/core/rmem_max": "212992"}, []string{"note sysctl: rmem_max is 212992 octets -> net.core.rmem_max=16777216"}},
		{"no randomness", map[string]string{"/sys/class/misc/hw_random/rng_current": "none", "/proc/cpuinfo": cpuinfo + "aes\n"}, []string{"warning entropy: randomness -> virtio-rng"}},
		{"one queue", map[string]string{"/sys/class/net/eth0/queues/rx-1/rps_cpus": ""}, []string{"note nic: eth0 (ixgbe) has one receive queue for 4 CPUs -> ethtool -L eth0"}},
		{"NetworkManager", map[string]string{"/proc/77/comm": "NetworkManager"}, []string{"note service: NetworkManager runs -> unmanaged-devices"}},
		{"systemd-networkd", map[string]string{"/proc/77/comm": "systemd-network"},
			[]string{"warning service: (ManageForeignRoutes) -> ManageForeignRoutes=no", "warning service: (ManageForeignRoutingPolicyRules) -> ManageForeignRoutingPolicyRules=no"}},
		{"systemd-networkd told", map[string]string{"/proc/77/comm": "systemd-network", "/etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=yes\nManageForeignRoutes = yes\n",
			"/etc/systemd/networkd.conf.d/a.conf": "[Network]\nManageForeignRoutes=no\n", "/usr/lib/systemd/networkd.conf.d/b.conf": "ManageForeignRoutingPolicyRules=false\n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := gateway(t, c.change).Inventory(t.Context()).Findings
			if len(got) != len(c.want) {
				t.Fatalf("%d findings, expected %d: %+v", len(got), len(c.want), got)
			}
			for i, f := range got {
				head, rest, _ := strings.Cut(c.want[i], ": ")
				cause, fix, _ := strings.Cut(rest, " -> ")
				if string(f.Severity)+" "+f.Topic != head || !strings.Contains(f.Cause, cause) || !strings.Contains(f.Fix, fix) {
					t.Errorf("%+v, expected %s", f, c.want[i])
				}
			}
		})
	}
}

// TestOtherIKEDaemon: whoever has IKE's ports open is found by its sockets.
func TestOtherIKEDaemon(t *testing.T) {
	inOwnNamespace(t, func() {
		for _, addr := range []string{"127.0.0.1:500", "127.0.0.1:4500", "127.0.0.1:501"} {
			c, err := net.ListenPacket("udp4", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
		}
		var mine []Service
		for _, s := range (Local{}).services() {
			if s.PID == os.Getpid() {
				mine = append(mine, s)
			}
		}
		if len(mine) != 1 || !slices.Equal(mine[0].Ports, []int{500, 4500}) {
			t.Errorf("this process: %+v, expected ports 500 and 4500", mine)
		}
		f := judgeServices(&Inventory{Services: mine})
		if len(f) != 1 || f[0].Severity != Problem || !strings.Contains(f[0].Cause, "UDP port 500 and 4500") {
			t.Errorf("findings: %+v", f)
		}
	})
}

// TestFirewall asks nft itself for the rules, in a network namespace of their own.
func TestFirewall(t *testing.T) {
	if !(Local{}).exists("/usr/sbin/nft") {
		t.Skip("needs nft")
	}
	const ike, natt, esp = "IKE (UDP port 500)", "UDP port 4500", "drops ESP"
	for _, c := range []struct {
		name, rules string
		want        []string
	}{
		{"no rules", "", nil},
		{"a chain that accepts", "chain in { type filter hook input priority 0; }", nil},
		{"only what was asked for", "chain in { type filter hook input priority 0; policy drop; iif lo accept; ct state established,related accept; ct state invalid drop; tcp dport 22 accept; }", []string{ike, natt, esp}},
		{"all let in", "chain in { type filter hook input priority 0; policy drop; udp dport { 500, 4500 } accept; meta l4proto esp accept; }", nil},
		{"by range and number", "chain in { type filter hook input priority 0; policy drop; udp dport 400-5000 accept; ip protocol 50 accept; }", nil},
		{"without ESP", "chain in { type filter hook input priority 0; policy drop; udp dport { 500, 4500 } ct state new accept; }", []string{esp}},
		{"all UDP", "chain in { type filter hook input priority 0; policy drop; meta l4proto { udp, esp } accept; }", nil},
		{"dropped by a rule", "chain in { type filter hook input priority 0; udp dport 4500 drop; meta l4proto esp reject; }", []string{natt, esp}},
		{"accepted before", "chain in { type filter hook input priority 0; udp dport 4500 accept; udp dport != 500 drop; }", nil},
		{"of some peers", "chain in { type filter hook input priority 0; policy drop; ip saddr 192.0.2.0/24 accept; }", nil},
		{"dropped for some", "chain in { type filter hook input priority 0; ip saddr 192.0.2.0/24 udp dport 500 drop; }", nil},
		{"in another chain", "chain vpn { udp dport 500 accept; return; }; chain in { type filter hook input priority 0; policy drop; jump vpn; }", []string{natt, esp}},
		{"only forwarded", "chain in { type filter hook forward priority 0; policy drop; }", nil},
		{"early", "chain in { type filter hook prerouting priority -300; ip protocol esp drop; }", []string{esp}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inOwnNamespace(t, func() {
				if c.rules != "" {
					cmd := exec.Command("nft", "-f", "-")
					cmd.Stdin = strings.NewReader("table inet f { " + c.rules + "; }")
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("nft: %v: %s", err, out)
						return
					}
				}
				got := (Local{}).firewall(context.Background(), moduleSet{})
				if len(got) != len(c.want) {
					t.Errorf("findings %+v, expected %d", got, len(c.want))
					return
				}
				for i, f := range got {
					if !strings.Contains(f.Cause, c.want[i]) || f.Severity != Warning {
						t.Errorf("%+v, expected %s", f, c.want[i])
					}
					// What it advises helps, and is what nft takes.
					if out, err := exec.Command("sh", "-c", f.Fix).CombinedOutput(); err != nil {
						t.Errorf("%s: %v: %s", f.Fix, err, out)
					}
				}
				if got := (Local{}).firewall(context.Background(), moduleSet{}); len(got) != 0 {
					t.Errorf("after the advice: %+v, expected nothing", got)
				}
			})
		})
	}
	for _, text := range []string{"", "{", `{"nftables":3}`} {
		if _, err := judgeRules([]byte(text)); err == nil {
			t.Errorf("%q: expected an error", text)
		}
	}
	deep := fmt.Sprintf(`{"nftables":[{"chain":{"family":"inet","table":"f","name":"in","hook":"input","policy":"drop"}},%s]}`,
		`{"rule":{"family":"inet","table":"f","chain":"in","expr":[{"jump":{"target":"in"}}]}}`)
	if got, err := judgeRules([]byte(deep)); err != nil || len(got) != 0 {
		t.Errorf("a chain that jumps to itself: %+v, %v", got, err)
	}
}

// TestMeasureCipher by what the kernel offers; the lab has kernels that offer both, or
// only the SA.
func TestMeasureCipher(t *testing.T) {
	for _, c := range []struct {
		by      By
		piece   int
		measure func(context.Context, time.Duration) (Speed, error)
	}{{ByAlg, speedPiece, (Local{}).measureAlg}, {BySA, saPiece, (Local{}).measureSA}} {
		s, err := c.measure(t.Context(), 10*time.Millisecond)
		if err != nil {
			t.Logf("not here: %v", err)
			continue
		}
		if s.BytesPerSecond <= 0 || s.Driver == "" || s.Piece != c.piece || s.By != c.by {
			t.Errorf("%+v", s)
		}
	}
}

// TestLoadModules asks for what is there as a file and not in the kernel; modprobe
// says that it is not, here.
func TestLoadModules(t *testing.T) {
	l := gateway(t, nil)
	if err := l.LoadModules(); err != nil {
		t.Errorf("all are loaded: %v", err)
	}
	must(t, os.RemoveAll(l.path("/sys/module/esp6_offload")))
	f, err := os.OpenFile(filepath.Join(l.root, "lib/modules/6.12.9-amd64/modules.dep"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	must(t, f.Close())
	if (Local{}).moduleState("esp6_offload", (Local{}).kernel().modules) == ModuleUnknown {
		if err := l.LoadModules(); err == nil || !strings.Contains(err.Error(), "esp6_offload") {
			t.Errorf("%v, expected that esp6_offload could not be loaded", err)
		}
	}
}
