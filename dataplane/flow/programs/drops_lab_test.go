//go:build lab

package programs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// nullESP is ESP of an SA without cipher and with HMAC-SHA2-256 left out, in tunnel mode: what its kernel accepts needs no crypto to make.
func nullESP(spi, seq uint32, inner []byte) []byte {
	b := esp(spi, seq).b
	b = append(b, inner...)
	pad := (4 - (len(inner)+2)%4) % 4
	for i := range pad {
		b = append(b, byte(i+1))
	}
	return append(b, byte(pad), 4)
}

// dropScene is two namespaces, near with SAs of static keys whose drops are counted, and far, which sends to it.
type dropScene struct {
	*testing.T
	table *table.Table
	slots map[uint32]uint32 // by SPI
	send  func([]byte)      // what follows the IP header
}

const (
	noAuth = "auth digest_null ''"
	near4  = "src 192.0.2.2 dst 192.0.2.1"
)

// newDropScene loads and attaches the programs; nil: this kernel has no place for them.
func newDropScene(t *testing.T) *dropScene {
	t.Helper()
	spec, err := dropsIfTracing(t)(bpf.Sizes{Slots: 64, CPUs: ebpf.MustPossibleCPU()})
	if err != nil {
		t.Fatal(err)
	}
	if spec == nil {
		return nil
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for name, p := range c.Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	m := c.Maps
	tab, err := table.Open(table.Maps{Index: m["index"], SAs: m["sas"], DropCounts: m["drop_counts"], Totals: m["totals"],
		Config: m["config"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tab.Close() })
	sh(t, `ip netns add near; ip netns add far
		ip link add v0 netns near type veth peer name v1 netns far
		ip -n near addr add 192.0.2.1/24 dev v0; ip -n near addr add 2001:db8::1/64 dev v0 nodad; ip -n near link set v0 up; ip -n near link set lo up
		ip -n far addr add 192.0.2.2/24 dev v1; ip -n far link set v1 up
		ip netns exec near ping -c 1 -W 2 192.0.2.2 >/dev/null`)
	t.Cleanup(func() { sh(t, "ip netns del near; ip netns del far") })
	s := &dropScene{T: t, table: tab, slots: map[uint32]uint32{}}
	fd := rawSocket(t, "far", unix.AF_INET, unix.IPPROTO_ESP)
	s.send = func(b []byte) { sendRaw(t, fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr("192.0.2.1").As4()}, b) }
	return s
}

// state installs an SA of near, and has its drops counted.
func (s *dropScene) state(spi uint32, ends, more string) {
	s.Helper()
	sh(s.T, fmt.Sprintf("ip -n near xfrm state add %s proto esp spi 0x%x reqid 1 replay-window 32 enc 'ecb(cipher_null)' '' %s", ends, spi, more))
	dir, dst := uint8(bpf.DirIn), strings.Fields(ends)[3]
	if dst != "192.0.2.1" {
		dir = bpf.DirOut
	}
	s.known(spi, dir, dst)
}

func (s *dropScene) known(spi uint32, dir uint8, dst string) {
	s.Helper()
	slot, err := s.table.Insert(bpf.MakeKey(dir, netip.MustParseAddr(dst), spi), table.Attr{CPU: bpf.NoCPU})
	if err != nil {
		s.Fatal(err)
	}
	s.slots[spi] = slot
}

// innerUDP is a packet that nobody has a policy for.
func innerUDP() []byte {
	return packet{ip4("198.51.100.2", "192.0.2.1", 17, udp(1, 9, data(4)), data(4)), udp(1, 9, data(4)), data(4)}.bytes()
}

// nested is ESP in ESP in ESP, which is decrypted that often.
func nested(spi uint32, times int) []byte {
	inner := innerUDP()
	for i := times; i > 1; i-- {
		b := layer{"esp", nullESP(spi, uint32(i), inner)}
		inner = packet{ip4("192.0.2.2", "192.0.2.1", 50, b), b}.bytes()
	}
	return nullESP(spi, 1, inner)
}

// Each reason that can be provoked with packets is counted under its SA, on a kernel with programs at its functions. The others: docs/fastpath.md.
func TestDropReasons(t *testing.T) {
	s := newDropScene(t)
	if s == nil {
		t.Skip("this kernel has no programs at kernel functions")
	}
	s.inbound()
	s.policies()
	s.outbound()
}

// inbound: what xfrm_input loses.
func (s *dropScene) inbound() {
	s.state(0x1001, near4, "mode tunnel "+noAuth)
	s.state(0x1002, near4, "mode tunnel "+noAuth+" limit packet-hard 1")
	s.state(0x1003, near4, "mode tunnel auth-trunc 'hmac(sha256)' 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 128")
	s.state(0x1004, near4, "mode tunnel "+noAuth+" encap espinudp 4500 4500 0.0.0.0")
	s.state(0x1005, near4, "mode tunnel "+noAuth)
	s.known(0x1006, bpf.DirIn, "192.0.2.1")
	s.state(0x1007, near4, "mode tunnel "+noAuth+" sel src 203.0.113.0/24 dst 192.0.2.1/32")
	inner := innerUDP()
	broken := nullESP(0x1001, 9, inner)
	broken[len(broken)-2] = 200 // more padding than there is
	for _, step := range []struct {
		name   string
		packet []byte
		spi    uint32
		reason bpf.DropReason // decrypted, it has no policy
	}{
		{"first", nullESP(0x1001, 5, inner), 0x1001, bpf.DropNoPolicy},
		{"again", nullESP(0x1001, 5, inner), 0x1001, bpf.DropReplay},
		{"bad padding", broken, 0x1001, bpf.DropHeader},
		{"half a header", nullESP(0x1001, 10, nil)[:6], 0x1001, bpf.DropHeader},
		{"first of one", nullESP(0x1002, 1, inner), 0x1002, bpf.DropNoPolicy},
		{"second of one", nullESP(0x1002, 2, inner), 0x1002, bpf.DropExpired},
		{"forged", append(nullESP(0x1003, 1, inner), make([]byte, 16)...), 0x1003, bpf.DropIntegrity},
		{"without UDP", nullESP(0x1004, 1, inner), 0x1004, bpf.DropEncap},
		{"deeper than the kernel has room for", nested(0x1005, 7), 0x1005, bpf.DropMemory},
		{"no state", nullESP(0x1006, 1, inner), 0x1006, bpf.DropNoState},
		{"not of the SA's selector", nullESP(0x1007, 1, inner), 0x1007, bpf.DropSelector},
	} {
		s.expectDrop(step.spi, step.name, step.reason, func() { s.send(step.packet) })
	}
}

// policies: what is decrypted well and lost by a policy.
func (s *dropScene) policies() {
	for i, step := range []struct {
		policy string
		reason bpf.DropReason
	}{
		{"action block", bpf.DropPolicyBlock},
		{"tmpl src 192.0.2.2 dst 192.0.2.1 proto esp reqid 2 mode tunnel", bpf.DropTemplate},
	} {
		sh(s.T, "ip -n near xfrm policy add src 0.0.0.0/0 dst 192.0.2.1/32 dir in "+step.policy)
		s.expectDrop(0x1001, step.policy, step.reason, func() { s.send(nullESP(0x1001, uint32(20+i), innerUDP())) })
		sh(s.T, "ip -n near xfrm policy flush")
	}
}

// outbound: transport mode puts ESP behind the extension headers of IPv6, and finds that they don't end within the packet.
func (s *dropScene) outbound() {
	const far6 = "src 2001:db8::1 dst 2001:db8::2"
	s.state(0x2001, far6, "mode transport "+noAuth)
	sh(s.T, "ip -n near xfrm policy add "+far6+" dir out tmpl "+far6+" proto esp reqid 1 mode transport")
	fd := rawSocket(s.T, "near", unix.AF_INET6, unix.IPPROTO_RAW)
	cut := ext(17, 100)
	b := packet{ip6("2001:db8::1", "2001:db8::2", 0, layer{"ip", cut.b[:8]}), layer{"ip", cut.b[:8]}}.bytes()
	s.expectDrop(0x2001, "extension headers without end", bpf.DropOutProto, func() {
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("2001:db8::2").As16()}); err == nil {
			s.Error("expected the kernel to refuse the packet")
		}
	})
	sh(s.T, "ip -n near xfrm policy flush")
}

// expectDrop waits until the packet that is sent is counted under its SA with one reason, and no other.
func (s *dropScene) expectDrop(spi uint32, name string, reason bpf.DropReason, send func()) {
	s.Helper()
	tab, slot := s.table, s.slots[spi]
	want := tab.Drops(slot)
	want[reason]++
	send()
	got := tab.Drops(slot)
	for i := 0; i < 500 && got != want; i++ {
		time.Sleep(20 * time.Millisecond)
		got = tab.Drops(slot)
	}
	if got != want {
		s.Errorf("%s: drops by reason %v; expected %v", name, got, want)
	}
}

// rawSocket opens a socket of an IP protocol in a namespace.
func rawSocket(t *testing.T, ns string, family, protocol int) (fd int) {
	t.Helper()
	inNamespace(t, ns, func() {
		var err error
		if fd, err = unix.Socket(family, unix.SOCK_RAW, protocol); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func sendRaw(t *testing.T, fd int, to unix.Sockaddr, b []byte) {
	t.Helper()
	if err := unix.Sendto(fd, b, 0, to); err != nil {
		t.Fatal(err)
	}
}
