package xfrm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// recvSize holds the largest dump message of the kernel (NLMSG_GOODSIZE grows
	// to 32 KiB for readers that offer it).
	recvSize = 64 << 10
	// replyTime bounds the wait for an answer; the kernel answers while the
	// request is sent, so only a bug reaches it.
	replyTime = 10 * time.Second
	// eventBuffer is what the kernel may queue for a slow reader of events, in bytes.
	eventBuffer = 4 << 20
	dumpTries   = 5
)

// conn is a netlink socket for requests. It stays in the network namespace it
// was opened in. Safe for concurrent use, one request at a time.
type conn struct {
	mu   sync.Mutex
	file *os.File
	seq  uint32
	intr bool // the dump in progress was interrupted
	buf  []byte
}

// openSocket opens a netlink socket of a protocol, subscribed to groups, in the
// calling thread's network namespace.
func openSocket(proto int, groups ...uint) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, err
	}
	addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, g := range groups {
		addr.Groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

func openConn(proto int) (*conn, error) {
	f, err := openSocket(proto)
	if err != nil {
		return nil, err
	}
	for _, opt := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := setOption(f, unix.SOL_NETLINK, opt, 1); err != nil {
			f.Close()
			return nil, err
		}
	}
	return &conn{file: f, buf: make([]byte, recvSize)}, nil
}

func setOption(f *os.File, level, opt, value int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), level, opt, value) }); err != nil {
		return err
	}
	return inner
}

// receive reads one datagram, waiting for it unless the file has a deadline.
func receive(f *os.File, buf []byte) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, inner := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, inner = unix.Recvfrom(int(fd), buf, 0)
			if inner != unix.EINTR {
				return inner != unix.EAGAIN
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return n, inner
}

func (c *conn) close() error { return c.file.Close() }

// request sends m and waits for the kernel's answer: each message of the answer
// goes to each (nil: not wanted), whose bytes are gone when it returns. The
// error is nil, a *kernelError, or one of the socket.
func (c *conn) request(m *message, each func(typ uint16, body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	flags := native.Uint16(m.b[6:])
	dump := flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	if !dump {
		native.PutUint16(m.b[6:], flags|unix.NLM_F_ACK)
	}
	c.seq++
	c.intr = false
	native.PutUint32(m.b, uint32(len(m.b)))
	native.PutUint32(m.b[8:], c.seq)
	if err := c.file.SetDeadline(time.Now().Add(replyTime)); err != nil {
		return err
	}
	if err := c.send(m.b); err != nil {
		return err
	}
	for {
		n, err := receive(c.file, c.buf)
		if err != nil {
			return fmt.Errorf("netlink answer: %w", err)
		}
		done, err := c.answer(c.buf[:n], each)
		clear(c.buf[:n]) // GETSA has keys in it
		if done || err != nil {
			return err
		}
	}
}

func (c *conn) send(b []byte) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Write(func(fd uintptr) bool {
		inner = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return inner != unix.EAGAIN
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return fmt.Errorf("netlink request: %w", err)
	}
	return nil
}

// errInterrupted: the tables changed while the kernel dumped them.
var errInterrupted = errors.New("dump interrupted by a change")

// answer handles one datagram; done when the request is complete.
func (c *conn) answer(b []byte, each func(uint16, []byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, fmt.Errorf("netlink message of %d bytes in %d: malformed", size, len(b))
		}
		typ, flags := native.Uint16(b[4:]), native.Uint16(b[6:])
		body := b[unix.NLMSG_HDRLEN:size]
		if native.Uint32(b[8:]) == c.seq { // else late, of a request that gave up
			c.intr = c.intr || flags&unix.NLM_F_DUMP_INTR != 0
			switch typ {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if err := result(typ, flags, body); err != nil || !c.intr {
					return true, err
				}
				return true, errInterrupted
			}
			if each != nil {
				each(typ, body)
			}
		}
		b = b[min(align(size), len(b)):]
	}
	return false, nil
}

// result reads NLMSG_ERROR and NLMSG_DONE: the errno, and the kernel's own words.
func result(typ, flags uint16, body []byte) error {
	if len(body) < 4 {
		return nil // NLMSG_DONE of old kernels
	}
	code := int32(native.Uint32(body))
	if code >= 0 {
		return nil
	}
	e := &kernelError{errno: syscall.Errno(-code)}
	if flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	rest := body[4:]
	if typ == unix.NLMSG_ERROR {
		echoed := unix.NLMSG_HDRLEN // NETLINK_CAP_ACK: the header alone
		if len(rest) < echoed {
			return e
		}
		if flags&unix.NLM_F_CAPPED == 0 {
			echoed = min(align(int(native.Uint32(rest))), len(rest))
		}
		rest = rest[echoed:]
	}
	const msgAttr = 1 // NLMSGERR_ATTR_MSG
	if text := find(rest, msgAttr, 1); text != nil {
		e.text = unix.ByteSliceToString(text)
	}
	return e
}

// dump runs a dump request until it was not interrupted; each starts anew when
// begin is called.
func (c *conn) dump(typ uint16, size int, begin func(), each func(uint16, []byte)) error {
	var err error
	for range dumpTries {
		begin()
		if err = c.request(newMessage(typ, unix.NLM_F_DUMP, size), each); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return err
}

// inNamespace runs f on a thread that is in the network namespace ns; nil is
// the calling thread's own.
func inNamespace(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
	}
	defer func() {
		// A thread that cannot go home ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}
