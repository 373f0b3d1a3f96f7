// Package sockets owns the UDP sockets that IKE listens on: the IKE port and
// the NAT traversal port of either IP family. It is the one place that opens
// them, or takes them over from systemd, and closes them.
//
// The kernel decapsulates ESP in UDP (RFC 3948) on the NAT traversal sockets
// only while they are open, and the bypass policies on them keep IKE out of
// tunnels that match everything, so both live as long as the set does.
package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
)

// maxDatagram is what a UDP datagram can carry at most, in octets.
const maxDatagram = 65535

// Datagram is one received message without the non-ESP marker.
type Datagram struct {
	Local, Remote netip.AddrPort // the address it came to and from; no zone in Local
	Data          []byte         // valid until the callback returns
}

// Options say which sockets to open.
type Options struct {
	// Addrs are the local addresses to listen on; empty: all of both families.
	Addrs []netip.Addr
	// Port is the IKE port, NATTPort the port whose messages carry the non-ESP
	// marker. 0 lets the kernel choose, for tests; Set.Ports tells which.
	Port, NATTPort uint16
	// TolerateNoXFRM lets Open go on where the kernel has no IPsec; what is
	// missing is in Set.Missing. Without it Open fails.
	TolerateNoXFRM bool
	// Inherited are open UDP sockets of a supervisor, see FromSystemd. They are
	// told apart by their local port; a port and family that is among them is
	// not opened again. Open takes them over and closes the files.
	Inherited []*os.File
	// Keeper gets each socket that Open opens, for the next run; nil: nobody does,
	// and the sockets end with the process.
	Keeper Keeper
	// ReceiveBuffer and SendBuffer are the kernel's buffers a socket in octets;
	// 0: 4 MiB and 1 MiB.
	ReceiveBuffer, SendBuffer int
}

// Stats counts what passed through a set.
type Stats struct {
	Received, Sent uint64 // datagrams with an IKE message
	Keepalives     uint64 // NAT keepalives, ignored (RFC 3948 2.3)
	StrayESP       uint64 // ESP on the NAT traversal port that the kernel did not take
	Garbage        uint64 // too short, or without a local address
	SendFull       uint64 // not sent: the kernel's buffer is full
	SendErrors     uint64 // not sent: any other error
}

// Set is the open sockets. Its methods are safe for concurrent use.
type Set struct {
	socks    []*socket
	port     uint16
	nattPort uint16
	missing  []string
	closing  atomic.Bool
	once     sync.Once
	closeErr error

	received, sent, keepalives, strayESP, garbage, sendFull, sendErrors atomic.Uint64
}

// socket is one UDP socket with what is fixed about it.
type socket struct {
	conn  *net.UDPConn
	local netip.AddrPort // unspecified address when it listens on all
	natt  bool
	// how is held for reading by those who send as usual, for writing by one who
	// has changed the socket's options for a moment.
	how sync.RWMutex
}

