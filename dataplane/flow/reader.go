package flow

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// ReaderOptions say where to read; the zero value is the daemon's default.
type ReaderOptions struct {
	Pins  string // empty: those of this network namespace
	State string // empty: DefaultState
}

func (o *ReaderOptions) complete() (err error) {
	if o.State == "" {
		o.State = DefaultState
	}
	if o.Pins == "" {
		o.Pins, err = pinsHere()
	}
	return err
}

// Reader reads the pinned maps of the fast path, with or without a daemon: most
// of it from memory, without a system call for each SPI. It needs the rights of
// root. Its methods are not safe for concurrent use.
type Reader struct {
	o    ReaderOptions
	maps *maps
	tab  *table.Reader
}

// OpenReader opens the pinned maps. Errors: ErrNotLoaded, no rights, a layout
// of another version.
func OpenReader(o ReaderOptions) (_ *Reader, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	r := &Reader{o: o, maps: &maps{o.Pins, map[string]*ebpf.Map{}}}
	defer func() {
		if err != nil {
			r.maps.close()
		}
	}()
	for _, name := range append([]string{"ike_spis", "peers", "cpus", "strangers"}, tableMaps...) {
		// The kernel maps an array into memory only by a descriptor that may write.
		m, err := ebpf.LoadPinnedMap(filepath.Join(o.Pins, name), &ebpf.LoadPinOptions{ReadOnly: !isTable(name)})
		switch {
		case err == nil:
			r.maps.byID[name] = m
		case errors.Is(err, os.ErrNotExist) && isTable(name):
			return nil, ErrNotLoaded
		case !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("pinned map %s: %w", name, err)
		}
	}
	if r.tab, err = table.OpenReader(r.maps.table()); err != nil {
		return nil, err
	}
	return r, nil
}

// Close releases the maps.
func (r *Reader) Close() error {
	r.maps.close()
	return r.tab.Close()
}

// SPIs lists what the table has, sorted by direction, destination and SPI. Rates
// come from two calls: pair them by Key and Generation and take Counters.Rate.
func (r *Reader) SPIs() ([]SPI, error) { return listSPIs(r.tab, r.traced()) }

// listSPIs is SPIs; traced is whether programs see why packets are lost, otherwise
// the kernel's own counters have to do.
func listSPIs(tab *table.Reader, traced bool) ([]SPI, error) {
	now := time.Now()
	var out []SPI
	for slot, sa := range tab.All() {
		if sa.Key.Dir == bpf.DirFlow {
			continue // no SA
		}
		s := SPI{Key: keyFrom(&sa.Key), Slot: slot, Generation: sa.Generation, CPU: -1, ReqID: sa.Reqid, IfID: sa.IfId}
		s.Own, s.Reserved = sa.Flags&bpf.FlagOwn != 0, sa.Flags&bpf.FlagReserved != 0
		if sa.Cpu != bpf.NoCPU {
			s.CPU = int(sa.Cpu)
		}
		c := tab.Counters(slot)
		s.Counters = Counters{Packets: c.Packets, Bytes: c.Bytes}
		if idle, used := tab.Idle(c.LastUsed); used {
			s.Counters.LastUsed = now.Add(-idle)
		}
		for reason, n := range tab.Drops(slot) {
			if n > 0 {
				s.Drops = append(s.Drops, Drop{Reason(reason), n})
			}
		}
		if again, ok := tab.Slot(slot); !ok || again.Generation != sa.Generation {
			continue // it went meanwhile, and where it was counted another SA may be
		}
		out = append(out, s)
	}
	if !traced {
		if err := addKernelDrops(out); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b SPI) int {
		return cmp.Or(cmp.Compare(a.Dir, b.Dir), a.Dst.Compare(b.Dst), cmp.Compare(a.SPI, b.SPI))
	})
	return out, nil
}

// traced reports whether programs see why packets are lost.
func (r *Reader) traced() bool {
	d, err := ReadDaemon(r.o)
	return err == nil && slices.ContainsFunc(d.Parts, func(p Part) bool { return p.How == "fentry" })
}

// Totals are all counters beside the SAs, summed over the CPUs, zeros included.
func (r *Reader) Totals() ([]TotalCount, error) { return r.totals(0, Total(len(totals))), nil }

// TakenOn is how many packets a CPU's thread has taken of those that were given to it.
func (r *Reader) TakenOn(cpu int) uint64 { return r.tab.TotalOn(cpu, bpf.TotalCPUTaken) }

func (r *Reader) totals(from, to Total) (out []TotalCount) {
	for t := from; t < to; t++ {
		out = append(out, TotalCount{t, r.tab.Total(bpf.Total(t))})
	}
	return out
}

