package esp

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PacketSocket sends through a packet socket, many frames a system call.
type PacketSocket struct {
	fd   int
	ring *Ring
	vec  []mmsghdr
	iov  []unix.Iovec
}

// mmsghdr is struct mmsghdr of <sys/socket.h>.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

var _ Sender = (*PacketSocket)(nil)

// NewPacketSocket opens a packet socket on the device, in the calling thread's
// network namespace, which it keeps. The queueing discipline is passed by.
func NewPacketSocket(device string, ring *Ring) (*PacketSocket, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	p := &PacketSocket{fd: fd, ring: ring}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket on %s: %w", device, err), unix.Close(fd))
	}
	return p, nil
}

// Ring implements Sender.
func (p *PacketSocket) Ring() *Ring { return p.ring }

// Close implements Sender.
func (p *PacketSocket) Close() error { return unix.Close(p.fd) }

// send implements Sender. A frame that the device's queue has no room for is lost.
func (p *PacketSocket) send(n uint64) (lost uint64, err error) {
	p.vec, p.iov = p.vec[:0], p.iov[:0]
	for i := range n {
		f := p.ring.frame(i)
		p.iov = append(p.iov, unix.Iovec{Base: &f[0], Len: uint64(len(f))})
	}
	for i := range p.iov { // they stay where they are from now on
		p.vec = append(p.vec, mmsghdr{hdr: unix.Msghdr{Iov: &p.iov[i], Iovlen: 1}})
	}
	defer p.ring.take(n)
	for left := p.vec; len(left) > 0; {
		// Raw: the scheduler of Go need not know. It would take the processor from a thread that does nothing but system calls a hundred times a
		// second, and watch it closely from then on, which keeps another CPU busy, the one that is measured.
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&left[0])), uintptr(len(left)), 0, 0, 0)
		switch {
		case errno == 0:
			left = left[sent:]
		case errno == unix.EINTR:
		case errno == unix.ENOBUFS || errno == unix.EAGAIN:
			lost++
			left = left[1:]
		default:
			return lost + uint64(len(left)), fmt.Errorf("sendmmsg of %d frames: %w", len(left), errno)
		}
	}
	return lost, nil
}
