package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// saPiece is what a packet of measureSA has to encrypt: as much as a tunnel's usual one.
	saPiece   = 1400
	udpHeader = 8
	saSPI     = 0x1000
)

// The ends of measureSA's SA, of the documentation's network: nobody has them, and what is
// sent to the second one ends where it comes back in.
var saFrom, saTo = net.IPv4(192, 0, 2, 2), net.IPv4(192, 0, 2, 1)

// measureSA sends datagrams by an SA in a network namespace that ends with it, which
// works where programs may not use the kernel's ciphers. Errors: no right to have a
// namespace, or the kernel has no XFRM.
func (l Local) measureSA(ctx context.Context, d time.Duration) (s Speed, err error) {
	for _, m := range []string{"xfrm_user", "esp4"} {
		if l.moduleState(m, l.kernel().modules) == ModuleLoadable {
			if err := l.LoadModule(m); err != nil {
				return Speed{}, err
			}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here, and the namespace with it
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("a network namespace to measure in: %w", err)
			return
		}
		s, err = l.sendBySA(ctx, d)
	}()
	<-done
	return s, err
}

// sendBySA does so in the calling thread's namespace, which has nothing in it.
func (l Local) sendBySA(ctx context.Context, d time.Duration) (Speed, error) {
	state, err := l.makeSA()
	if err != nil {
		return Speed{}, fmt.Errorf("an SA to measure: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Speed{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte(saTo.To4())}); err != nil {
		return Speed{}, fmt.Errorf("socket to measure an SA: %w", err)
	}
	data := make([]byte, saPiece-udpHeader)
	packets := func() (int, error) {
		if _, err := unix.Write(fd, data); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return 0, fmt.Errorf("send by an SA: %w", err)
		}
		now, err := netlink.XfrmStateGet(state)
		if err != nil {
			return 0, fmt.Errorf("an SA's counts: %w", err)
		}
		return int(now.Statistics.Packets), nil
	}
	before, err := packets() // the first one is slower
	if err != nil {
		return Speed{}, err
	}
	if before == 0 {
		return Speed{}, errors.New("a packet did not take the SA that it was to measure")
	}
	const batch = 64 // between looks at the clock
	began := time.Now()
	for time.Since(began) < d && ctx.Err() == nil {
		for range batch {
			if _, err := unix.Write(fd, data); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return Speed{}, fmt.Errorf("send by an SA: %w", err)
			}
		}
	}
	passed := time.Since(began)
	after, err := packets()
	if err != nil {
		return Speed{}, err
	}
	s := Speed{Cipher: espCipher, By: BySA, Piece: saPiece, BytesPerSecond: float64((after-before)*saPiece) / passed.Seconds()}
	if c := l.ciphers(); len(c) > 0 {
		s.Driver = c[0].Driver
	}
	return s, ctx.Err()
}

// makeSA gives the namespace an SA with a key that nobody knows, and a policy and a
// route that take datagrams to it.
func (l Local) makeSA() (*netlink.XfrmState, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return nil, err
	}
	// This device has no XFRM unless told so.
	if err := l.SetSysctl("net.ipv4.conf.lo.disable_xfrm", "0"); err != nil {
		return nil, err
	}
	host := func(ip net.IP) *net.IPNet { return &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)} }
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: host(saFrom)}); err != nil {
		return nil, err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: host(saTo), Scope: netlink.SCOPE_LINK, Src: saFrom}); err != nil {
		return nil, err
	}
	key := make([]byte, speedKey)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	defer clear(key)
	state := &netlink.XfrmState{Src: saFrom, Dst: saTo, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Spi: saSPI, Reqid: 1,
		Aead: &netlink.XfrmStateAlgo{Name: espCipher, Key: key, ICVLen: 8 * speedICV}}
	if err := netlink.XfrmStateAdd(state); err != nil {
		return nil, err
	}
	err = netlink.XfrmPolicyAdd(&netlink.XfrmPolicy{Src: host(saFrom), Dst: host(saTo), Dir: netlink.XFRM_DIR_OUT,
		Tmpls: []netlink.XfrmPolicyTmpl{{Src: saFrom, Dst: saTo, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Reqid: 1}}})
	return &netlink.XfrmState{Src: saFrom, Dst: saTo, Proto: netlink.XFRM_PROTO_ESP, Spi: saSPI}, err
}
