package programs

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// pinned keeps the benchmark on the first CPU until it ends.
func pinned(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	var all, zero unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	zero.Set(0)
	if err := unix.SchedSetaffinity(0, &zero); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = unix.SchedSetaffinity(0, &all) // best effort: the process is about to end
		runtime.UnlockOSThread()
	})
}

// perRun is what one of repeat runs of a program takes, in nanoseconds.
func perRun(b *testing.B, p *ebpf.Program, packet []byte, repeat int, action uint32) float64 {
	b.Helper()
	got, took, err := p.Benchmark(packet, repeat, nil)
	if err != nil {
		b.Fatal(err)
	}
	if got != action {
		b.Fatalf("%s: action %d; expected %d", p, int32(got), int32(action))
	}
	return float64(took) / float64(time.Nanosecond) // of one run
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// benchBox loads everything, with the programs that others are measured against, and one SA (or many) of us4 that goes to CPU 1.
func benchBox(b *testing.B, s bpf.Sizes) (map[string]*ebpf.Program, map[string]*ebpf.Map, *table.Table) {
	b.Helper()
	programs, shared := map[string]*ebpf.Program{}, map[string]*ebpf.Map(nil)
	for _, load := range []func(bpf.Sizes) (*ebpf.CollectionSpec, error){bpf.Check, bpf.XDP, bpf.TC} {
		spec, err := load(s)
		if err != nil {
			b.Fatal(err)
		}
		if m := spec.Maps["draws"]; m != nil {
			m.MaxEntries = draws
			if err := spec.Variables["draws_mask"].Set(uint32(draws - 1)); err != nil {
				b.Fatal(err)
			}
		}
		replace := map[string]*ebpf.Map{}
		for name := range spec.Maps {
			if m := shared[name]; m != nil && name[0] != '.' {
				replace[name] = m
			}
		}
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
		needBPF(b, err)
		b.Cleanup(c.Close)
		for name, p := range c.Programs {
			programs[name] = p
		}
		if shared == nil {
			shared = c.Maps
		}
	}
	m := shared
	tab, err := table.Open(table.Maps{Index: m["index"], SAs: m["sas"], DropCounts: m["drop_counts"], Totals: m["totals"],
		Config: m["config"]})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tab.Close() })
	c := tab.Programs()
	c.Ports[0], c.Ports[1] = bpf.Port{Port: 500, Kind: bpf.PortIKE}, bpf.Port{Port: 4500, Kind: bpf.PortNATT}
	c.Steer, c.Mss, c.TailKnown, c.AliveUntil, c.Guard = uint32(bpf.SteerSlot), 1, 1, later, uint32(bpf.GuardOn)
	if err := m["cpus"].Put(uint32(1), bpf.CPUMapValue{Queue: 64}); err != nil {
		b.Fatal(err)
	}
	return programs, m, tab
}

func espPacket(spi uint32) []byte {
	return packet{eth(ethIP4), ip4(peer4, us4, 50, esp(spi, 1), data(1400)), esp(spi, 1), data(1400)}.bytes()
}

// BenchmarkSteer: what counting and steering a known SA's packet costs above a program that does nothing, and above one that only redirects.
// The redirect is decided, the packet is not enqueued: a test run never does.
func BenchmarkSteer(b *testing.B) {
	pinned(b)
	programs, _, tab := benchBox(b, bpf.Sizes{Slots: 1 << 16, CPUs: ebpf.MustPossibleCPU()})
	if _, err := tab.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr(us4), 0x1000), table.Attr{CPU: 1}); err != nil {
		b.Fatal(err)
	}
	in := espPacket(0x1000)
	const repeat = 100_000
	var overPass, overRedirect, pass []float64
	for b.Loop() {
		p := perRun(b, programs["pass"], in, repeat, xdpPass)
		r := perRun(b, programs["redirect"], in, repeat, xdpRedirect)
		s := perRun(b, programs["esp_in"], in, repeat, xdpRedirect)
		pass, overPass, overRedirect = append(pass, p), append(overPass, s-p), append(overRedirect, s-r)
	}
	b.ReportMetric(median(overPass), "ns-over-pass")
	b.ReportMetric(median(overRedirect), "ns-over-redirect")
	b.ReportMetric(median(pass), "ns-pass")
}

