package flow

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"

	"espalier/bpf"
	"espalier/dataplane"
)

func TestRoles(t *testing.T) {
	link := func(index int, name, encap string) netlink.Link {
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index, Name: name, EncapType: encap}}
	}
	wan, lan, ppp, lo := link(2, "eth0", "ether"), link(3, "eth1", "ether"), link(4, "ppp0", "ppp"), link(1, "lo", "loopback")
	xfrm := &netlink.Xfrmi{LinkAttrs: netlink.LinkAttrs{Index: 5, Name: "ipsec0", EncapType: "none"}, Ifid: 9}
	b := &box{outside: map[int]bool{2: true}}
	all := []netlink.Link{lo, wan, lan, ppp, xfrm}
	for _, c := range []struct {
		name            string
		outside, inside []string
		want            []role
	}{
		{"found", nil, nil, []role{roleNone, roleOutside, roleInside, roleInside, roleXfrm}},
		{"outside named", []string{"ppp0"}, nil, []role{roleNone, roleInside, roleInside, roleOutside, roleXfrm}},
		{"inside named", nil, []string{"eth1"}, []role{roleNone, roleOutside, roleInside, roleNone, roleXfrm}},
		{"inside wins over the default route", nil, []string{"eth0"}, []role{roleNone, roleInside, roleNone, roleNone, roleXfrm}},
		{"both named", []string{"eth1", "lo"}, []string{"none"}, []role{roleNone, roleNone, roleOutside, roleNone, roleXfrm}},
	} {
		var got []role
		for _, l := range all {
			got = append(got, roleOf(b, &Settings{Outside: c.outside, Inside: c.inside}, l))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, expected %v", c.name, got, c.want)
		}
	}
	in := hook{progMSSIn, atIngress, 3}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: 8, Name: "veth1", EncapType: "ether"}}
	for _, c := range []struct {
		name string
		role role
		s    Settings
		l    netlink.Link
		want []hook
		not  string
	}{
		{"outside", roleOutside, Settings{MSS: true}, wan, []hook{{progESPIn, atXDP, 2}, {progESPOut, atEgress, 2}, {progMSSOut, atIngress, 2}}, ""},
		{"outside without Ethernet", roleOutside, Settings{MSS: true}, ppp, []hook{{"esp_in_raw", atIngress, 4}, {"esp_out_raw", atEgress, 4}, {"mss_out_raw", atIngress, 4}}, ""},
		{"inside without Ethernet", roleInside, Settings{Steering: SteerHash}, ppp, nil, progFlowIn},
		{"inside", roleInside, Settings{MSS: true}, lan, []hook{in, {progMSSOut, atEgress, 3}}, ""},
		{"inside, steered", roleInside, Settings{Steering: SteerHash}, lan, []hook{{progFlowIn, atXDP, 3}}, ""},
		{"inside, steered by load", roleInside, Settings{Steering: SteerAuto}, lan, []hook{{progFlowIn, atXDP, 3}}, ""},
		{"inside, a trunk", roleInside, Settings{Steering: SteerAuto}, link(7, "trunk", "ether"), nil, progFlowIn},
		{"inside, a container's", roleInside, Settings{Steering: SteerAuto}, veth, nil, ""},
		{"inside, a container's that is named", roleInside, Settings{Steering: SteerAuto, Inside: []string{"veth1"}}, veth, []hook{{progFlowIn, atXDP, 8}}, ""},
		{"inside, without Ethernet, by load", roleInside, Settings{Steering: SteerAuto}, link(4, "ppp0", "ppp"), nil, progFlowIn},
		{"xfrm", roleXfrm, Settings{MSS: true}, xfrm, []hook{{progMSSXfrm, atIngress, 5}, {progMSSXfrm, atEgress, 5}}, ""},
		{"xfrm without MSS", roleXfrm, Settings{}, xfrm, nil, ""},
		{"none", roleNone, Settings{MSS: true}, lo, nil, ""},
	} {
		hooks, not := hooksOf(&box{vlans: map[int]bool{7: true}}, c.role, &c.s, c.l)
		if !slices.Equal(hooks, c.want) || c.not != "" && not[c.not] == "" || c.not == "" && len(not) > 0 {
			t.Errorf("%s: %v, not %v, expected %v", c.name, hooks, not, c.want)
		}
	}
}

