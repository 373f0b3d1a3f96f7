//go:build lab

package programs

import (
	"fmt"
	"net/netip"
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

// Each reason that can be provoked with packets is counted under its SA, on a kernel with programs at its functions.
func TestDropReasons(t *testing.T) {
	spec, err := dropsIfTracing(t)(bpf.Sizes{Slots: 64, CPUs: ebpf.MustPossibleCPU()})
	if err != nil {
		t.Fatal(err)
	}
	if spec == nil {
		t.Skip("this kernel has no programs at kernel functions")
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, p := range c.Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer l.Close()
	}
	m := c.Maps
	tab, err := table.Open(table.Maps{Index: m["index"], SAs: m["sas"], Counters: m["counters"], DropCounts: m["drop_counts"], Totals: m["totals"],
		Config: m["config"]})
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	sh(t, `ip netns add near; ip netns add far
		ip link add v0 netns near type veth peer name v1 netns far
		ip -n near addr add 192.0.2.1/24 dev v0; ip -n near link set v0 up; ip -n near link set lo up
		ip -n far addr add 192.0.2.2/24 dev v1; ip -n far link set v1 up
		ip netns exec near ping -c 1 -W 2 192.0.2.2 >/dev/null`)
	defer sh(t, "ip netns del near; ip netns del far")
	state := func(spi uint32, more string) {
		sh(t, fmt.Sprintf(`ip -n near xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x%x reqid 1 mode tunnel replay-window 32 \
			enc 'ecb(cipher_null)' '' %s`, spi, more))
	}
	const null = `auth digest_null ''`
	state(0x1001, null)
	state(0x1002, null+" limit packet-hard 1")
	state(0x1003, `auth-trunc 'hmac(sha256)' 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 128`)
	state(0x1004, null+" encap espinudp 4500 4500 0.0.0.0")
	slots := map[uint32]uint32{}
	for spi := uint32(0x1001); spi <= 0x1006; spi++ {
		slots[spi], err = tab.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), spi), table.Attr{CPU: bpf.NoCPU})
		if err != nil {
			t.Fatal(err)
		}
	}
	inner := packet{ip4("198.51.100.2", "192.0.2.1", 17, udp(1, 9, data(4)), data(4)), udp(1, 9, data(4)), data(4)}.bytes()
	send := rawESP(t, "far", "192.0.2.2", "192.0.2.1")
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
		{"first of one", nullESP(0x1002, 1, inner), 0x1002, bpf.DropNoPolicy},
		{"second of one", nullESP(0x1002, 2, inner), 0x1002, bpf.DropExpired},
		{"forged", append(nullESP(0x1003, 1, inner), make([]byte, 16)...), 0x1003, bpf.DropIntegrity},
		{"without UDP", nullESP(0x1004, 1, inner), 0x1004, bpf.DropEncap},
		{"no state", nullESP(0x1006, 1, inner), 0x1006, bpf.DropNoState},
	} {
		expectDrop(t, tab, slots[step.spi], step.name, step.reason, func() { send(step.packet) })
	}
	for i, step := range []struct {
		policy string
		reason bpf.DropReason
	}{
		{"action block", bpf.DropPolicyBlock},
		{"tmpl src 192.0.2.2 dst 192.0.2.1 proto esp reqid 2 mode tunnel", bpf.DropTemplate},
	} {
		sh(t, "ip -n near xfrm policy add src 0.0.0.0/0 dst 192.0.2.1/32 dir in "+step.policy)
		expectDrop(t, tab, slots[0x1001], step.policy, step.reason, func() { send(nullESP(0x1001, uint32(20+i), inner)) })
		sh(t, "ip -n near xfrm policy flush")
	}
}

// expectDrop waits until the packet that is sent is counted under its SA with one reason, and no other.
func expectDrop(t *testing.T, tab *table.Table, slot uint32, name string, reason bpf.DropReason, send func()) {
	t.Helper()
	want := tab.Drops(slot)
	want[reason]++
	send()
	got := tab.Drops(slot)
	for i := 0; i < 100 && got != want; i++ {
		time.Sleep(20 * time.Millisecond)
		got = tab.Drops(slot)
	}
	if got != want {
		t.Errorf("%s: drops by reason %v; expected %v", name, got, want)
	}
}

// rawESP opens a socket for IP protocol 50 in a namespace and gives a function that sends.
func rawESP(t *testing.T, ns, src, dst string) func([]byte) {
	t.Helper()
	fd := -1
	inNamespace(t, ns, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, 50); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	to := unix.SockaddrInet4{Addr: netip.MustParseAddr(dst).As4()}
	return func(b []byte) {
		t.Helper()
		if err := unix.Sendto(fd, b, 0, &to); err != nil {
			t.Fatal(err)
		}
	}
}
