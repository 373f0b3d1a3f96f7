package sockets

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInherited(t *testing.T) {
	held, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	port := held.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	file := func() *os.File {
		f, err := held.File()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	s, got := open(t, Options{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: port, Inherited: []*os.File{file()}})
	if ike, _ := s.Ports(); ike != port || len(s.socks) != 2 {
		t.Errorf("port %d and %d sockets, expected the inherited %d and one more", ike, len(s.socks), port)
	}
	if _, err := peer(t, "127.0.0.1", port).Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if d := <-got; string(d.Data) != "hello" {
		t.Errorf("got %q", d.Data)
	}
	if _, err := Open(Options{Port: port + 1, NATTPort: port + 2, Inherited: []*os.File{file()}, TolerateNoXFRM: true}); err == nil || !strings.Contains(err.Error(), "expected port") {
		t.Errorf("a socket of another port: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := Open(Options{Inherited: []*os.File{r}}); err == nil {
		t.Error("a pipe was taken for a socket")
	}
}

func TestFromSystemd(t *testing.T) {
	env := func(pid, fds, names string) func(string) string {
		return func(k string) string {
			return map[string]string{"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": names}[k]
		}
	}
	for _, c := range []struct{ pid, fds string }{{"", ""}, {"7", "2"}, {"42", ""}, {"42", "0"}} {
		if files, err := FromSystemd(env(c.pid, c.fds, ""), 42); err != nil || len(files) != 0 {
			t.Errorf("%+v: %v, %v", c, files, err)
		}
	}
	for _, fds := range []string{"x", "-1", "65"} {
		if _, err := FromSystemd(env("42", fds, ""), 42); err == nil {
			t.Errorf("LISTEN_FDS=%s was taken", fds)
		}
	}
}

// shelf is a supervisor that holds sockets.
type shelf struct {
	t         *testing.T
	held      map[string]*os.File
	forgotten []string
}

func newShelf(t *testing.T) *shelf {
	k := &shelf{t: t, held: map[string]*os.File{}}
	t.Cleanup(func() {
		for name := range k.held {
			k.Forget(name)
		}
	})
	return k
}

// Keep implements Keeper.
func (k *shelf) Keep(name string, fd int) {
	if _, twice := k.held[name]; twice {
		k.t.Errorf("%s was to be kept twice", name)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	k.held[name] = os.NewFile(uintptr(own), name)
}

// Forget implements Keeper.
func (k *shelf) Forget(name string) {
	if err := k.held[name].Close(); err != nil {
		k.t.Error(err)
	}
	delete(k.held, name)
	k.forgotten = append(k.forgotten, name)
}

// files are duplicates of what is held, as the next daemon gets them.
func (k *shelf) files() (files []*os.File) {
	for name, f := range k.held {
		raw, err := f.SyscallConn()
		if err != nil {
			k.t.Fatal(err)
		}
		var fd int
		if cerr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil || err != nil {
			k.t.Fatal(cerr, err)
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files
}

func (k *shelf) names() (names []string) {
	for name := range k.held {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestKept: what arrives while no daemon runs is there for the next one, which opens nothing
// anew; what the configuration asks for no more is let go of.
func TestKept(t *testing.T) {
	k := newShelf(t)
	o := Options{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Keeper: k, TolerateNoXFRM: true}
	first, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Port, o.NATTPort = first.Ports()
	held := k.names()
	if len(held) != 2 || !strings.HasPrefix(held[0], "espalier-127.0.0.1-") {
		t.Fatalf("expected two sockets to be kept under their address and port, got %q", held)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := peer(t, "127.0.0.1", o.NATTPort).Write(append(marker[:], "meanwhile"...)); err != nil {
		t.Fatal(err)
	}
	o.Inherited = append(k.files(), k.files()...) // each twice, as of a socket unit and kept
	second, got := open(t, o)
	if len(second.socks) != 2 {
		t.Errorf("expected the two kept sockets, got %d", len(second.socks))
	}
	if d := <-got; string(d.Data) != "meanwhile" {
		t.Errorf("expected what arrived meanwhile, got %q", d.Data)
	}
	if now := k.names(); !slices.Equal(now, held) {
		t.Errorf("kept %q, then %q", held, now)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	free := o.NATTPort
	o.Inherited, o.NATTPort = k.files(), 0
	third, _ := open(t, o)
	if len(third.socks) != 2 || len(k.forgotten) != 1 || k.forgotten[0] != keptName(netip.AddrPortFrom(o.Addrs[0], free)) {
		t.Errorf("another port: %d sockets, forgotten %q", len(third.socks), k.forgotten)
	}
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(o.Addrs[0], free)))
	if err != nil {
		t.Fatalf("the port of before is still held: %v", err)
	}
	c.Close()
}

// TestKeptNames: FDNAMES are separated by colons, so none may be in one.
func TestKeptNames(t *testing.T) {
	for local, want := range map[string]string{"0.0.0.0:500": "espalier-0.0.0.0-500", "[::]:4500": "espalier-__-4500", "[2001:db8::1]:4500": "espalier-2001_db8__1-4500"} {
		if got := keptName(netip.MustParseAddrPort(local)); got != want {
			t.Errorf("%s: expected %q, got %q", local, want, got)
		}
	}
}