// Open opens the sockets that o asks for, all or none.
func Open(o Options) (*Set, error) {
	s := &Set{port: o.Port, nattPort: o.NATTPort}
	if o.ReceiveBuffer == 0 {
		o.ReceiveBuffer = 4 << 20
	}
	if o.SendBuffer == 0 {
		o.SendBuffer = 1 << 20
	}
	if err := s.open(&o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Set) open(o *Options) error {
	addrs := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if len(o.Addrs) > 0 {
		addrs = addrs[:0]
		for _, a := range o.Addrs {
			addrs = append(addrs, a.Unmap())
		}
	}
	if err := s.inherit(addrs, o); err != nil {
		return err
	}
	for _, natt := range []bool{false, true} {
		for _, a := range addrs {
			if err := s.listen(a, natt, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// listen opens one socket unless an inherited one already serves its address.
func (s *Set) listen(a netip.Addr, natt bool, o *Options) error {
	port := s.port
	if natt {
		port = s.nattPort
	}
	for _, have := range s.socks {
		if have.natt == natt && have.local.Port() == port && have.local.Addr().Is4() == a.Is4() &&
			(have.local.Addr() == a || have.local.Addr().IsUnspecified()) {
			return nil
		}
	}
	network := "udp6" // which sets IPV6_V6ONLY
	if a.Is4() {
		network = "udp4"
	}
	// No SO_REUSEADDR: with it, another IKE daemon could share the port and
	// each would see half of the messages. Without it, the start fails and says so.
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
	switch {
	case err != nil && a == netip.IPv6Unspecified() && noIPv6(err):
		s.missing = append(s.missing, "IPv6")
		return nil
	case err != nil && inUse(err):
		return fmt.Errorf("listen on UDP port %d: another IKE daemon holds it: %w", port, err)
	case err != nil:
		return fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	port = conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if natt {
		s.nattPort = port
	} else {
		s.port = port
	}
	sock := &socket{conn: conn, local: netip.AddrPortFrom(a, port), natt: natt}
	if err := s.add(sock, o); err != nil {
		return err
	}
	return sock.keep(o.Keeper)
}

// add sets the socket's options and owns it from then on.
func (s *Set) add(sock *socket, o *Options) error {
	s.socks = append(s.socks, sock)
	missing, err := configure(sock, o)
	if err != nil {
		return fmt.Errorf("socket %s: %w", sock.local, err)
	}
	s.missing = append(s.missing, missing...)
	return nil
}

// Ports returns the IKE port and the NAT traversal port.
func (s *Set) Ports() (ike, natt uint16) { return s.port, s.nattPort }

// Missing lists what the kernel lacks and the options tolerate, one entry a
// socket, for the log.
func (s *Set) Missing() []string { return s.missing }

// Receive reads all sockets until Close and hands each datagram to fn, which is
// called from several goroutines at once and must not block. It returns nil
// after Close, or what made a socket unreadable.
func (s *Set) Receive(fn func(Datagram)) error {
	errs := make([]error, len(s.socks))
	var wg sync.WaitGroup
	for i, sock := range s.socks {
		wg.Go(func() {
			errs[i] = s.read(sock, fn)
			if errs[i] != nil {
				s.Close() // one dead socket ends the set: better loud than half deaf
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// read is the loop of one socket.
func (s *Set) read(sock *socket, fn func(Datagram)) error {
	buf, oob := make([]byte, maxDatagram), make([]byte, 256)
	for {
		n, oobn, _, remote, err := sock.conn.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case s.closing.Load():
			return nil
		case err != nil && transient(err):
			continue
		case err != nil:
			return fmt.Errorf("read from socket %s: %w", sock.local, err)
		}
		local := sock.local.Addr()
		if local.IsUnspecified() {
			local = localOf(oob[:oobn])
		}
		data, verdict := strip(buf[:n], sock.natt)
		switch {
		case verdict == isKeepalive:
			s.keepalives.Add(1)
		case verdict == isESP:
			s.strayESP.Add(1)
		case verdict == isGarbage || !local.IsValid() || local.IsMulticast():
			s.garbage.Add(1)
		default:
			s.received.Add(1)
			remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
			fn(Datagram{Local: netip.AddrPortFrom(local, sock.local.Port()), Remote: remote, Data: data})
		}
	}
}

// verdict is what a datagram is by its first octets.
type verdict uint8

const (
	isIKE verdict = iota
	isKeepalive
	isESP
	isGarbage
)

// strip classifies a datagram and removes the non-ESP marker (RFC 7296 2.23,
// RFC 3948 2.2 and 2.3).
func strip(b []byte, natt bool) ([]byte, verdict) {
	switch {
	case len(b) == 1 && b[0] == 0xff:
		return nil, isKeepalive
	case !natt:
		return b, isIKE
	case len(b) < len(marker):
		return nil, isGarbage
	case [4]byte(b) != marker:
		return nil, isESP
	}
	return b[len(marker):], isIKE
}

// marker stands before IKE messages on the NAT traversal port (RFC 7296 2.23).
var marker = [4]byte{}

// Send transmits one IKE message from local to remote, with the marker when
// local is the NAT traversal port. It never waits: a full buffer of the kernel
// is an error like any other.
func (s *Set) Send(local, remote netip.AddrPort, data []byte) error {
	return s.transmit(local, remote, data, 0, false)
}

// keepalive is a NAT keepalive (RFC 3948 2.3).
var keepalive = [...]byte{0xff}

// Keepalive sends a NAT keepalive.
func (s *Set) Keepalive(local, remote netip.AddrPort) error {
	return s.Send(local, remote, keepalive[:])
}

// SendDSCP is Send with a DSCP (RFC 2474), 0 to 63, in the message's IP header.
func (s *Set) SendDSCP(local, remote netip.AddrPort, data []byte, dscp uint8) error {
	return s.transmit(local, remote, data, dscp, false)
}

// SendWhole is SendDSCP in one IP packet that nobody may fragment, neither we
// nor, of IPv4, a router. What is longer than the MTU of the link is an error.
func (s *Set) SendWhole(local, remote netip.AddrPort, data []byte, dscp uint8) error {
	return s.transmit(local, remote, data, dscp, true)
}

func (s *Set) transmit(local, remote netip.AddrPort, data []byte, dscp uint8, whole bool) error {
	var found *socket
	for _, sock := range s.socks {
		if sock.local.Port() != local.Port() || sock.local.Addr().Is4() != remote.Addr().Is4() {
			continue
		}
		if sock.local.Addr() == local.Addr() {
			found = sock
			break
		}
		if sock.local.Addr().IsUnspecified() {
			found = sock
		}
	}
	if found == nil {
		s.sendErrors.Add(1)
		return fmt.Errorf("send to %s: expected a local address with a socket, got %s", remote, local)
	}
	err := found.send(local.Addr(), remote, data, dscp, whole)
	switch {
	case err == nil:
		s.sent.Add(1)
		return nil
	case full(err):
		s.sendFull.Add(1)
	default:
		s.sendErrors.Add(1)
	}
	return fmt.Errorf("send from %s to %s: %w", local, remote, err)
}

// Stats returns the counters.
func (s *Set) Stats() Stats {
	return Stats{
		Received: s.received.Load(), Sent: s.sent.Load(),
		Keepalives: s.keepalives.Load(), StrayESP: s.strayESP.Load(), Garbage: s.garbage.Load(),
		SendFull: s.sendFull.Load(), SendErrors: s.sendErrors.Load(),
	}
}

// Close closes the sockets; Receive returns.
func (s *Set) Close() error {
	s.once.Do(func() {
		s.closing.Store(true)
		for _, sock := range s.socks {
			s.closeErr = errors.Join(s.closeErr, sock.conn.Close())
		}
	})
	return s.closeErr
}

// Route asks the kernel which local address it would send from to remote. No
// packet leaves. Errors of an unreachable network match Unreachable.
func Route(remote netip.Addr) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote, 500)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %s: %w", remote, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// Addrs are the box's addresses that another host could reach it at.
func Addrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("the box's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}
