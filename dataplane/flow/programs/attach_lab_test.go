//go:build lab

package programs

import (
	"errors"
	"net"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// Every program attaches where it belongs: XDP in the driver and generic, traffic control by TCX or, on kernels before 6.6, by clsact, and
// cpu_in in the CPUMAP.
func TestAttach(t *testing.T) {
	sh(t, `ip netns add near; ip netns add far
		ip link add v0 netns near mtu 9000 type veth peer name v1 netns far mtu 9000
		ip -n near link set v0 up; ip -n far link set v1 up`)
	defer sh(t, "ip netns del near; ip netns del far")
	b := newBox(t)
	b.put("cpus", uint32(0), bpf.CPUMapValue{Queue: 64, Program: uint32(b.programs["cpu_in"].FD())})
	inNamespace(t, "near", func() {
		v0, err := net.InterfaceByName("v0")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"esp_in", "esp_in_stay", "flow_in"} {
			for mode, flags := range map[string]link.XDPAttachFlags{"driver": link.XDPDriverMode, "generic": link.XDPGenericMode} {
				l, err := link.AttachXDP(link.XDPOptions{Program: b.programs[name], Interface: v0.Index, Flags: flags})
				if err != nil {
					t.Errorf("%s, %s: %v", name, mode, err)
					continue
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		for _, name := range []string{"esp_in_raw", "esp_out", "esp_out_raw", "mss_xfrm", "mss_in", "mss_in_raw", "mss_out", "mss_out_raw"} {
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				l, err := link.AttachTCX(link.TCXOptions{Program: b.programs[name], Interface: v0.Index, Attach: at})
				if errors.Is(err, ebpf.ErrNotSupported) {
					attachClsact(t, v0.Index, name, b.programs[name], at)
					continue
				}
				if err != nil {
					t.Errorf("%s, %s: %v", name, at, err)
					continue
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// attachClsact is for kernels without TCX; the filters go with the namespace.
func attachClsact(t *testing.T, index int, name string, p *ebpf.Program, at ebpf.AttachType) {
	t.Helper()
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if at == ebpf.AttachTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	clsact := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0),
		Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
	filter := &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent, Protocol: unix.ETH_P_ALL}, Fd: p.FD(), Name: name,
		DirectAction: true}
	if err := netlink.FilterAdd(filter); err != nil {
		t.Errorf("%s, clsact: %v", name, err)
	}
}
