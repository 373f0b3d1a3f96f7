//go:build lab

package programs

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// TCP over veth sees the lowered MSS, with a checksum that the receiver takes, whether the sender computes it or leaves it to the device.
func TestMSSOnVeth(t *testing.T) {
	for _, tx := range []string{"on", "off"} {
		t.Run("tx-checksum "+tx, func(t *testing.T) { mssOnVeth(t, tx) })
	}
}

func mssOnVeth(t *testing.T, tx string) {
	b := newBox(t)
	b.table.Programs().Mss = 1
	b.put("mss_prefixes", bpf.MakeLPMKey(netip.MustParsePrefix("192.0.2.2/32")), bpf.MSS{Mss4: 1111, Mss6: 1111})
	b.put("mss_prefixes", bpf.MakeLPMKey(netip.MustParsePrefix("2001:db8::2/128")), bpf.MSS{Mss4: 1222, Mss6: 1222})
	sh(t, `ip netns add near; ip netns add far
		ip link add v0 netns near type veth peer name v1 netns far
		for n in "near v0 1" "far v1 2"; do set -- $n
			ip -n $1 addr add 192.0.2.$3/24 dev $2; ip -n $1 addr add 2001:db8::$3/64 dev $2 nodad; ip -n $1 link set $2 up
			ip netns exec $1 ethtool -K $2 tx `+tx+` >/dev/null
		done
		mkdir -p /sys/fs/bpf; mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf`)
	defer sh(t, "ip netns del near; ip netns del far")
	var filter link.Link
	inNamespace(t, "far", func() {
		device, err := net.InterfaceByName("v1")
		if err != nil {
			t.Fatal(err)
		}
		// Ingress of far, where the SYN to it comes in: on the sender's side its checksum may not be there yet.
		filter, err = link.AttachTCX(link.TCXOptions{Interface: device.Index, Program: b.programs["mss_in"], Attach: ebpf.AttachTCXIngress})
		if err != nil {
			t.Fatal(err)
		}
	})
	defer filter.Close()
	for address, want := range map[string]int{"192.0.2.2": 1111, "2001:db8::2": 1222} {
		if got := announced(t, address); got != want {
			t.Errorf("%s: the listener may send segments of %d bytes; expected %d", address, got, want)
		}
	}
}

// announced connects from near to an address of far, and is the segment size that far's end may send.
func announced(t *testing.T, address string) int {
	t.Helper()
	var l net.Listener
	inNamespace(t, "far", func() {
		var err error
		if l, err = net.Listen("tcp", net.JoinHostPort(address, "0")); err != nil {
			t.Fatal(err)
		}
	})
	defer l.Close()
	inNamespace(t, "near", func() {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	if err := raw.Control(func(fd uintptr) {
		// TCP_MAXSEG is less the timestamps of 12 bytes, which every segment carries.
		size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return size + 12
}
