package flow

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane"
)

// espFrame is an Ethernet frame with an ESP packet in it: only its headers are true.
func espFrame(dst netip.Addr, spi uint32, size int) []byte {
	b := make([]byte, 14+20+size)
	copy(b, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 0})
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 50
	binary.BigEndian.PutUint16(ip[2:], uint16(20+size))
	copy(ip[12:], []byte{198, 51, 100, 7})
	to := dst.As4()
	copy(ip[16:], to[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint32(ip[20:], spi)
	binary.BigEndian.PutUint32(ip[24:], 1)
	return b
}

// sendFrames puts frames on a link, from its far end.
func sendFrames(at func(func() error) error, link string, frames ...[]byte) error {
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
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestRealProgramsRun: package bpf's programs load here, attach where they belong,
// and count what the keeper has told them.
func TestRealProgramsRun(t *testing.T) {
	pins := needKernel(t)
	_, at := veth(t, "wan0")
	veth(t, "lan0")
	o := options(t, pins, "wan0")
	o.objects, o.Inside, o.Guard = nil, []string{"lan0"}, GuardOn
	for _, steering := range []Steering{SteerOff, SteerHash, SteerSlot, SteerAuto} {
		o.Steering = steering
		f := open(t, o)
		lan := []string{"mss_in/ingress tcx", "mss_out/egress tcx"}
		if steering != SteerOff {
			lan = append([]string{"flow_in/ native"}, lan...)
		}
		if got, want := parts(f, "wan0"), []string{"esp_in/ native", "esp_out/egress tcx", "mss_out/ingress tcx"}; !slices.Equal(got, want) {
			t.Errorf("%s: outside %q, expected %q", steering, got, want)
		}
		if got := parts(f, "lan0"); !slices.Equal(got, lan) {
			t.Errorf("%s: inside %q, expected %q", steering, got, lan)
		}
		if got := len(f.SteerCPUs()) > 0; got != (steering == SteerSlot || steering == SteerAuto) {
			t.Errorf("%s: SAs can be moved: %v", steering, got)
		}
		for _, p := range f.Parts() {
			// Some machines let nobody look into the kernel's functions.
			if p.How == "" && !strings.HasSuffix(p.Program, "_begins") && !strings.HasSuffix(p.Program, "_ends") && !strings.HasPrefix(p.Program, "audit_") {
				t.Errorf("%s: %+v", steering, p)
			}
		}
		here := netip.MustParseAddr("192.0.2.1")
		must(t, f.put(f.maps.byID["own_addrs"], "own_addrs", bpf.MakeAddrKey(here), uint32(1)))
		dp := dataplane.NewFake(dataplane.FakeOptions{})
		w, err := f.Wrap(dp)
		must(t, err)
		eventually(t, "in step", func() bool { return f.tab.Config().TailKnown == 1 })
		must(t, w.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa(dataplane.In, here, 0x1000)}}))
		for range 100 {
			must(t, sendFrames(at, "wan0p", espFrame(here, 0x1000, 80), espFrame(here, 0x1001, 80)))
		}
		slot, _ := f.tab.Lookup(bpf.MakeKey(bpf.DirIn, here, 0x1000))
		eventually(t, "packets of the SA are counted", func() bool {
			c := f.tab.Counters(slot)
			return c.Packets == 100 && c.Bytes == 100*100
		})
		eventually(t, "strangers are counted", func() bool { return f.tab.Total(bpf.TotalGuardUnknownSPI) == 100 })
		r, err := OpenReader(ReaderOptions{Pins: pins, State: o.State})
		must(t, err)
		g, err := r.Guard()
		must(t, err)
		if want := []Stranger{{Src: netip.MustParseAddr("198.51.100.7"), Packets: 100, SPI: 0x1001}}; !slices.Equal(g.Strangers, want) {
			t.Errorf("%s: strangers %+v, expected %+v", steering, g.Strangers, want)
		}
		spis, err := r.SPIs()
		must(t, err)
		if len(spis) != 1 || (spis[0].CPU >= 0) != (steering == SteerSlot) || spis[0].Counters.LastUsed.IsZero() {
			t.Errorf("%s: SPIs %+v", steering, spis)
		}
		state, err := r.State()
		must(t, err)
		groups := 0
		for traffic := range f.Traffic() {
			if traffic.Clear {
				groups++
			}
		}
		if want := map[bool]int{true: bpf.FlowGroups}[steering == SteerAuto]; groups != want || state.Used != 1 || state.Capacity != o.MaxSPIs || state.Steering != steering ||
			state.FlowSteer != (steering != SteerOff) {
			t.Errorf("%s: %d groups of clear connections, expected %d; state %+v", steering, groups, want, state)
		}
		s, err := r.Samples()
		must(t, err)
		x, err := s.Next()
		if err != nil || !x.Guard || x.Key.SPI != 0x1001 || x.Src != netip.MustParseAddr("198.51.100.7") || x.Seq != 1 {
			t.Errorf("%s: sample %+v, %v", steering, x, err)
		}
		must(t, s.Close())
		must(t, r.Close())
		must(t, w.Apply([]dataplane.Op{dataplane.DeleteSA{Key: sa(dataplane.In, here, 0x1000).SAKey}}))
		must(t, w.Close())
		must(t, f.Close())
		if left, _ := os.ReadDir(pins); len(left) > 0 {
			t.Errorf("%s: pinned after the end: %v", steering, left)
		}
	}
}