// Guard is the state of the guard and what it counted.
func (r *Reader) Guard() (Guard, error) {
	c := r.tab.Config()
	g := Guard{
		Mode: GuardMode(c.Guard), InStep: r.tab.InStep(), PeersOnly: c.GuardPeers != 0,
		InitRate: c.InitRate, InitBurst: c.InitBurst, Prefix4: int(c.Prefix4), Prefix6: int(c.Prefix6),
		Totals:    r.totals(Total(bpf.TotalGuardUnknownSPI), Total(bpf.TotalGuardMalformed)+1),
		Strangers: r.strangers(),
	}
	if m := r.maps.byID["ike_spis"]; m != nil {
		var k uint64
		var v uint32
		it := m.Iterate()
		for it.Next(&k, &v) {
			g.IKESPIs++
		}
	}
	if m := r.maps.byID["peers"]; m != nil && g.PeersOnly {
		var k bpf.LPMKey
		var v uint32
		it := m.Iterate()
		for it.Next(&k, &v) {
			g.Peers = append(g.Peers, prefixFrom(&k))
		}
		if err := it.Err(); err != nil {
			return g, fmt.Errorf("list of peers: %w", err)
		}
		slices.SortFunc(g.Peers, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	}
	return g, nil
}

// strangers lists the guard's sources.
func (r *Reader) strangers() (out []Stranger) {
	m := r.maps.byID["strangers"]
	if m == nil {
		return nil
	}
	var k bpf.AddrKey
	var v bpf.Stranger
	for it := m.Iterate(); it.Next(&k, &v); {
		spi := (*[4]byte)(unsafe.Pointer(&v.Spi))
		s := Stranger{Packets: v.Packets, SPI: binary.BigEndian.Uint32(spi[:]), Src: netip.AddrFrom16(k.Addr)}
		if k.Family == 4 {
			s.Src = netip.AddrFrom4([4]byte(k.Addr[:4]))
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Stranger) int { return cmp.Or(cmp.Compare(b.Packets, a.Packets), a.Src.Compare(b.Src)) })
	return out
}

func prefixFrom(k *bpf.LPMKey) netip.Prefix {
	addr := netip.AddrFrom16(k.Addr)
	if k.Family == 4 {
		addr = netip.AddrFrom4([4]byte(k.Addr[:4]))
	}
	return netip.PrefixFrom(addr, int(k.Prefixlen)-32)
}

// SetGuard changes the guard's mode at once. It holds until the daemon starts
// again or reads its configuration.
func (r *Reader) SetGuard(mode GuardMode) error {
	if mode > GuardOn {
		return fmt.Errorf("guard mode %d: expected off, log or on", mode)
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.o.Pins, "config"), nil)
	if err != nil {
		return fmt.Errorf("pinned map config: %w", err)
	}
	defer m.Close()
	return editConfig(m, func(c *bpf.Config) { c.Guard = uint32(mode) })
}

// State is what holds for the whole.
func (r *Reader) State() (State, error) {
	c := r.tab.Config()
	s := State{
		Layout: int(c.Layout), Capacity: int(c.Slots), CPUs: int(c.Cpus), Steering: Steering(c.Steer),
		FlowSteer: c.FlowSteer != uint32(bpf.FlowStay), MSS: c.Mss != 0, MemoryBytes: r.maps.memory(),
	}
	if s.Steering == SteerSlot && c.FlowSteer != uint32(bpf.FlowList) {
		s.Steering = SteerAuto
	}
	for _, sa := range r.tab.All() {
		if sa.Key.Dir != bpf.DirFlow {
			s.Used++
		}
	}
	if s.Steering != SteerOff {
		for _, cpu := range c.SteerList[:min(int(c.SteerCpus), len(c.SteerList))] {
			s.SteerCPUs = append(s.SteerCPUs, int(cpu))
		}
	}
	d, err := ReadDaemon(r.o)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	s.Daemon = d
	return s, nil
}

// ReadDaemon reads the daemon's state file, also where no map is pinned: then its
// parts say why. Errors: os.ErrNotExist when no daemon has left one.
func ReadDaemon(o ReaderOptions) (Daemon, error) {
	if o.State == "" {
		o.State = DefaultState
	}
	s, err := readState(o.State)
	if err != nil {
		return Daemon{}, err
	}
	d := Daemon{PID: s.PID, Loading: s.Loading, Parts: s.Parts}
	if d.PID != 0 && errors.Is(unix.Kill(d.PID, 0), unix.ESRCH) {
		d.PID, d.Loading = 0, false
	}
	return d, nil
}

// Samples opens the stream of lost packets. One reader at a time gets each.
func (r *Reader) Samples() (*Samples, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.o.Pins, "samples"), nil)
	if err != nil {
		return nil, fmt.Errorf("pinned map samples: %w", err)
	}
	rb, err := ringbuf.NewReader(m)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("samples of lost packets: %w", err)
	}
	return &Samples{m, rb}, nil
}

// Samples is a stream of lost packets.
type Samples struct {
	m  *ebpf.Map
	rb *ringbuf.Reader
}

// Next waits for the next one. Errors: os.ErrClosed after Close.
func (s *Samples) Next() (Sample, error) {
	for {
		rec, err := s.rb.Read()
		if err != nil {
			return Sample{}, err
		}
		if x, ok := sampleFrom(rec.RawSample); ok {
			return x, nil
		}
	}
}

// sampleFrom reads a record of the ring.
func sampleFrom(b []byte) (out Sample, ok bool) {
	var d bpf.DropSample
	if len(b) < int(unsafe.Sizeof(d)) {
		return out, false
	}
	copy((*[unsafe.Sizeof(d)]byte)(unsafe.Pointer(&d))[:], b)
	seq := (*[4]byte)(unsafe.Pointer(&d.Seq)) // network order
	out = Sample{
		Since: time.Duration(d.Time), Key: keyFrom(&d.Key), IfIndex: int(d.Ifindex), Length: int(d.Length), Guard: d.Guard != 0,
		Seq: binary.BigEndian.Uint32(seq[:]),
	}
	if d.Family == 4 || d.Family == 6 {
		out.Src = bpf.SampleSrc(&d)
	}
	if out.Guard {
		out.Total = Total(d.Reason)
	} else {
		out.Reason = Reason(d.Reason)
	}
	return out, true
}

// Close ends a waiting Next, from any goroutine.
func (s *Samples) Close() error { return errors.Join(s.rb.Close(), s.m.Close()) }
