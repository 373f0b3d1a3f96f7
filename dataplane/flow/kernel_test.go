package flow

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	"espalier/dataplane"
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

func TestOpenAttachesAndCloseLeavesNothing(t *testing.T) {
	pins := needKernel(t)
	l, at := veth(t, "out0")
	o := options(t, pins, "out0")
	f := open(t, o)
	want := []string{"esp_in/ native", "esp_out/egress tcx", "mss_out/ingress tcx"}
	if got := parts(f, "out0"); !slices.Equal(got, want) {
		t.Errorf("attached: %q, expected %q", got, want)
	}
	must(t, send(at, "out0p", 100))
	eventually(t, "packets are counted", func() bool { return f.tab.Total(bpf.Total(countXDP)) >= 100 })
	if _, err := Open(o); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v, expected ErrInUse", err)
	}
	must(t, f.Close())
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins after the end: %v, expected none", err)
	}
	eventually(t, "the program leaves the interface", func() bool {
		l, err := netlink.LinkByIndex(l.Attrs().Index)
		must(t, err)
		return l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached
	})
	must(t, f.Close())
}

// TestInterfacesComeAndGo: what the configuration names is picked up when it
// appears, and what belongs to it goes when it disappears.
func TestInterfacesComeAndGo(t *testing.T) {
	pins := needKernel(t)
	f := open(t, options(t, pins, "late0"))
	defer f.Close()
	if got := parts(f, "late0"); len(got) != 0 {
		t.Errorf("attached to what is not there: %q", got)
	}
	l, at := veth(t, "late0")
	eventually(t, "a new interface is picked up", func() bool { return len(parts(f, "late0")) == 3 })
	must(t, send(at, "late0p", 10))
	eventually(t, "packets are counted", func() bool { return f.tab.Total(bpf.Total(countXDP)) >= 10 })
	addr, err := netlink.ParseAddr("192.0.2.77/32")
	must(t, err)
	must(t, netlink.AddrAdd(l, addr))
	k := dataplane.SAKey{Dst: netip.MustParseAddr("192.0.2.77")}
	eventually(t, "a new address is known", func() bool {
		var v uint32
		return f.isOwn(&k) && f.maps.byID["own_addrs"].Lookup(bpf.MakeAddrKey(k.Dst), &v) == nil
	})
	must(t, netlink.LinkDel(l))
	eventually(t, "its programs and addresses go", func() bool {
		pins, _ := os.ReadDir(f.linkPins())
		return len(parts(f, "late0")) == 0 && len(f.Parts()) == 0 && len(pins) == 0 && !f.isOwn(&k)
	})
}

// TestKilledAndTakenOver: the programs count on without a daemon, and the next one
// takes maps and links over while packets come: not one is missed.
func TestKilledAndTakenOver(t *testing.T) {
	pins := needKernel(t)
	_, at := veth(t, "keep0")
	o := options(t, pins, "keep0")
	f := open(t, o)
	key := Key{dataplane.Out, netip.MustParseAddr("192.0.2.1"), 0x1000}
	must(t, f.spis.Insert(key, Attrs{ReqID: 7}))
	base := f.tab.Total(bpf.Total(countXDP))
	stop := stream(t, at, "keep0p")
	slot, _ := f.tab.Lookup(tableKey(key))
	for range 5 {
		kill(t, f)
		r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
		must(t, err)
		was := r.tab.Total(bpf.Total(countXDP))
		eventually(t, "packets are counted without a daemon", func() bool { return r.tab.Total(bpf.Total(countXDP)) > was })
		must(t, r.Close())
		f = open(t, o)
		if got, ok := f.tab.Lookup(tableKey(key)); !ok || got != slot {
			t.Fatalf("the SPI after a restart: slot %d, %v, expected %d", got, ok, slot)
		}
		if got := parts(f, "keep0"); len(got) != 3 || got[0] != "esp_in/ native" {
			t.Errorf("attached after a restart: %q", got)
		}
	}
	n := stop()
	eventually(t, "every packet is counted once", func() bool { return f.tab.Total(bpf.Total(countXDP)) >= base+n })
	if got := f.tab.Total(bpf.Total(countXDP)) - base; got > n+20 { // the kernel's own, such as router solicitations
		t.Errorf("%d packets counted of %d sent", got, n)
	}
	f.spis.Remove(key)
	must(t, f.Close())
}