// TestFlowGroups: groups of clear connections are in the table while the steering is auto, and are no SAs. Where they have no room, connections stay.
func TestFlowGroups(t *testing.T) {
	pins := needKernel(t)
	veth(t, "wan0")
	o := options(t, pins, "wan0")
	o.objects = nil
	f := open(t, o)
	defer f.Close()
	mode := func(s Steering) bpf.FlowMode {
		set := o.Settings
		set.Steering = s
		f.Set(set)
		return bpf.FlowMode(f.tab.Config().FlowSteer)
	}
	if got := mode(SteerAuto); got != bpf.FlowGroup || f.tab.Used() != bpf.FlowGroups || f.spis.sas() != 0 {
		t.Errorf("mode %d, %d entries, %d SAs", got, f.tab.Used(), f.spis.sas())
	}
	spiOf := func(n int) Key { return Key{dataplane.In, netip.MustParseAddr("192.0.2.1"), 0x1000 + uint32(n)} }
	for n := range o.MaxSPIs {
		if err := f.spis.Insert(spiOf(n), Attrs{}); err != nil {
			t.Fatalf("SA %d of %d: %v", n, o.MaxSPIs, err)
		}
	}
	if got := f.tab.Config().FlowSteer; got != uint32(bpf.FlowStay) {
		t.Errorf("with as many SAs as there is room for: mode %d", got)
	}
	for n := range o.MaxSPIs {
		f.spis.Remove(spiOf(n))
	}
	time.Sleep(2 * lastCount)
	if got := mode(SteerHash); got != bpf.FlowList || f.tab.Used() != 0 {
		t.Errorf("hash: mode %d, %d entries", got, f.tab.Used())
	}
	here := netip.MustParseAddr("192.0.2.1")
	for spi := range uint32(o.MaxSPIs - bpf.FlowGroups/2) {
		must(t, f.spis.Insert(Key{dataplane.In, here, 0x1000 + spi}, Attrs{}))
	}
	if got := mode(SteerAuto); got != bpf.FlowStay || f.tab.Used() != f.spis.sas() {
		t.Errorf("without room: mode %d, %d entries, %d SAs", got, f.tab.Used(), f.spis.sas())
	}
	for spi := range uint32(o.MaxSPIs - bpf.FlowGroups/2) {
		f.spis.Remove(Key{dataplane.In, here, 0x1000 + spi})
	}
	time.Sleep(2 * lastCount)
	if got := mode(SteerAuto); got != bpf.FlowGroup {
		t.Errorf("with room again: mode %d", got)
	}
}

// TestWithoutTypes: the programs load as a kernel without BTF would get them.
func TestWithoutTypes(t *testing.T) {
	needKernel(t)
	sizes := bpf.Sizes{Slots: 1024, CPUs: 1}
	for _, o := range objects() {
		if o.name == "drops" {
			continue // places in the kernel's functions are found by its types
		}
		spec, err := o.spec(sizes)
		must(t, err)
		bpf.WithoutTypes(spec)
		for name, p := range spec.Programs {
			for i := range p.Instructions {
				if ins := &p.Instructions[i]; ins.IsKfuncCall() || btf.CORERelocationMetadata(ins) != nil {
					t.Errorf("%s: instruction %d needs the kernel's types: %v", name, i, ins)
				}
			}
		}
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: new(btf.Spec)}})
		must(t, err)
		c.Close()
	}
}

// TestSet: what a reload changes holds at once, and programs come and go with it.
func TestSet(t *testing.T) {
	pins := needKernel(t)
	veth(t, "wan0")
	veth(t, "lan0")
	o := options(t, pins, "wan0")
	o.objects, o.Inside = nil, []string{"lan0"}
	f := open(t, o)
	defer f.Close()
	here := netip.MustParseAddr("192.0.2.1")
	must(t, f.spis.Insert(Key{dataplane.In, here, 0x1000}, Attrs{}))
	defer f.spis.Remove(Key{dataplane.In, here, 0x1000})
	cpu := func() uint32 {
		slot, _ := f.tab.Lookup(bpf.MakeKey(bpf.DirIn, here, 0x1000))
		sa, _ := f.tab.Slot(slot)
		return sa.Cpu
	}
	set := o.Settings
	set.Guard, set.Steering, set.MSS, set.InitRate, set.MaxSPIs = GuardOn, SteerSlot, false, 7, 9999
	f.Set(set)
	c := f.tab.Config()
	if c.Guard != uint32(bpf.GuardOn) || c.Steer != uint32(bpf.SteerSlot) || c.FlowSteer != 1 || c.SteerCpus == 0 || c.Mss != 0 || c.InitRate != 7 || cpu() == bpf.NoCPU {
		t.Errorf("after the change: %+v, CPU %d", c, cpu())
	}
	if got, want := parts(f, "lan0"), []string{"flow_in/ native"}; !slices.Equal(got, want) {
		t.Errorf("inside: %q, expected %q", got, want)
	}
	f.Set(o.Settings)
	c = f.tab.Config()
	if c.Guard != uint32(bpf.GuardLog) || c.Steer != uint32(bpf.SteerOff) || c.FlowSteer != 0 || c.Mss != 1 || cpu() != bpf.NoCPU {
		t.Errorf("after the change back: %+v, CPU %d", c, cpu())
	}
	if got, want := parts(f, "lan0"), []string{"mss_in/ingress tcx", "mss_out/egress tcx"}; !slices.Equal(got, want) {
		t.Errorf("inside: %q, expected %q", got, want)
	}
}
