package flow

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
	"espalier/dataplane/host"
)

// needKernel skips where the test may not load programs, and gives a folder for
// pins otherwise.
func needKernel(t *testing.T) (pins string) {
	t.Helper()
	if os.Getenv(innerVar) == "" {
		t.Skip("needs root: network namespaces and BPF")
	}
	if err := (host.Local{}).MountBPF(bpfRoot); err != nil {
		t.Fatal(err)
	}
	pins = filepath.Join(bpfRoot, "test", t.Name(), "v1")
	t.Cleanup(func() { os.RemoveAll(filepath.Join(bpfRoot, "test")) })
	return pins
}

// veth makes a pair of interfaces, the second end in a namespace of its own, and
// returns the first and a way to run something at the second.
func veth(t *testing.T, name string) (netlink.Link, func(func() error) error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	defer home.Close()
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	far, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	must(t, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
	t.Cleanup(func() { far.Close() })
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1500}, PeerName: name + "p"}
	must(t, netlink.LinkAdd(pair))
	peer, err := netlink.LinkByName(name + "p")
	must(t, err)
	must(t, netlink.LinkSetNsFd(peer, int(far.Fd())))
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	t.Cleanup(func() { _ = netlink.LinkDel(l) }) // the test may have
	at := func(f func() error) error {
		return inNamespace(far, f)
	}
	must(t, at(func() error {
		peer, err := netlink.LinkByName(name + "p")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(peer)
	}))
	// Until the kernel has seen the carrier it drops what is sent.
	up := func(name string) (ok bool) {
		l, err := netlink.LinkByName(name)
		return err == nil && l.Attrs().OperState == netlink.OperUp
	}
	eventually(t, "carrier", func() bool {
		far := false
		_ = at(func() error { far = up(name + "p"); return nil })
		return far && up(name)
	})
	return l, at
}

// inNamespace runs f on a thread in the network namespace.
func inNamespace(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send puts n frames on an interface, from outside.
func send(at func(func() error) error, link string, n int) error {
	return at(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		frame := make([]byte, 64)
		copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}) // a local experiment's EtherType
		for range n {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
}

// stream sends packets until it is stopped, which says how many there were.
func stream(t *testing.T, at func(func() error) error, link string) (stop func() uint64) {
	quit, sent := make(chan struct{}), make(chan uint64, 1)
	go func() {
		n := uint64(0)
		defer func() { sent <- n }()
		for {
			select {
			case <-quit:
				return
			default:
			}
			if err := send(at, link, 50); err != nil {
				t.Error(err)
				return
			}
			n += 50
		}
	}()
	stop = sync.OnceValue(func() uint64 {
		close(quit)
		return <-sent
	})
	t.Cleanup(func() { stop() })
	return stop
}

// counting is a program that adds one to a total for each packet, in the row of
// CPU 0, and lets it pass.
func counting(typ ebpf.ProgramType, total Total, pass int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Type: typ, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.R10, -4, int64(total), asm.Word),
		asm.LoadMapPtr(asm.R1, 0).WithReference("totals"),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("out"),
		asm.Return(),
	}}
}

// Totals that the programs of the tests count in.
const (
	countXDP Total = iota
	countIn
	countOut
)

// testObject has the real maps and small programs under the real names. With
// broken, one that no verifier takes is among them.
func testObject(broken bool) []object {
	return []object{{"test", func(s bpf.Sizes) (*ebpf.CollectionSpec, error) {
		spec, err := bpf.Check(s)
		if err != nil {
			return nil, err
		}
		spec.Maps["ike_spis"].MaxEntries = 256 // so that a test can fill it
		const next = -1
		spec.Programs = map[string]*ebpf.ProgramSpec{
			progESPIn:        counting(ebpf.XDP, countXDP, 2),
			progESPInStay:    counting(ebpf.XDP, countXDP, 2),
			progESPOut:       counting(ebpf.SchedCLS, countOut, next),
			progMSSIn:        counting(ebpf.SchedCLS, countIn, next),
			progMSSOut:       counting(ebpf.SchedCLS, countIn, next),
			progESPIn + raw:  counting(ebpf.SchedCLS, countIn, next),
			progESPOut + raw: counting(ebpf.SchedCLS, countIn, next),
		}
		if broken {
			spec.Programs[progESPOut] = &ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
				asm.LoadMem(asm.R0, asm.R10, -8, asm.DWord), asm.LoadMem(asm.R0, asm.R0, 0, asm.DWord), asm.Return(),
			}}
		}
		for name, p := range spec.Programs {
			p.Name = name
		}
		return spec, nil
	}}}
}

func options(t *testing.T, pins string, outside ...string) Options {
	return Options{
		Settings: Settings{
			Outside: outside, Inside: []string{"none"}, MaxSPIs: 1024, Guard: GuardLog, MSS: true,
			InitRate: 100, InitBurst: 200, Prefix4: 32, Prefix6: 64, IKEPort: 500, NATTPort: 4500,
		},
		Pins: pins, State: filepath.Join(t.TempDir(), "fastpath.json"), objects: testObject(false),
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
	}
}

func open(t *testing.T, o Options) *Flow {
	t.Helper()
	f, err := Open(o)
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to load BPF programs")
	}
	must(t, err)
	must(t, f.Load())
	return f
}

// haveTCX reports whether the kernel is 6.6 or newer.
func haveTCX() bool {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 6 || major == 6 && minor >= 6)
}

// parts are "program/direction how" of one interface. What kernels before 6.6 have
// as a filter of clsact counts as tcx there.
func parts(f *Flow, link string) (out []string) {
	for _, p := range f.Parts() {
		if p.Interface == link {
			how := p.How
			if how == "clsact" && !haveTCX() {
				how = "tcx"
			}
			out = append(out, fmt.Sprintf("%s/%s %s", p.Program, p.Direction, how))
		}
	}
	slices.Sort(out)
	return out
}

// counted adds to an SA's counts: on each CPU c, and lost packets (replay).
func counted(t *testing.T, tab *table.Table, slot uint32, c bpf.Counters, lost uint64) {
	t.Helper()
	sa, ok := tab.Slot(slot)
	if !ok {
		t.Fatalf("slot %d is free", slot)
	}
	for cpu := range tab.Sizes().CPUs {
		tab.Add(cpu, slot, sa.Generation, c, bpf.Counters{})
	}
	tab.AddDrops(slot, sa.Generation, [bpf.DropReasons]uint64{bpf.DropReplay: lost}, [bpf.DropReasons]uint64{})
}
