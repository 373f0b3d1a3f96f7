//go:build lab

package xfrm

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// side is one end of a veth pair: a network namespace with outer addresses on
// the pair, inner ones on lo, and an XFRM.
type side struct {
	t      *testing.T
	ns     *os.File
	x      *XFRM
	outer4 netip.Addr
	outer6 netip.Addr
	inner4 netip.Addr
	inner6 netip.Addr
	moved4 netip.Addr // a second outer address
}

func addrs(n int) side {
	a := func(format string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, n)) }
	return side{
		outer4: a("192.0.2.%d"), moved4: a("192.0.2.1%d"), outer6: a("2001:db8::%d"),
		inner4: a("198.51.100.%d"), inner6: a("2001:db8:1::%d"),
	}
}

// enter moves the test's thread into the side's namespace.
func (s *side) enter() {
	s.t.Helper()
	if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		s.t.Fatalf("enter namespace: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair builds two connected sides; the test's thread ends in the first.
func pair(t *testing.T) (a, b *side) {
	t.Helper()
	sides := [2]side{addrs(1), addrs(2)}
	for i := range sides {
		namespace(t)
		f, err := os.Open("/proc/thread-self/ns/net")
		must(t, err)
		t.Cleanup(func() { f.Close() })
		sides[i].t, sides[i].ns = t, f
	}
	a, b = &sides[0], &sides[1]
	a.enter()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth0", PeerNamespace: netlink.NsFd(int(b.ns.Fd()))}
	must(t, netlink.LinkAdd(veth))
	for i, s := range []*side{a, b} {
		s.enter()
		s.configure([]*side{b, a}[i])
		var err error
		s.x, err = Open(Options{JournalDir: t.TempDir(), NetNS: s.ns, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)})
		must(t, err)
		t.Cleanup(func() { s.x.Close() })
	}
	a.enter()
	return a, b
}

func (s *side) configure(peer *side) {
	t := s.t
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	eth, err := netlink.LinkByName("veth0")
	must(t, err)
	must(t, netlink.LinkSetUp(eth))
	add := func(l netlink.Link, a netip.Addr, bits int) {
		must(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: unix.IFA_F_NODAD}))
	}
	add(eth, s.outer4, 24)
	add(eth, s.moved4, 24)
	add(eth, s.outer6, 64)
	add(lo, s.inner4, 32)
	add(lo, s.inner6, 128)
	for inner, via := range map[netip.Addr]netip.Addr{peer.inner4: peer.outer4, peer.inner6: peer.outer6} {
		must(t, netlink.RouteAdd(&netlink.Route{
			LinkIndex: eth.Attrs().Index, Gw: via.AsSlice(),
			Dst: &net.IPNet{IP: inner.AsSlice(), Mask: net.CIDRMask(inner.BitLen(), inner.BitLen())},
		}))
	}
}

// tunnel is a pair of SAs between two sides with their policies.
type tunnel struct {
	outer6, inner6 bool
	mode           dataplane.Mode
	comp           bool                // IPComp within
	change         func(*dataplane.SA) // of all four
	ab, ba         dataplane.SA        // as installed at the sending side
	patience       time.Duration       // for packets that must not come; 0: long
}

const short = time.Second

const reqID = 77

func (w *tunnel) addrs(s *side) (outer, inner netip.Addr) {
	outer, inner = s.outer4, s.inner4
	if w.outer6 {
		outer = s.outer6
	}
	if w.inner6 {
		inner = s.inner6
	}
	if w.mode == dataplane.Transport {
		inner = outer
	}
	return outer, inner
}

// sa is the SA from one side to another.
func (w *tunnel) sa(from, to *side, spi uint32, dir dataplane.Direction) dataplane.SA {
	src, _ := w.addrs(from)
	dst, _ := w.addrs(to)
	key := make([]byte, 20)
	for i := range key {
		key[i] = byte(spi) + byte(i)
	}
	sa := dataplane.SA{
		SAKey: dataplane.SAKey{Dst: dst, Proto: dataplane.ESP, SPI: spi},
		Src:   src, Dir: dir, Mode: w.mode, ReqID: reqID, ReplayWindow: 64,
		AEAD: dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: key, ICVBits: 128},
	}
	if w.comp {
		sa.Mode = dataplane.Transport // the inner one has the tunnel
	}
	if w.mode == dataplane.BEET {
		_, srcInner := w.addrs(from)
		_, dstInner := w.addrs(to)
		sa.Selector = &dataplane.Selector{Src: netip.PrefixFrom(srcInner, srcInner.BitLen()), Dst: netip.PrefixFrom(dstInner, dstInner.BitLen())}
	}
	if w.change != nil {
		w.change(&sa)
	}
	return sa
}