// TestTagged: what is below VLANs, through bonds and bridges.
func TestTagged(t *testing.T) {
	at := func(index, parent, master int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, ParentIndex: parent, MasterIndex: master}
	}
	yes := true
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: at(1, 0, 5)}, &netlink.Device{LinkAttrs: at(2, 0, 5)}, &netlink.Device{LinkAttrs: at(3, 0, 0)}, &netlink.Device{LinkAttrs: at(4, 0, 7)},
		&netlink.Bond{LinkAttrs: at(5, 0, 0)}, &netlink.Vlan{LinkAttrs: at(6, 5, 0)}, &netlink.Bridge{LinkAttrs: at(7, 0, 0), VlanFiltering: &yes},
		&netlink.Bridge{LinkAttrs: at(8, 0, 0)}, &netlink.Device{LinkAttrs: at(9, 0, 8)},
	}
	var got []int
	for _, l := range links {
		if tagged(links)[l.Attrs().Index] {
			got = append(got, l.Attrs().Index)
		}
	}
	if want := []int{1, 2, 4, 5, 7}; !slices.Equal(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
	one := &box{cpus: 1}
	if wanted, _ := steersClear(one, &Settings{Steering: SteerAuto}, links[2]); wanted {
		t.Error("clear packets are to be steered on a box with one CPU")
	}
}

func TestVariants(t *testing.T) {
	b := &box{vlans: map[int]bool{2: true}}
	for _, c := range []struct {
		hook
		how, want string
	}{
		{hook{progESPIn, atXDP, 2}, native, progESPInStay}, {hook{progESPIn, atXDP, 3}, native, progESPIn}, {hook{progESPOut, atEgress, 2}, "tcx", progESPOut},
		{hook{progESPIn, atXDP, 3}, generic, progESPInStay}, {hook{progFlowIn, atXDP, 3}, native, progFlowIn}, {hook{progFlowIn, atXDP, 3}, generic, ""},
	} {
		if got := b.variant(c.hook, c.how); got != c.want {
			t.Errorf("%+v: %q, expected %q", c, got, c.want)
		}
	}
}

// TestRealPrograms: all that a hook may ask for are package bpf's.
func TestRealPrograms(t *testing.T) {
	have := map[string]bool{}
	for _, o := range objects() {
		spec, err := o.spec(bpf.Sizes{Slots: 1024, CPUs: 2})
		if err != nil {
			t.Fatal(err)
		}
		for name := range spec.Programs {
			have[name] = true
		}
	}
	for _, name := range append([]string{progESPIn, progESPInStay, progFlowIn, progCPUIn}, tcPrograms...) {
		if !have[name] {
			t.Errorf("no program %s", name)
		}
	}
}

func TestPinNames(t *testing.T) {
	for _, h := range []hook{{"esp_in", atXDP, 2}, {"mss_xfrm", atEgress, 17}, {"a-b", atIngress, 3}, {"drops", atTrace, 0}} {
		name := h.pinName()
		if got, ok := parsePinName(name); !ok || got != h || strings.Contains(name, ".") {
			t.Errorf("%+v: pinned as %s, read as %+v, %v", h, name, got, ok)
		}
	}
	for _, s := range []string{"", "x", "esp_in", "esp_in-xdp", "esp_in-xdp-", "esp_in-there-2", "esp_in-xdp-two"} {
		if h, ok := parsePinName(s); ok {
			t.Errorf("%q: read as %+v", s, h)
		}
	}
}

func TestKernelStatsParsed(t *testing.T) {
	got, err := parseStats(strings.NewReader("XfrmInNoStates          \t3\nXfrmInStateProtoError\t5\nXfrmNewOne 7\n"))
	want := []Stat{{"XfrmInNoStates", Reason(bpf.DropNoState), 3}, {"XfrmInStateProtoError", Reason(bpf.DropIntegrity), 5}, {"XfrmNewOne", Reason(bpf.DropOther), 7}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, expected %v", got, err, want)
	}
	for name := range withoutSA {
		if _, ok := statReasons[name]; !ok {
			t.Errorf("%s: no counter of the kernel", name)
		}
	}
	for _, s := range []string{"XfrmInError\n", "XfrmInError x\n", "a b c\n"} {
		if got, err := parseStats(strings.NewReader(s)); err == nil {
			t.Errorf("%q: got %v, expected an error", s, got)
		}
	}
}

