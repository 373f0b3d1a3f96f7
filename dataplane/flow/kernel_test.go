package flow

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane"
)

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
	close(f.stop)
	f.follow.Wait()
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
		counted(t, f.tab, slot, bpf.Counters{Packets: uint64(n), Bytes: uint64(n) * 100, LastUsed: 80}, 0)
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

// TestGeneric: an interface whose driver has no XDP gets the generic one, and the program that never redirects: from there, that loses packets.
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
	if p := find("bri0", progESPInStay); p.How != "generic" || p.Reason == "" {
		t.Errorf("bridge: %+v, expected the program that never redirects, generic and why not native; have %+v", p, got)
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

// TestNothingLoads: when the kernel takes no program, its reason is the error, and
// nothing stays pinned.
func TestNothingLoads(t *testing.T) {
	pins := needKernel(t)
	veth(t, "bad0")
	o := options(t, pins, "bad0")
	all := testObject(true)[0].spec
	o.objects = []object{{"bad", func(s bpf.Sizes) (*ebpf.CollectionSpec, error) {
		spec, err := all(s)
		if err != nil {
			return nil, err
		}
		spec.Programs = map[string]*ebpf.ProgramSpec{progESPOut: spec.Programs[progESPOut]}
		return spec, nil
	}}}
	f, err := Open(o)
	must(t, err)
	if err := f.Load(); err == nil || !strings.Contains(err.Error(), "none of the BPF programs") || !strings.Contains(err.Error(), progESPOut) {
		t.Fatalf("loaded: %v", err)
	}
	defer f.Close()
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins after the failure: %v, expected none", err)
	}
}

// TestOpenBeforeLoad: what happens before the programs are there is in the maps that
// they find, and readers are told that they are being loaded.
func TestOpenBeforeLoad(t *testing.T) {
	pins := needKernel(t)
	_, at := veth(t, "soon0")
	o := options(t, pins, "soon0")
	f, err := Open(o)
	must(t, err)
	here := netip.MustParseAddr("192.0.2.1")
	w, err := f.Wrap(dataplane.NewFake(dataplane.FakeOptions{}))
	must(t, err)
	must(t, w.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa(dataplane.In, here, 0x1000)}}))
	f.OwnIKE(7, true)
	f.Peers([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, true)
	set := o.Settings
	set.Guard, set.MSS = GuardOn, false
	f.Set(set)
	d, err := ReadDaemon(ReaderOptions{State: o.State})
	if err != nil || !d.Loading || d.PID != os.Getpid() || len(d.Parts) != 0 {
		t.Errorf("before: %+v, %v, expected that it is loading", d, err)
	}
	r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
	must(t, err)
	defer r.Close()
	spis, err := r.SPIs()
	must(t, err)
	g, err := r.Guard()
	must(t, err)
	if len(spis) != 1 || spis[0].SPI != 0x1000 || g.Mode != GuardOn || g.IKESPIs != 1 || !g.PeersOnly {
		t.Errorf("before: SPIs %+v, guard %+v", spis, g)
	}

	must(t, f.Load())
	if got, want := parts(f, "soon0"), []string{"esp_in/ native", "esp_out/egress tcx"}; !slices.Equal(got, want) {
		t.Errorf("attached: %q, expected %q", got, want)
	}
	if d, err := ReadDaemon(ReaderOptions{State: o.State}); err != nil || d.Loading || len(d.Parts) != 2 {
		t.Errorf("after: %+v, %v", d, err)
	}
	must(t, send(at, "soon0p", 10))
	eventually(t, "packets are counted", func() bool { return f.tab.Total(bpf.Total(countXDP)) >= 10 })
	must(t, w.Apply([]dataplane.Op{dataplane.DeleteSA{Key: sa(dataplane.In, here, 0x1000).SAKey}}))
	must(t, w.Close())
	must(t, f.Close())
}

// TestCloseWhileLoading: an end at any moment of it leaves nothing.
func TestCloseWhileLoading(t *testing.T) {
	pins := needKernel(t)
	veth(t, "half0")
	o := options(t, pins, "half0")
	o.objects, o.Steering = nil, SteerHash
	for _, busy := range []bool{false, true, true} {
		f, err := Open(o)
		must(t, err)
		loaded := make(chan error, 1)
		go func() { loaded <- f.Load() }()
		atWork := func() bool { // or has done it
			if f.work.TryLock() {
				f.work.Unlock()
				return len(loaded) > 0
			}
			return true
		}
		for busy && !atWork() {
			runtime.Gosched()
		}
		must(t, f.Close())
		if err := <-loaded; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("load: %v, expected ErrClosed or nothing", err)
		}
		if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("pins after the end: %v, expected none", err)
		}
		if _, err := os.Stat(o.State); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state file after the end: %v, expected none", err)
		}
	}
}
