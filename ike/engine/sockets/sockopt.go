package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options and values of linux/udp.h and linux/xfrm.h that x/sys/unix lacks.
const (
	udpEncap         = 100 // UDP_ENCAP
	udpEncapESPInUDP = 2   // UDP_ENCAP_ESPINUDP
	policyIn         = 0   // XFRM_POLICY_IN
	policyOut        = 1   // XFRM_POLICY_OUT
)

// configure sets the options of a socket; what the kernel lacks and o tolerates
// comes back by name.
func configure(sock *socket, o *Options) (missing []string, err error) {
	raw, err := sock.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) { missing, err = setOptions(int(fd), sock, o) })
	return missing, errors.Join(cerr, err)
}

func setOptions(fd int, sock *socket, o *Options) (missing []string, err error) {
	level, pktinfo, policy := unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_XFRM_POLICY
	family := uint16(unix.AF_INET)
	if sock.local.Addr().Is6() {
		level, pktinfo, policy = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_XFRM_POLICY
		family = unix.AF_INET6
	}
	if err := unix.SetsockoptInt(fd, level, pktinfo, 1); err != nil {
		return nil, fmt.Errorf("ask for the local address of datagrams: %w", err)
	}
	if err := mayFragment(fd, sock.local.Addr().Is4()); err != nil {
		return nil, err
	}
	// The forced variant needs CAP_NET_ADMIN; the plain one is cut at the sysctl's limit.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, o.ReceiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, o.ReceiveBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, o.SendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, o.SendBuffer)
	}
	tolerate := func(what string, err error) error {
		switch {
		case err == nil:
			return nil
		case o.TolerateNoXFRM && lacking(err):
			missing = append(missing, fmt.Sprintf("%s on %s: %v", what, sock.local, err))
			return nil
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	if sock.natt {
		err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpEncap, udpEncapESPInUDP)
		if err := tolerate("UDP decapsulation of ESP", err); err != nil {
			return nil, err
		}
	}
	for _, dir := range []byte{policyIn, policyOut} {
		err := unix.SetsockoptString(fd, level, policy, string(bypass(family, dir)))
		if err := tolerate("IPsec bypass policy", err); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// bypass is a struct xfrm_userpolicy_info without templates: what the socket
// receives or sends passes in clear, whatever other policies say.
func bypass(family uint16, dir byte) []byte {
	const (
		size     = 168
		familyAt = 40  // sel.family, in host order
		dirAt    = 160 // dir; action 0 behind it is XFRM_POLICY_ALLOW
	)
	b := make([]byte, size)
	binary.NativeEndian.PutUint16(b[familyAt:], family)
	b[dirAt] = dir
	return b
}

// lacking reports whether the kernel, or the process's rights, have no such option.
func lacking(err error) bool {
	return errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM)
}

func inUse(err error) bool  { return errors.Is(err, unix.EADDRINUSE) }
func noIPv6(err error) bool { return errors.Is(err, unix.EAFNOSUPPORT) }
func full(err error) bool   { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) }

// transient reports whether a read error belongs to one datagram (an ICMP
// answer to one we sent), not to the socket.
func transient(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EINTR, unix.EAGAIN, unix.EMSGSIZE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Unreachable reports whether an error of Route or Send says that there is no
// way to the peer now, which may change.
func Unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// localOf finds the destination address in a datagram's control messages.
// Socket control comes from the kernel, yet lengths are checked all the same.
func localOf(oob []byte) netip.Addr {
	for len(oob) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(oob) {
			break
		}
		data := oob[unix.CmsgLen(0):n]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[0:16]))
		}
		oob = oob[min(unix.CmsgSpace(n-unix.CmsgLen(0)), len(oob)):]
	}
	return netip.Addr{}
}

// send is one non-blocking sendmsg. The address the message leaves from is
// given as packet information, so that an answer comes from where it was asked.
func (s *socket) send(local netip.Addr, remote netip.AddrPort, data []byte, dscp uint8, whole bool) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	bufs := [][]byte{data}
	if s.natt && len(data) > len(keepalive) { // a keepalive has no marker
		bufs = [][]byte{marker[:], data}
	}
	var to unix.Sockaddr
	if remote.Addr().Is4() {
		to = &unix.SockaddrInet4{Port: int(remote.Port()), Addr: remote.Addr().As4()}
	} else {
		to = &unix.SockaddrInet6{Port: int(remote.Port()), Addr: remote.Addr().As16(), ZoneId: zoneID(remote.Addr().Zone())}
	}
	oob := append(pktinfo(local), trafficClass(dscp, remote.Addr().Is4())...)
	var serr error
	// Write's callback says "done" at once: a full buffer must not park a shard.
	err = raw.Write(func(fd uintptr) bool {
		serr = s.sendmsg(int(fd), bufs, oob, to, whole)
		return true
	})
	return errors.Join(err, serr)
}

// sendmsg sends as the socket is set, or, for one packet, otherwise: there is no
// control message for it in IPv4. The locks are held for a system call or three.
func (s *socket) sendmsg(fd int, bufs [][]byte, oob []byte, to unix.Sockaddr, whole bool) error {
	if !whole {
		s.how.RLock()
		defer s.how.RUnlock()
		_, err := unix.SendmsgBuffers(fd, bufs, oob, to, unix.MSG_DONTWAIT)
		return err
	}
	s.how.Lock()
	defer s.how.Unlock()
	is4 := s.local.Addr().Is4()
	err := mustNotFragment(fd, is4)
	if err == nil {
		_, err = unix.SendmsgBuffers(fd, bufs, oob, to, unix.MSG_DONTWAIT)
	}
	return errors.Join(err, mayFragment(fd, is4))
}

// minMTU is what every link of IPv6 takes (RFC 8200 5).
const minMTU = 1280

// mayFragment is how a socket usually sends: big messages (certificates) must
// fragment rather than vanish. Routers do that in IPv4. In IPv6 they don't: the
// kernel sends what the link takes in one packet, and anything longer in
// fragments that fit everywhere.
func mayFragment(fd int, is4 bool) error {
	if is4 {
		return failing("switch path MTU discovery off", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT))
	}
	for _, o := range [][2]int{{unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT}, {unix.IPV6_DONTFRAG, 0}, {unix.IPV6_MTU, minMTU}} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o[0], o[1]); err != nil {
			return failing("switch path MTU discovery off", err)
		}
	}
	return nil
}

// mustNotFragment has the socket send whole packets, whatever ICMP has said of
// the path.
func mustNotFragment(fd int, is4 bool) error {
	if is4 {
		return failing("forbid fragments", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
	}
	for _, o := range [][2]int{{unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE}, {unix.IPV6_DONTFRAG, 1}, {unix.IPV6_MTU, 0}} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o[0], o[1]); err != nil {
			return failing("forbid fragments", err)
		}
	}
	return nil
}

// failing says what an option was for; nil stays nil.
func failing(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// pktinfo is the control message that sets the source address; none for an
// unspecified one.
func pktinfo(local netip.Addr) []byte {
	if !local.IsValid() || local.IsUnspecified() {
		return nil
	}
	if local.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
}

// trafficClass is the control message that sets the DSCP; none for 0. The two
// bits below are ECN's.
func trafficClass(dscp uint8, is4 bool) []byte {
	if dscp == 0 {
		return nil
	}
	b := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	if is4 {
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_TOS
	}
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], uint32(dscp)<<2)
	return b
}