func TestSampleParsed(t *testing.T) {
	d := bpf.DropSample{Time: 5, Key: bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x1000), Reason: uint32(bpf.DropReplay), Ifindex: 3, Length: 99, Family: 4}
	copy((*[4]byte)(unsafe.Pointer(&d.Seq))[:], []byte{0, 0, 1, 2})
	copy(d.Src[:], []byte{198, 51, 100, 7})
	b := (*[unsafe.Sizeof(d)]byte)(unsafe.Pointer(&d))[:]
	want := Sample{Since: 5, Key: Key{dataplane.In, netip.MustParseAddr("192.0.2.1"), 0x1000}, Seq: 258, Reason: Reason(bpf.DropReplay), IfIndex: 3, Length: 99, Src: netip.MustParseAddr("198.51.100.7")}
	if got, ok := sampleFrom(b); !ok || got != want {
		t.Errorf("got %+v, %v, expected %+v", got, ok, want)
	}
	d.Guard, d.Reason = 1, uint32(bpf.TotalGuardRate)
	want.Guard, want.Reason, want.Total = true, 0, Total(bpf.TotalGuardRate)
	if got, ok := sampleFrom(b); !ok || got != want {
		t.Errorf("the guard's: got %+v, %v, expected %+v", got, ok, want)
	}
	if _, ok := sampleFrom(b[:len(b)-1]); ok {
		t.Error("a short record was taken")
	}
}

// TestNamesOfLayout: every reason and total of the programs has a name here.
func TestNamesOfLayout(t *testing.T) {
	for r := range Reason(bpf.DropSelector) + 1 {
		if strings.HasPrefix(r.String(), "reason-") {
			t.Errorf("reason %d has no name", uint32(r))
		}
	}
	for _, c := range []struct {
		n    bpf.Total
		name string
	}{{bpf.TotalESPUnknown, "esp-unknown"}, {bpf.TotalGuardUnknownSPI, "guard-unknown-spi"}, {bpf.TotalGuardMalformed, "guard-malformed"}, {bpf.TotalESPBehind, "esp-behind"}} {
		if Total(c.n).String() != c.name {
			t.Errorf("total %d is %s, expected %s", c.n, Total(c.n), c.name)
		}
	}
	if Reason(bpf.DropOutBundle).String() != "out-bundle" || Reason(bpf.DropSequence).String() != "sequence" {
		t.Error("names of reasons have moved")
	}
	if uint32(GuardOn) != uint32(bpf.GuardOn) || uint32(SteerHash) != uint32(bpf.SteerHash) || uint32(SteerSlot) != uint32(bpf.SteerSlot) {
		t.Error("modes have other numbers than the programs'")
	}
}

// TestCarriedConfig: the settings go with a table of another size, its own numbers
// do not.
func TestCarriedConfig(t *testing.T) {
	now := bpf.Config{Layout: 1, Slots: 2, Buckets: 3, Cpus: 4, JiffiesHz: 5, Guard: 0}
	was := bpf.Config{Layout: 9, Slots: 9, Buckets: 9, Cpus: 9, JiffiesHz: 9, Guard: 2, InitRate: 7}
	want := now
	want.Guard, want.InitRate = 2, 7
	if got := carryConfig(now, was); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, expected %+v", got, want)
	}
}

// TestUnavailable: readers are told why nothing is loaded.
func TestUnavailable(t *testing.T) {
	state := filepath.Join(t.TempDir(), "run", "fastpath.json")
	if _, err := ReadDaemon(ReaderOptions{State: state}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before any daemon: %v, expected that there is no file", err)
	}
	Unavailable(Options{State: state}, errors.New("no BPF\nand more"))
	d, err := ReadDaemon(ReaderOptions{State: state})
	if want := []Part{{Reason: "no BPF"}}; err != nil || d.PID != os.Getpid() || !slices.Equal(d.Parts, want) {
		t.Errorf("got %+v, %v, expected %+v", d, err, want)
	}
	if err := os.WriteFile(state, []byte(`{"version":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDaemon(ReaderOptions{State: state}); err == nil || !strings.Contains(err.Error(), "version 9, expected 1") {
		t.Errorf("a file of another version: %v", err)
	}
}
