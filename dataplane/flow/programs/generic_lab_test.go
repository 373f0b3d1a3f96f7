//go:build lab

package programs

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// genericBox is near, which gets ESP from far through esp_in_stay in generic mode.
func genericBox(t *testing.T) (b *box, send func([]byte), got func(int) int) {
	t.Helper()
	b = newBox(t)
	sh(t, `ip netns add near; ip netns add far
		ip link add v0 netns near type veth peer name v1 netns far
		ip -n near addr add 192.0.2.1/24 dev v0; ip -n near link set v0 up; ip -n near link set lo up
		ip -n far addr add 192.0.2.2/24 dev v1; ip -n far link set v1 up
		ip netns exec near ping -c 1 -W 2 192.0.2.2 >/dev/null
		ip -n near xfrm state add `+near4+` proto esp spi 0x1001 reqid 1 mode tunnel replay-window 32 enc 'ecb(cipher_null)' '' `+noAuth+`
		ip -n near xfrm policy add src 198.51.100.0/24 dst 192.0.2.1/32 dir in tmpl `+near4+` proto esp reqid 1 mode tunnel`)
	t.Cleanup(func() { sh(t, "ip netns del near; ip netns del far") })
	var arrived *net.UDPConn
	inNamespace(t, "near", func() {
		device, err := net.InterfaceByName("v0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: b.programs["esp_in_stay"], Interface: device.Index, Flags: link.XDPGenericMode})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		if arrived, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 9}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = arrived.Close() })
	})
	fd := rawSocket(t, "far", unix.AF_INET, unix.IPPROTO_ESP)
	send = func(p []byte) { sendRaw(t, fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr("192.0.2.1").As4()}, p) }
	got = func(want int) (n int) {
		buf := make([]byte, 100)
		if err := arrived.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for ; n < want; n++ {
			if _, err := arrived.Read(buf); err != nil {
				break
			}
		}
		return n
	}
	return b, send, got
}

// Generic XDP may see what was decrypted a second time, and then counts it as what it is: what is for others not at all, IKE to ourselves as IKE, which the
// guard looks at like any other. From Linux 6.9 on, a packet that it had to copy for headroom comes back without its Ethernet header, and is nothing to
// it: either is right, and all or none.
func TestGenericSeesTwice(t *testing.T) {
	b, send, got := genericBox(t)
	b.put("own_addrs", bpf.AddrKey{Family: 4, Addr: [16]byte{192, 0, 2, 1}}, uint32(0))
	b.add("sa", bpf.DirIn, "192.0.2.1", 0x1001, 1) // steered, as far as it can be
	c := b.table.Programs()
	c.Guard, c.AliveUntil, c.Steer = uint32(bpf.GuardOn), later, uint32(bpf.SteerSlot)
	message := []layer{udp(500, 500, ike(1, 2, 37, 0)), ike(1, 2, 37, 0)}
	inside := packet{ip4("198.51.100.2", "192.0.2.1", 17, message...)}.add(message...).bytes()
	const count = 20
	want := b.snapshot()
	seq := uint32(0)
	for range count {
		for _, inner := range [][]byte{inside, innerUDP()} {
			seq++
			p := nullESP(0x1001, seq, inner)
			send(p)
			want.add("sa", 20+len(p))
		}
	}
	if n := got(count); n != count {
		t.Errorf("%d datagrams arrived, expected %d", n, count)
	}
	g := b.snapshot()
	if g.totals[bpf.TotalIKE] != 0 {
		want.totals[bpf.TotalIKE], want.totals[bpf.TotalGuardIKESPI] = count, count
	}
	if fmt.Sprint(g) != fmt.Sprint(want) {
		t.Errorf("counters:\n%v\nexpected:\n%v", g, want)
	}
}

// add counts a packet of that many bytes.
func (s snapshot) add(sa string, bytes int) {
	n := s.sas[sa]
	n.Packets++
	n.Bytes += uint64(bytes)
	s.sas[sa] = n
}
