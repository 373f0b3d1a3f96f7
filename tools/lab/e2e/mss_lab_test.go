//go:build lab

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/tools/lab/topo"
)

// fastPath has espalierd fit TCP, or not, at a gateway's interfaces.
func fastPath(mss string) string {
	return "espalier {\n outside = out0\n inside = in0\n mss = " + mss + "\n}\n"
}

// TestMSS: what both ends of a TCP connection are told is what fits into the tunnel to the byte, whatever protects it; and what it is
// without, so that the test can tell. One daemon runs all of it: an emulated CPU verifies its programs for a long time.
func TestMSS(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	l.fast = true
	const gcm, sha512 = "aes128gcm16", "aes256-sha512"
	for _, c := range []struct {
		name, esp, mss string
		outer, inner   topo.Family
		encap          bool
		want           int
	}{
		// 1500 less IP, UDP, ESP, IV and ICV, cut to whole blocks, less 2 for the trailer, less IP and TCP.
		{"AES-GCM", gcm, "yes", topo.IPv4, topo.IPv4, false, (1500-20-8-8-16)/4*4 - 2 - 40},
		{"AES-CBC SHA2-512", sha512, "yes", topo.IPv4, topo.IPv4, false, (1500-20-8-16-32)/16*16 - 2 - 40},
		{"NAT traversal", gcm, "yes", topo.IPv4, topo.IPv4, true, (1500-20-8-8-8-16)/4*4 - 2 - 40},
		{"IPv6 outside", gcm, "yes", topo.IPv6, topo.IPv4, false, (1500-40-8-8-16)/4*4 - 2 - 40},
		{"IPv6 in IPv4", sha512, "yes", topo.IPv4, topo.IPv6, false, (1500-20-8-16-32)/16*16 - 2 - 60},
		{"off", gcm, "no", topo.IPv4, topo.IPv4, false, 1460},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shape{outer: c.outer, inner: c.inner}
			ours, theirs := l.sides(psk, proposals{c.name, "aes128gcm16-prfsha256-x25519", c.esp}, s)
			ours.encap, ours.more = c.encap, fastPath(c.mss)
			l.start(t, ours, theirs)
			l.mustInitiate(t, true)
			a, b := l.client(l.ours), l.client(l.theirs)
			for _, ends := range [][2]*topo.Host{{a, b}, {b, a}} {
				from, to := ends[0], ends[1]
				forgetPaths(t, a, b)
				syn, answer := synWatch(t, to), synWatch(t, from)
				if _, err := from.Transfer(t.Context(), to, to.Inner(c.inner), transferSize); err != nil {
					t.Fatal(err)
				}
				if got := syn.mss(t, from.Inner(c.inner)); got != c.want {
					t.Errorf("%s was told %d by %s, expected %d", to.Name, got, from.Name, c.want)
				}
				if got := answer.mss(t, to.Inner(c.inner)); got != c.want {
					t.Errorf("%s was answered %d by %s, expected %d", from.Name, got, to.Name, c.want)
				}
			}
		})
	}
	t.Run("black hole", l.blackHole)
}

// forgetPaths makes hosts forget the MTU that they have met on their way, which they would announce by themselves.
func forgetPaths(t *testing.T, hosts ...*topo.Host) {
	t.Helper()
	for _, h := range hosts {
		for _, family := range []string{"-4", "-6"} {
			if _, err := h.Run(t.Context(), "ip", family, "route", "flush", "cache"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// blackHole: 1 MB of TCP passes each way through a path with an MTU of 1280 that swallows what is bigger and says nothing.
func (l *lab) blackHole(t *testing.T) {
	l.narrow(t, l.Wire, "port1", 1280)
	l.narrow(t, l.Wire, "port2", 1280) // a bridge lets four octets more pass, for a VLAN tag
	s := shape{outer: topo.IPv4, inner: topo.IPv4}
	ours, theirs := l.sides(psk, suites[1], s)
	ours.more = "espalier { path_mtu = yes }\n" + fastPath("yes")
	l.start(t, ours, theirs)
	l.mustInitiate(t, true)
	// Nearly each probe of the search is swallowed, which takes its time to be seen: half a minute in all.
	l.within(t, 4*patience, "a path MTU", func() error {
		if !strings.Contains(l.log(), `"path MTU"`) {
			return errors.New("not found")
		}
		return nil
	})
	mtu := l.event(t, "path MTU")["mtu"]
	a, b := l.client(l.ours), l.client(l.theirs)
	const size = 1_000_000
	for _, ends := range [][2]*topo.Host{{a, b}, {b, a}} {
		took, err := ends[0].Transfer(t.Context(), ends[1], ends[1].Inner(s.inner), size)
		if err != nil {
			t.Fatalf("path MTU %v: %v", mtu, err)
		}
		t.Logf("path MTU %v, 1 MB from %s in %s", mtu, ends[0].Name, took)
	}
}

// syns is the TCP packets with SYN that a client's device has seen.
type syns struct{ fd int }

// synWatch begins to watch.
func synWatch(t *testing.T, h *topo.Host) *syns {
	t.Helper()
	s := &syns{fd: -1}
	err := h.Do(func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL in network order
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		limit := unix.NsecToTimeval(int64(patience))
		return errors.Join(unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}),
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	})
	if err != nil {
		t.Fatalf("watching %s: %v", h.Name, err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// mss is what the first SYN from that address says.
func (s *syns) mss(t *testing.T, from netip.Addr) int {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			t.Fatalf("no SYN from %s: %v", from, err)
		}
		if mss, err := synOf(buf[:n], from); err == nil {
			return mss
		}
	}
}

// synOf reads the MSS of a frame that is a SYN from that address.
func synOf(f []byte, from netip.Addr) (int, error) {
	at, proto := 14+20, byte(0)
	var src netip.Addr
	switch {
	case len(f) > at+20 && f[12] == 0x08 && f[13] == 0:
		proto = f[23]
		src, _ = netip.AddrFromSlice(f[26:30])
	case len(f) > 14+40+20 && f[12] == 0x86 && f[13] == 0xdd:
		at, proto = 14+40, f[20]
		src, _ = netip.AddrFromSlice(f[22:38])
	}
	if proto != 6 || src != from || f[at+13]&2 == 0 {
		return 0, errors.New("not that")
	}
	for o := f[at+20 : min(at+int(f[at+12]>>4)*4, len(f))]; len(o) > 0; {
		switch {
		case o[0] == 1:
			o = o[1:]
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return 0, fmt.Errorf("options % x", o)
		case o[0] == 2 && o[1] == 4:
			return int(binary.BigEndian.Uint16(o[2:])), nil
		default:
			o = o[o[1]:]
		}
	}
	return 0, errors.New("no MSS")
}