// cpi is the IPComp SA's number within an SA.
func cpi(sa *dataplane.SA) dataplane.SAKey {
	return dataplane.SAKey{Dst: sa.Dst, Proto: dataplane.IPComp, SPI: sa.SPI&0xfff | 0x1000}
}

// install is the operation, or with compression both.
func (w *tunnel) install(sa dataplane.SA) []dataplane.Op {
	ops := []dataplane.Op{dataplane.InstallSA{SA: sa}}
	if w.comp {
		ops = append(ops, dataplane.InstallSA{SA: dataplane.SA{SAKey: cpi(&sa), Src: sa.Src, Dir: sa.Dir, Mode: w.mode, ReqID: sa.ReqID,
			Crypt: dataplane.Algorithm{Name: "deflate"}}})
	}
	return ops
}

// policies are a side's three, toward its peer.
func (w *tunnel) policies(own, peer *side) []dataplane.Op {
	ownOuter, ownInner := w.addrs(own)
	peerOuter, peerInner := w.addrs(peer)
	out := dataplane.Selector{
		Src: netip.PrefixFrom(ownInner, ownInner.BitLen()), Dst: netip.PrefixFrom(peerInner, peerInner.BitLen()),
	}
	var ops []dataplane.Op
	for dir, sel := range map[dataplane.Direction]dataplane.Selector{
		dataplane.Out: out, dataplane.In: out.Reverse(), dataplane.Fwd: out.Reverse(),
	} {
		tmpl := dataplane.Template{Proto: dataplane.ESP, Mode: w.mode, ReqID: reqID}
		if w.mode != dataplane.Transport {
			tmpl.Src, tmpl.Dst = peerOuter, ownOuter
			if dir == dataplane.Out {
				tmpl.Src, tmpl.Dst = ownOuter, peerOuter
			}
		}
		tmpls := []dataplane.Template{tmpl}
		if w.comp {
			esp := tmpl
			esp.Mode = dataplane.Transport
			tmpl.Proto, tmpl.Optional = dataplane.IPComp, dir != dataplane.Out
			tmpls = []dataplane.Template{tmpl, esp}
		}
		ops = append(ops, dataplane.InstallPolicy{Policy: dataplane.Policy{
			PolicyKey: dataplane.PolicyKey{Selector: sel, Dir: dir}, Owner: 1,
			Priority: dataplane.Priority(sel), Templates: tmpls,
		}})
	}
	return ops
}

// up installs the tunnel on both sides, inbound by way of a reserved SPI.
func (w *tunnel) up(t *testing.T, a, b *side) {
	t.Helper()
	reserve := func(from, to *side) uint32 {
		src, _ := w.addrs(from)
		dst, _ := w.addrs(to)
		spi, err := to.x.ReserveSPI(dataplane.SPIRequest{Src: src, Dst: dst, Proto: dataplane.ESP, Mode: w.mode, ReqID: reqID, Min: 0x1000, Max: 0xffffff})
		must(t, err)
		return spi
	}
	toB, toA := reserve(a, b), reserve(b, a)
	w.ab, w.ba = w.sa(a, b, toB, dataplane.Out), w.sa(b, a, toA, dataplane.Out)
	for _, e := range []struct {
		own, peer *side
		in, out   dataplane.SA
	}{{a, b, w.sa(b, a, toA, dataplane.In), w.ab}, {b, a, w.sa(a, b, toB, dataplane.In), w.ba}} {
		must(t, e.own.x.Apply(slices.Concat(w.install(e.in), w.install(e.out), w.policies(e.own, e.peer))))
	}
}

// wire is what leaves a side's veth, link header included.
type wire struct {
	t  *testing.T
	fd int
}

