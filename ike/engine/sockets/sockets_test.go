package sockets

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// open opens sockets on free ports of loopback addresses and receives into a channel.
func open(t *testing.T, o Options) (*Set, <-chan Datagram) {
	t.Helper()
	o.TolerateNoXFRM = true
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	got, done := make(chan Datagram, 64), make(chan error, 1)
	go func() {
		done <- s.Receive(func(d Datagram) {
			d.Data = bytes.Clone(d.Data)
			got <- d
		})
	}()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Receive: %v", err)
		}
	})
	return s, got
}

// peer is a plain UDP socket connected to one of the set's ports.
func peer(t *testing.T, addr string, port uint16) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestLocalAddressAndAnswer(t *testing.T) {
	s, got := open(t, Options{})
	ike, natt := s.Ports()
	if ike == 0 || natt == 0 || ike == natt {
		t.Fatalf("ports %d and %d", ike, natt)
	}
	addrs := []string{"127.0.0.1", "127.0.0.2"}
	if !strings.Contains(strings.Join(s.Missing(), " "), "IPv6") {
		addrs = append(addrs, "::1")
	}
	for _, addr := range addrs {
		for _, port := range []uint16{ike, natt} {
			// A connected socket takes answers only from the address it asked.
			c := peer(t, addr, port)
			before := []byte{}
			if port == natt {
				before = marker[:]
			}
			if _, err := c.Write(append(bytes.Clone(before), "question"...)); err != nil {
				t.Fatal(err)
			}
			d := <-got
			if d.Local != netip.AddrPortFrom(netip.MustParseAddr(addr), port) || string(d.Data) != "question" ||
				d.Remote != c.LocalAddr().(*net.UDPAddr).AddrPort() {
				t.Errorf("%s port %d: got %q from %s to %s", addr, port, d.Data, d.Remote, d.Local)
			}
			if err := s.Send(d.Local, d.Remote, []byte("answer")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) != string(before)+"answer" {
				t.Errorf("%s port %d: answer %q, %v", addr, port, buf[:n], err)
			}
		}
	}
	if st := s.Stats(); st.Received != uint64(2*len(addrs)) || st.Sent != st.Received || st.SendErrors != 0 {
		t.Errorf("counters: %+v", st)
	}
}