// BenchmarkMSS: what mss_in costs a TCP segment that is no SYN, and a SYN.
func BenchmarkMSS(b *testing.B) {
	pinned(b)
	programs, m, _ := benchBox(b, bpf.Sizes{Slots: 64, CPUs: ebpf.MustPossibleCPU()})
	if err := m["mss_prefixes"].Put(bpf.MakeLPMKey(netip.MustParsePrefix("10.2.0.0/24")), bpf.MSS{Mss4: limit4, Mss6: limit6}); err != nil {
		b.Fatal(err)
	}
	usual := options(mss(1300), sackOK, timestamp, nop, wscale)
	segment, begin := segment4(ethernet4(), nil, ack, options(nop, nop, timestamp), 1400).b, segment4(ethernet4(), nil, syn, usual, 0).b
	const repeat = 100_000
	var overPass, synOverPass []float64
	for b.Loop() {
		p := perRun(b, programs["tc_pass"], segment, repeat, tcNext)
		overPass = append(overPass, perRun(b, programs["mss_in"], segment, repeat, tcNext)-p)
		synOverPass = append(synOverPass, perRun(b, programs["mss_in"], begin, repeat, tcNext)-p)
	}
	b.ReportMetric(median(overPass), "ns-over-pass")
	b.ReportMetric(median(synOverPass), "syn-ns-over-pass")
}

// draws is how many SPIs a measurement draws before it begins anew: a power of two.
const draws = 1 << 22

// zipf draws from 0..n-1 with a probability of 1/(rank+1).
type zipf []float64

func newZipf(n int) zipf {
	z, total := make(zipf, n), 0.0
	for i := range z {
		total += 1 / float64(i+1)
		z[i] = total
	}
	return z
}

func (z zipf) draw(r *rand.Rand) int { return sort.SearchFloat64s(z, r.Float64()*z[len(z)-1]) }

// BenchmarkManySAs: a packet of another SA each time, of a million and of a hundred.
func BenchmarkManySAs(b *testing.B) {
	pinned(b)
	const many, few = 1_000_000, 100
	programs, m, tab := benchBox(b, bpf.Sizes{Slots: 1 << 20, CPUs: ebpf.MustPossibleCPU()})
	r := rand.New(rand.NewPCG(9, 10))
	spis := make([]uint32, many) // by rank: neighbours in rank are none in memory
	for i, n := range r.Perm(many) {
		spis[n] = uint32(0x10000 + i)
	}
	for i := range many {
		if _, err := tab.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr(us4), uint32(0x10000+i)), table.Attr{CPU: 1}); err != nil {
			b.Fatal(err)
		}
	}
	memory, err := m["draws"].Memory()
	if err != nil {
		b.Fatal(err)
	}
	fill := func(draw func() int) {
		all := make([]byte, 8*draws)
		for i := range draws {
			binary.BigEndian.PutUint32(all[8*i:], spis[draw()])
		}
		if _, err := memory.WriteAt(all, 0); err != nil {
			b.Fatal(err)
		}
	}
	in := espPacket(0x1000)
	measure := func(program string, action uint32) float64 {
		var v []float64
		for range 3 {
			v = append(v, perRun(b, programs[program], in, draws, action))
		}
		return median(v)
	}
	type cost struct{ packet, line float64 }
	with := func(draw func() int) cost {
		fill(draw)
		return cost{packet: measure("draw", xdpRedirect), line: measure("touch", xdpDrop)}
	}
	zipfMany, zipfFew := newZipf(many), newZipf(few)
	var uniform, skewed, base, rise, line []float64
	for b.Loop() {
		f := with(func() int { return r.IntN(few) })
		u := with(func() int { return r.IntN(many) })
		zf, zm := with(func() int { return zipfFew.draw(r) }), with(func() int { return zipfMany.draw(r) })
		base = append(base, f.packet)
		uniform = append(uniform, u.packet/f.packet)
		skewed = append(skewed, zm.packet/zf.packet)
		rise, line = append(rise, zm.packet-zf.packet), append(line, zm.line-zf.line)
	}
	b.ReportMetric(median(uniform), "uniform-1m-over-100")
	b.ReportMetric(median(skewed), "zipf-1m-over-100")
	b.ReportMetric(median(base), "ns-100")
	b.ReportMetric(median(rise), "zipf-rise-ns")
	b.ReportMetric(median(line), "zipf-rise-line-ns")
}
