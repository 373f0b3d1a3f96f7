package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Keeper is a supervisor that holds sockets while no daemon runs, and gives
// them to the next one as Options.Inherited, under the names that it got them
// by. systemd is one (sd_pid_notify_with_fds(3), FDSTORE=1).
type Keeper interface {
	// Keep has the supervisor hold a duplicate of fd, which is valid until Keep
	// returns. What goes wrong is the keeper's to tell: the daemon works without.
	Keep(name string, fd int)
	// Forget has it close what it holds by that name, and returns when it has,
	// or when it does not answer.
	Forget(name string)
}

// keptPrefix begins the names of sockets that Open gave to a keeper. One of
// these that the configuration asks for no more is dropped; a socket of any
// other name is the administrator's wish (a socket unit of systemd).
const keptPrefix = "espalier-"

// keptName is what a socket is kept by. A colon separates names in LISTEN_FDNAMES.
func keptName(local netip.AddrPort) string {
	return fmt.Sprintf("%s%s-%d", keptPrefix, strings.ReplaceAll(local.Addr().String(), ":", "_"), local.Port())
}

// keep gives the socket to the keeper.
func (sock *socket) keep(k Keeper) error {
	if k == nil {
		return nil
	}
	raw, err := sock.conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { k.Keep(keptName(sock.local), int(fd)) })
}

// inherit takes over the sockets that a supervisor holds, and closes the files.
func (s *Set) inherit(addrs []netip.Addr, o *Options) error {
	var errs []error
	for _, f := range o.Inherited {
		errs = append(errs, s.adopt(f, addrs, o))
	}
	return errors.Join(errs...)
}

// adopt takes over one of them.
func (s *Set) adopt(f *os.File, addrs []netip.Addr, o *Options) error {
	name := f.Name()
	pc, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("inherited socket %s: expected a UDP socket: %w", name, err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return fmt.Errorf("inherited socket %s: expected a UDP socket, got %s", name, pc.LocalAddr().Network())
	}
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port())
	kept, wanted := strings.HasPrefix(name, keptPrefix), local.Port() == o.Port || local.Port() == o.NATTPort
	double := slices.ContainsFunc(s.socks, func(have *socket) bool { return have.local == local })
	switch {
	case kept && (!wanted || !slices.Contains(addrs, local.Addr())):
		conn.Close()
		if o.Keeper != nil {
			o.Keeper.Forget(name) // or it would go on to hold the port
		}
		return nil
	case double:
		return conn.Close()
	case !wanted:
		conn.Close()
		return fmt.Errorf("inherited socket %s: expected port %d or %d, got %s", name, o.Port, o.NATTPort, local)
	}
	return s.add(&socket{conn: conn, local: local, natt: local.Port() == o.NATTPort}, o)
}

// firstFD is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstFD = 3

// FromSystemd returns the sockets that systemd passed to the process pid
// (sd_listen_fds(3)), named by LISTEN_FDNAMES; none when there are none. It
// refuses a count that is no number from 0 to 64.
func FromSystemd(getenv func(string) string, pid int) ([]*os.File, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(pid) || getenv("LISTEN_FDS") == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > 64 {
		return nil, fmt.Errorf("LISTEN_FDS: expected a number from 0 to 64, got %q", getenv("LISTEN_FDS"))
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	files := make([]*os.File, n)
	for i := range files {
		name := "fd" + strconv.Itoa(firstFD+i)
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		unix.CloseOnExec(firstFD + i)
		files[i] = os.NewFile(uintptr(firstFD+i), name)
	}
	return files, nil
}