// kill ends a Flow as SIGKILL ends its process: nothing is taken down.
func kill(t *testing.T, f *Flow) {
	t.Helper()
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	must(t, f.watch.close())
	must(t, f.release())
}

// TestResize: the table of another size has the SAs of the former one with their
// counts, and not a packet is lost from them on the way.
func TestResize(t *testing.T) {
	pins := needKernel(t)
	_, at := veth(t, "size0")
	o := options(t, pins, "size0")
	f := open(t, o)
	keys := map[Key]uint64{}
	for n := range uint32(600) {
		k := Key{dataplane.Out, netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 0x1000 + n}
		must(t, f.spis.Insert(k, Attrs{ReqID: n}))
		slot, _ := f.tab.Lookup(tableKey(k))
		a, err := mapCounters(f.maps.table(), f.tab.Sizes())
		must(t, err)
		for cpu := range a.cpus {
			a.counters[cpu*a.slots+int(slot)] = bpf.Counters{Packets: uint64(n), Bytes: uint64(n) * 100, LastUsed: 5}
		}
		must(t, a.unmap())
		keys[k] = uint64(n)
	}
	base := f.tab.Total(bpf.Total(countXDP))
	stop := stream(t, at, "size0p")
	for _, size := range []int{4096, 700, 2048} {
		kill(t, f)
		o.MaxSPIs = size
		f = open(t, o)
		if s := f.tab.Sizes(); s.Slots != size || f.tab.Used() != len(keys) {
			t.Fatalf("%d slots, %d used, expected %d and %d", s.Slots, f.tab.Used(), size, len(keys))
		}
		if got := parts(f, "size0"); len(got) != 3 {
			t.Errorf("attached after a resize: %q", got)
		}
	}
	n := stop()
	eventually(t, "every packet is counted", func() bool { return f.tab.Total(bpf.Total(countXDP)) >= base+n })
	if got := f.tab.Total(bpf.Total(countXDP)) - base; got > n+20 {
		t.Errorf("%d packets counted of %d sent", got, n)
	}
	for k, n := range keys {
		slot, ok := f.tab.Lookup(tableKey(k))
		c := f.tab.Counters(slot)
		if sa, _ := f.tab.Slot(slot); !ok || c.Packets != n*uint64(f.tab.Sizes().CPUs) || c.Bytes != 100*c.Packets || sa.Reqid != uint32(n) {
			t.Fatalf("%+v: %v, %+v, reqid %d", k, ok, c, sa.Reqid)
		}
	}
	// Smaller than what is in it: what fits stays.
	kill(t, f)
	o.MaxSPIs = 100
	f = open(t, o)
	if f.tab.Used() != 100 {
		t.Errorf("%d of 600 SPIs in a table of 100", f.tab.Used())
	}
	kill(t, f)
}

// TestRefusedProgram: what the verifier does not take keeps no other from working,
// and is told with the kernel's reason.
func TestRefusedProgram(t *testing.T) {
	pins := needKernel(t)
	veth(t, "part0")
	o := options(t, pins, "part0")
	o.objects = testObject(true)
	f := open(t, o)
	defer f.Close()
	want := []string{"esp_in/ native", "mss_out/ingress tcx"}
	if got := parts(f, "part0"); !slices.Equal(got, want) {
		t.Errorf("attached: %q, expected %q", got, want)
	}
	d, err := ReadDaemon(ReaderOptions{State: o.State})
	must(t, err)
	i := slices.IndexFunc(d.Parts, func(p Part) bool { return p.Program == progESPOut })
	if i < 0 || d.Parts[i].How != "" || d.Parts[i].Reason == "" || d.PID != os.Getpid() {
		t.Errorf("the state file says %+v", d)
	}
	t.Logf("reason: %s", d.Parts[i].Reason)
}