func (s *side) capture() *wire {
	s.t.Helper()
	s.enter()
	eth, err := netlink.LinkByName("veth0")
	must(s.t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0x0300) // ETH_P_ALL
	must(s.t, err)
	s.t.Cleanup(func() { unix.Close(fd) })
	must(s.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: eth.Attrs().Index}))
	return &wire{s.t, fd}
}

// frames returns what has left since the last call and has magic or is ESP,
// plain or in UDP port 4500.
func (w *wire) frames() (clear, esp [][]byte) {
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return clear, esp
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		f := bytes.Clone(buf[:n])
		proto, udp := 0, 34
		switch {
		case n > 42 && f[12] == 0x08 && f[13] == 0x00:
			proto = int(f[23])
		case n > 62 && f[12] == 0x86 && f[13] == 0xdd:
			proto, udp = int(f[20]), 54
		}
		switch {
		case bytes.Contains(f, magic):
			clear = append(clear, f)
		case proto == unix.IPPROTO_ESP || proto == unix.IPPROTO_UDP && (network.Uint16(f[udp+2:]) == 4500):
			esp = append(esp, f)
		}
	}
}

var magic = []byte("in clear text: espalier")

var errSilence = errors.New("no packet came")

// echo sends n packets from one side to the other and back, and fails with
// errSilence when one does not arrive.
func (w *tunnel) echo(a, b *side, n int) error {
	_, src := w.addrs(a)
	_, dst := w.addrs(b)
	b.enter()
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 7)))
	if err != nil {
		return err
	}
	defer server.Close()
	a.enter()
	client, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 7)))
	if err != nil {
		return err
	}
	defer client.Close()
	buf := make([]byte, 2048)
	deadline := time.Now().Add(20 * time.Second)
	if w.patience != 0 {
		deadline = time.Now().Add(w.patience)
	}
	_, _ = server.SetDeadline(deadline), client.SetDeadline(deadline)
	for range n {
		if _, err := client.Write(magic); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		got, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			return fmt.Errorf("%w at the server: %w", errSilence, err)
		}
		if _, err := server.WriteToUDPAddrPort(buf[:got], from); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if got, err = client.Read(buf); err != nil || !bytes.Equal(buf[:got], magic) {
			return fmt.Errorf("%w at the client: %w", errSilence, err)
		}
	}
	return nil
}

// send sends n packets without waiting for any.
func (w *tunnel) send(t *testing.T, a, b *side, n int) {
	t.Helper()
	_, src := w.addrs(a)
	_, dst := w.addrs(b)
	a.enter()
	client, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
	must(t, err)
	defer client.Close()
	for range n {
		_, _ = client.Write(magic) // refused by ICMP or for want of an SA
	}
}

// openESPinUDP opens the socket without which the kernel does not decapsulate.
func (s *side) openESPinUDP(a netip.Addr) {
	s.t.Helper()
	s.enter()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 4500)))
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	raw, err := c.SyscallConn()
	must(s.t, err)
	// Without policies of its own that let everything pass, the socket's packets
	// meet the policies of transport mode.
	level, opt := unix.IPPROTO_IP, unix.IP_XFRM_POLICY
	if a.Is6() {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY
	}
	var errs []error
	must(s.t, raw.Control(func(fd uintptr) {
		errs = append(errs, unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_ENCAP, unix.UDP_ENCAP_ESPINUDP))
		for _, dir := range []byte{0, 1} {
			pol := make([]byte, sizePolicyInfo)
			native.PutUint16(pol[40:], family(a))
			putLimits(pol[56:], &dataplane.Limits{})
			pol[160] = dir
			errs = append(errs, unix.SetsockoptString(int(fd), level, opt, string(pol)))
		}
	}))
	must(s.t, errors.Join(errs...))
}

// status queries an SA that must exist.
func (s *side) status(k dataplane.SAKey) dataplane.SAStatus {
	s.t.Helper()
	st, err := s.x.QuerySA(k)
	if err != nil {
		s.t.Fatalf("QuerySA %s: %v", k, err)
	}
	return st
}

// event waits for the next event that match accepts.
func event[E dataplane.Event](t *testing.T, x *XFRM, match func(E) bool) E {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case e, open := <-x.Events():
			if !open {
				t.Fatal("events closed")
			}
			if v, ok := e.(E); ok && match(v) {
				return v
			}
		case <-limit:
			var zero E
			t.Fatalf("no %T came", zero)
		}
	}
}