func TestDSCP(t *testing.T) {
	s, got := open(t, Options{})
	ike, _ := s.Ports()
	addrs := []string{"127.0.0.1"}
	if !strings.Contains(strings.Join(s.Missing(), " "), "IPv6") {
		addrs = append(addrs, "::1")
	}
	for _, addr := range addrs {
		c := peer(t, addr, ike)
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		level, option := unix.IPPROTO_IP, unix.IP_RECVTOS
		if addr == "::1" {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS
		}
		err = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		d := <-got
		for _, dscp := range []uint8{46, 0, 63} {
			if err := s.SendDSCP(d.Local, d.Remote, []byte("answer"), dscp); err != nil {
				t.Fatal(err)
			}
			buf, oob := make([]byte, 100), make([]byte, 100)
			n, oobn, _, _, err := c.ReadMsgUDP(buf, oob)
			if err != nil {
				t.Fatal(err)
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(msgs) != 1 || string(buf[:n]) != "answer" || msgs[0].Data[0] != dscp<<2 {
				t.Errorf("%s: expected DSCP %d, got %v, %v", addr, dscp, msgs, err)
			}
		}
	}
}

func TestBigMessagesPass(t *testing.T) {
	s, got := open(t, Options{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	ike, _ := s.Ports()
	big := bytes.Repeat([]byte("x"), 60000)
	if _, err := peer(t, "127.0.0.1", ike).Write(big); err != nil {
		t.Fatal(err)
	}
	if d := <-got; !bytes.Equal(d.Data, big) {
		t.Errorf("got %d octets", len(d.Data))
	}
}

// TestSendWhole: a packet that nobody may fragment is refused when it is too
// long for the link, and the next one may be fragmented again.
func TestSendWhole(t *testing.T) {
	s, got := open(t, Options{})
	addrs := []string{"127.0.0.1"}
	if !strings.Contains(strings.Join(s.Missing(), " "), "IPv6") {
		addrs = append(addrs, "::1")
	}
	ike, natt := s.Ports()
	for _, a := range addrs {
		for _, port := range []uint16{ike, natt} {
			end := netip.AddrPortFrom(netip.MustParseAddr(a), port)
			mtu := 65536 // of lo
			if ifi, err := net.InterfaceByName("lo"); err == nil {
				mtu = ifi.MTU
			}
			for _, n := range []int{100, 1400, min(mtu, 65535) - 100} {
				for _, send := range []func(local, remote netip.AddrPort, data []byte, dscp uint8) error{s.SendWhole, s.SendDSCP} {
					if err := send(end, end, make([]byte, n), 0); err != nil {
						t.Errorf("%s, %d octets: %v", end, n, err)
						continue
					}
					if d := <-got; len(d.Data) != n {
						t.Errorf("%s: %d octets became %d", end, n, len(d.Data))
					}
				}
			}
		}
	}
	for _, sock := range s.socks {
		level, opt, want := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
		if sock.local.Addr().Is6() {
			level, opt, want = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT
		}
		raw, err := sock.conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if v, err := unix.GetsockoptInt(int(fd), level, opt); err != nil || v != want {
				t.Errorf("%s: path MTU discovery %d after a whole packet, want %d: %v", sock.local, v, want, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNotIKE(t *testing.T) {
	s, got := open(t, Options{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	ike, natt := s.Ports()
	for _, m := range []struct {
		port uint16
		data string
	}{{natt, "\xff"}, {ike, "\xff"}, {natt, "\x01\x02"}, {natt, ""}, {natt, "\x00\x00\x00\x01ESP"}, {natt, "\x00\x00\x00\x00last"}, {ike, "last"}} {
		if _, err := peer(t, "127.0.0.1", m.port).Write([]byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // one from either socket: what came before has been read
		if d := <-got; string(d.Data) != "last" {
			t.Errorf("%q was taken for IKE", d.Data)
		}
	}
	st := s.Stats()
	// A kernel with ESP in UDP takes ESP and keepalives before we see them.
	if st.Keepalives < 1 || st.Keepalives > 2 || st.StrayESP > 1 || st.Garbage > 2 || st.Received != 2 {
		t.Errorf("counters: %+v", st)
	}
}

func TestStrip(t *testing.T) {
	for _, c := range []struct {
		data string
		natt bool
		want string
		v    verdict
	}{
		{"\xff", true, "", isKeepalive},
		{"\xff", false, "", isKeepalive},
		{"abc", false, "abc", isIKE},
		{"", false, "", isIKE}, // for the front door to count
		{"", true, "", isGarbage},
		{"\x00\x00\x00", true, "", isGarbage},
		{"\x00\x00\x00\x00", true, "", isIKE},
		{"\x00\x00\x00\x00m", true, "m", isIKE},
		{"\x00\x00\x01\x00m", true, "", isESP},
	} {
		if got, v := strip([]byte(c.data), c.natt); string(got) != c.want || v != c.v {
			t.Errorf("strip(%q, %v) = %q, %d, expected %q, %d", c.data, c.natt, got, v, c.want, c.v)
		}
	}
}

func TestSendErrors(t *testing.T) {
	s, _ := open(t, Options{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	ike, _ := s.Ports()
	to := netip.MustParseAddrPort("127.0.0.1:9")
	if err := s.Send(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ike+1), to, []byte("x")); err == nil {
		t.Error("sent from a port without a socket")
	}
	if err := s.Send(netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), ike), to, []byte("x")); err == nil {
		t.Error("sent from an address that is not ours")
	}
	if err := s.Send(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ike), to, make([]byte, 70000)); err == nil {
		t.Error("sent more than a datagram holds")
	}
	if n := s.Stats().SendErrors; n != 3 {
		t.Errorf("%d errors counted, expected 3", n)
	}
}

func TestPortInUse(t *testing.T) {
	lo := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	s, _ := open(t, Options{Addrs: lo})
	ike, _ := s.Ports()
	_, err := Open(Options{Addrs: lo, Port: ike, TolerateNoXFRM: true})
	if err == nil || !strings.Contains(err.Error(), "another IKE daemon") || !strings.Contains(err.Error(), strconv.Itoa(int(ike))) {
		t.Errorf("got %v, expected a word about the other daemon", err)
	}
}

func TestPolicyLayout(t *testing.T) {
	b := bypass(unix.AF_INET6, policyOut)
	// struct xfrm_userpolicy_info of linux/xfrm.h on 64-bit: sel.family at 40, dir at 160.
	if len(b) != 168 || b[160] != 1 || b[40]+b[41] != unix.AF_INET6 || bytes.Count(b, []byte{0}) != 166 {
		t.Errorf("%x", b)
	}
}

func TestRoute(t *testing.T) {
	a, err := Route(netip.MustParseAddr("127.0.0.9"))
	if err != nil || !a.IsLoopback() {
		t.Errorf("towards loopback: %v, %v", a, err)
	}
	if !Unreachable(fmt.Errorf("x: %w", unix.ENETUNREACH)) || Unreachable(unix.EINVAL) {
		t.Error("Unreachable must tell a missing route from other errors")
	}
}

// TestKeepaliveIsBare: a NAT keepalive is one octet, on the NAT traversal port
// too, where all else of IKE has a marker.
func TestKeepaliveIsBare(t *testing.T) {
	s, _ := open(t, Options{})
	_, natt := s.Ports()
	c := peer(t, "127.0.0.1", natt)
	to := c.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := s.Keepalive(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), natt), to); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || n != 1 || b[0] != 0xff {
		t.Errorf("got % x, %v", b[:n], err)
	}
}