// TestGeneric: an interface whose driver has no XDP gets the generic one.
func TestGeneric(t *testing.T) {
	pins := needKernel(t)
	d := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bri0"}}
	must(t, netlink.LinkAdd(d))
	defer netlink.LinkDel(d)
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(tun); err == nil {
		defer netlink.LinkDel(tun)
	} else {
		tun = nil
	}
	f := open(t, options(t, pins, "bri0", "tun0"))
	defer f.Close()
	got := f.Parts()
	find := func(link, program string) Part {
		for _, p := range got {
			if p.Interface == link && p.Program == program {
				return p
			}
		}
		return Part{}
	}
	if p := find("bri0", progESPIn); p.How != "generic" || p.Reason == "" {
		t.Errorf("bridge: %+v, expected generic and why not native", p)
	}
	if p := find("tun0", progESPIn+raw); tun != nil && (p.How == "" || p.Direction != "ingress") {
		t.Errorf("tun: %+v, expected tc", p)
	}
}

// TestClsact: kernels before 6.6 have filters.
func TestClsact(t *testing.T) {
	pins := needKernel(t)
	l, at := veth(t, "old0")
	f := open(t, options(t, pins))
	defer f.Close()
	h := hook{progMSSIn, atIngress, l.Attrs().Index}
	f.need(func(name string, _ *ebpf.ProgramSpec) bool { return name == progMSSIn })
	for range 2 { // the second time replaces
		if err := replaceFilter(h, f.progs.loaded[progMSSIn]); errors.Is(err, unix.ENOENT) {
			t.Skip("the kernel has no clsact")
		} else {
			must(t, err)
		}
	}
	list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	must(t, err)
	if len(list) != 1 || list[0].(*netlink.BpfFilter).Name != "espalier_mss_in" {
		t.Errorf("filters: %+v, expected one", list)
	}
	was := f.tab.Total(bpf.Total(countIn))
	must(t, send(at, "old0p", 10))
	eventually(t, "packets are counted", func() bool { return f.tab.Total(bpf.Total(countIn)) >= was+10 })
	must(t, removeFilter(h))
	must(t, removeFilter(h))
	must(t, replaceFilter(h, f.progs.loaded[progMSSIn]))
	must(t, removeFilters())
	if list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS); err != nil || len(list) != 0 {
		t.Errorf("filters after the removal: %+v, %v", list, err)
	}
}

// TestCloseKeepsForeign: an orderly end leaves the programs while SAs of others
// are counted, and the guard only logs then.
func TestCloseKeepsForeign(t *testing.T) {
	pins := needKernel(t)
	veth(t, "stay0")
	o := options(t, pins, "stay0")
	o.Guard = GuardOn
	f := open(t, o)
	key := Key{dataplane.Out, netip.MustParseAddr("192.0.2.1"), 0x1000}
	must(t, f.spis.Insert(key, Attrs{}))
	f.spis.InStep(true)
	must(t, f.Close())
	r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
	must(t, err)
	g, err := r.Guard()
	must(t, err)
	spis, err := r.SPIs()
	must(t, err)
	if g.Mode != GuardOn || g.InStep || len(spis) != 1 || spis[0].Key != key {
		t.Errorf("after the end: guard %+v, SPIs %+v", g, spis)
	}
	if d, err := ReadDaemon(ReaderOptions{State: o.State}); err != nil || d.PID != 0 || len(d.Parts) != 3 {
		t.Errorf("state file: %+v, %v", d, err)
	}
	must(t, r.Close())
	f = open(t, o)
	dp := dataplane.NewFake(dataplane.FakeOptions{})
	w, err := f.Wrap(dp)
	must(t, err)
	eventually(t, "what the kernel has not goes", func() bool { return f.tab.Used() == 0 })
	must(t, w.Close())
	must(t, f.Close())
	if _, err := OpenReader(ReaderOptions{Pins: pins, State: o.State}); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("reader after the end: %v, expected ErrNotLoaded", err)
	}
}

// TestReader: what the daemon has told is read back, and the guard can be set.
func TestReader(t *testing.T) {
	pins := needKernel(t)
	o := options(t, pins)
	f := open(t, o)
	defer f.Close()
	f.Peers([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/64")}, true)
	f.Peers([]netip.Prefix{netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("198.51.100.7/32")}, true)
	f.OwnIKE(0x1122334455667788, true)
	f.OwnIKE(0x1122334455667789, true)
	f.OwnIKE(0x1122334455667789, false)
	must(t, f.spis.Insert(Key{dataplane.Out, netip.MustParseAddr("2001:db8::9"), 0xabcdef01}, Attrs{Own: true, ReqID: 3, IfID: 4}))
	must(t, f.spis.Insert(Key{dataplane.In, netip.MustParseAddr("192.0.2.1"), 0x1000}, Attrs{Own: true, Reserved: true}))
	a, err := mapCounters(f.maps.table(), f.tab.Sizes())
	must(t, err)
	slot, _ := f.tab.Lookup(tableKey(Key{dataplane.Out, netip.MustParseAddr("2001:db8::9"), 0xabcdef01}))
	a.counters[int(slot)] = bpf.Counters{Packets: 5, Bytes: 600, LastUsed: 1}
	a.drops[int(slot)*int(bpf.DropReasons)+int(bpf.DropReplay)] = 9
	a.totals[int(bpf.TotalGuardRate)] = 12
	must(t, a.unmap())

	r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
	must(t, err)
	defer r.Close()
	g, err := r.Guard()
	must(t, err)
	want := []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("2001:db8::/64")}
	if g.Mode != GuardLog || !g.PeersOnly || !slices.Equal(g.Peers, want) || g.IKESPIs != 1 || g.InitRate != 100 || g.Prefix6 != 64 {
		t.Errorf("guard: %+v", g)
	}
	if i := slices.Index(g.Totals, TotalCount{Total(bpf.TotalGuardRate), 12}); i < 0 || len(g.Totals) != 5 {
		t.Errorf("the guard's totals: %+v", g.Totals)
	}
	spis, err := r.SPIs()
	must(t, err)
	if len(spis) != 2 || !spis[0].Reserved || spis[0].SPI != 0x1000 || spis[1].IfID != 4 || spis[1].CPU != -1 || !spis[1].Own ||
		spis[1].Counters.Packets != 5 || spis[1].Counters.Bytes != 600 || !slices.Equal(spis[1].Drops, []Drop{{Reason(bpf.DropReplay), 9}}) {
		t.Errorf("SPIs: %+v", spis)
	}
	must(t, r.SetGuard(GuardOn))
	if g, err := r.Guard(); err != nil || g.Mode != GuardOn || f.tab.Config().Guard != uint32(bpf.GuardOn) {
		t.Errorf("guard after the change: %+v, %v", g, err)
	}
	if err := r.SetGuard(9); err == nil {
		t.Error("guard mode 9 was taken")
	}
	s, err := r.State()
	must(t, err)
	if s.Capacity != 1024 || s.Used != 2 || s.PID != os.Getpid() || s.MemoryBytes < 1024*64 || !s.MSS || s.Steering != SteerOff {
		t.Errorf("state: %+v", s)
	}
	if all, err := r.Totals(); err != nil || len(all) != len(totals) {
		t.Errorf("totals: %+v, %v", all, err)
	}
	f.spis.InStep(true)
	for n := range uint64(300) { // more than the map takes
		f.OwnIKE(n<<32, true)
	}
	f.keep.mu.Lock()
	f.keep.synced = true
	f.keep.stepLocked()
	f.keep.mu.Unlock()
	if g, err := r.Guard(); err != nil || g.InStep {
		t.Errorf("guard that does not know all IKE SPIs: %+v, %v, expected it to only log", g, err)
	}
	f.Peers(nil, false)
	if g, err := r.Guard(); err != nil || g.PeersOnly {
		t.Errorf("guard when anybody may: %+v, %v", g, err)
	}
}

// TestIKESPIsOfLastRun: they are known for one run more.
func TestIKESPIsOfLastRun(t *testing.T) {
	pins := needKernel(t)
	o := options(t, pins)
	f := open(t, o)
	f.OwnIKE(1, true)
	for run, want := range []int{1, 2, 1} {
		kill(t, f)
		f = open(t, o)
		if run == 1 {
			f.OwnIKE(2, true)
		}
		_ = want
	}
	n := 0
	var k uint64
	var v uint32
	for it := f.maps.byID["ike_spis"].Iterate(); it.Next(&k, &v); n++ {
		if k != bpf.MakeIKESPI(2) || v != ikeOfLastRun {
			t.Errorf("SPI %x of run %d", k, v)
		}
	}
	if n != 1 {
		t.Errorf("%d IKE SPIs, expected the last run's one", n)
	}
	must(t, f.Close())
}

// TestTakeDown: what a killed daemon left goes, and nothing of another's.
func TestTakeDown(t *testing.T) {
	pins := needKernel(t)
	l, _ := veth(t, "down0")
	o := options(t, pins, "down0")
	must(t, TakeDown(o)) // nothing is there
	f := open(t, o)
	if err := TakeDown(o); !errors.Is(err, ErrInUse) {
		t.Errorf("while it runs: %v, expected ErrInUse", err)
	}
	kill(t, f)
	must(t, TakeDown(o))
	eventually(t, "the program leaves the interface", func() bool {
		l, err := netlink.LinkByIndex(l.Attrs().Index)
		must(t, err)
		return l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached
	})
	for _, path := range []string{pins, o.State} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

// TestMigrationCarriesTwice: what the old programs count while the new ones are
// being attached is not lost, and not counted twice.
func TestMigrationCarriesTwice(t *testing.T) {
	needKernel(t)
	made := func(slots int) (*table.Table, table.Maps, *counterArrays) {
		spec, err := bpf.Check(bpf.Sizes{Slots: slots, CPUs: 2})
		must(t, err)
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinNone
		}
		c, err := ebpf.NewCollection(spec)
		must(t, err)
		t.Cleanup(c.Close)
		maps := (&maps{"", c.Maps}).table()
		tab, err := table.Open(maps)
		must(t, err)
		t.Cleanup(func() { must(t, tab.Close()) })
		a, err := mapCounters(maps, tab.Sizes())
		must(t, err)
		t.Cleanup(func() { must(t, a.unmap()) })
		return tab, maps, a
	}
	old, oldMaps, from := made(64)
	next, nextMaps, _ := made(128)
	slot, err := old.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x1000), table.Attr{CPU: 1, Reqid: 7})
	must(t, err)
	count := func(n uint64) {
		for cpu := range 2 {
			c := &from.counters[cpu*from.slots+int(slot)]
			c.Packets += n
			c.Bytes += 100 * n
			c.LastUsed = 10 * n
		}
		from.drops[int(slot)*int(bpf.DropReasons)+int(bpf.DropReplay)] += n
		from.totals[int(bpf.Totals)+int(bpf.TotalIKE)] += n // of CPU 1
	}
	count(5)
	m, err := startMigration(oldMaps, next, nextMaps)
	must(t, err)
	s, ok := next.Lookup(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x1000))
	if c := next.Counters(s); !ok || c.Packets != 10 {
		t.Errorf("after the first step: %+v, %v", c, ok)
	}
	count(3)
	must(t, m.finish())
	c, sa := next.Counters(s), bpf.Slot{}
	sa, _ = next.Slot(s)
	if c.Packets != 16 || c.Bytes != 1600 || c.LastUsed != 50 && c.LastUsed != 30 || next.Drops(s)[bpf.DropReplay] != 8 || next.Total(bpf.TotalIKE) != 8 || sa.Cpu != 1 || sa.Reqid != 7 {
		t.Errorf("after the second: %+v, drops %d, total %d, %+v", c, next.Drops(s)[bpf.DropReplay], next.Total(bpf.TotalIKE), sa)
	}
}
