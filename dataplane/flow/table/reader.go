package table

import (
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// Reader reads what the programs know and count, from memory, without a system
// call. Any number of processes may read, while programs and the one Table write.
type Reader struct {
	a     *Arrays
	sizes bpf.Sizes
}

// OpenReader reads kernel maps; they may have been opened read-only. Errors: maps
// of another layout, sizes that do not fit together, and the kernel's.
func OpenReader(m Maps) (*Reader, error) { return openReader(m, bpf.LayoutVersion) }

// OpenFormer is OpenReader for maps that a run before an upgrade may have left, of
// the layout before this one, too. There is no Lookup in those.
func OpenFormer(m Maps) (*Reader, error) { return openReader(m, 1, bpf.LayoutVersion) }

func openReader(m Maps, layouts ...uint32) (*Reader, error) {
	a, err := mapArrays(m, false)
	if err != nil {
		return nil, err
	}
	r, err := newReader(a, layouts...)
	if err != nil {
		_ = a.unmap() // the first error says more
	}
	return r, err
}

func newReader(a *Arrays, layouts ...uint32) (*Reader, error) {
	if v := a.Config.Layout; !slices.Contains(layouts, v) {
		return nil, fmt.Errorf("maps of layout %d: expected %d", v, bpf.LayoutVersion)
	}
	s, err := a.sizes()
	if err != nil {
		return nil, err
	}
	c := a.Config
	if int(c.Slots) != s.Slots || int(c.Buckets) != s.Buckets() && c.Layout != 1 || int(c.Cpus) != s.CPUs {
		return nil, fmt.Errorf("config: %d slots, %d buckets, %d CPUs; expected %d, %d, %d as the maps have", c.Slots, c.Buckets, c.Cpus,
			s.Slots, s.Buckets(), s.CPUs)
	}
	return &Reader{a: a, sizes: s}, nil
}

// Close gives the memory back; the maps stay. What Config returned is invalid then.
func (r *Reader) Close() error { return r.a.unmap() }

// Sizes are those of the maps.
func (r *Reader) Sizes() bpf.Sizes { return r.sizes }

// Config is a copy of the programs' configuration, field by field as it was at some moment.
func (r *Reader) Config() bpf.Config { return *r.a.Config }

// Lookup finds the slot of a key, as the programs do.
func (r *Reader) Lookup(k bpf.Key) (slot uint32, ok bool) {
	if slot, _, ok = r.find(placeOf(r.a.Config, &k)); !ok {
		return 0, false
	}
	// The slot may have gone to another SA since: the same key word and another key.
	sa, ok := r.Slot(slot)
	if !ok || sa.Key != k {
		return 0, false
	}
	return slot, true
}

// find is the slot and the place (sa_slot.place) of an entry with this key word.
func (r *Reader) find(p place) (slot, at uint32, ok bool) {
	if r.a.Index == nil {
		return 0, 0, false
	}
	for n := range uint32(maxProbes) {
		b := p.bucket(r.a.Config, n)
		for w := range indexWays {
			e := r.a.entry(0, b*indexWays+w)
			if atomic.LoadUint64(&e.Key) != p.word {
				continue
			}
			s := slotOf(atomic.LoadUint32(&e.Where))
			return s, b*indexWays + w, int(s) < r.sizes.Slots
		}
		if atomic.LoadUint32(&r.a.entry(0, b*indexWays).Where)&passed == 0 {
			break
		}
	}
	return 0, 0, false
}

// Slot is what a slot holds; ok is false when it is free.
func (r *Reader) Slot(slot uint32) (sa bpf.Slot, ok bool) {
	if int(slot) >= len(r.a.SAs) {
		return sa, false
	}
	p := &r.a.SAs[slot]
	g := atomic.LoadUint32(&p.Generation)
	sa = *p
	// The same generation before and after: the copy is of one SA.
	return sa, g%2 == 1 && atomic.LoadUint32(&p.Generation) == g
}

// All yields each SA with its slot, in order of slots; those that were removed are not among them.
func (r *Reader) All() iter.Seq2[uint32, bpf.Slot] {
	return func(yield func(uint32, bpf.Slot) bool) {
		for s := range r.a.SAs {
			if atomic.LoadUint32(&r.a.SAs[s].Generation)%2 == 0 {
				continue
			}
			if sa, ok := r.Slot(uint32(s)); ok && sa.Flags&bpf.FlagGone == 0 && !yield(uint32(s), sa) {
				return
			}
		}
	}
}

// Counters are an SA's, of all CPUs: sums, and the latest use. Those of a slot that
// was freed may be another SA's: who reads while a Table writes compares the
// generation (Slot) afterwards.
func (r *Reader) Counters(slot uint32) bpf.Counters {
	var sum bpf.Counters
	for cpu := range r.sizes.CPUs {
		c := r.CountersOn(cpu, slot)
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
		sum.LastUsed = later(sum.LastUsed, c.LastUsed)
	}
	return sum
}

// CountersOn are an SA's on one CPU; zero for a CPU or slot that does not exist.
func (r *Reader) CountersOn(cpu int, slot uint32) bpf.Counters {
	if cpu < 0 || cpu >= r.sizes.CPUs || int(slot) >= r.sizes.Slots {
		return bpf.Counters{}
	}
	return r.a.counters(cpu, slot)
}

// Drops are the packets that an SA lost, by reason.
func (r *Reader) Drops(slot uint32) (n [bpf.DropReasons]uint64) {
	if int(slot) >= r.sizes.Slots {
		return n
	}
	for i := range n {
		n[i] = atomic.LoadUint64(&r.a.DropCounts[int(slot)*len(n)+i])
	}
	return n
}

// Total is one of the totals, of all CPUs.
func (r *Reader) Total(t bpf.Total) uint64 {
	var sum uint64
	for cpu := range r.sizes.CPUs {
		sum += r.TotalOn(cpu, t)
	}
	return sum
}

// TotalOn is that of one CPU.
func (r *Reader) TotalOn(cpu int, t bpf.Total) uint64 {
	if cpu < 0 || cpu >= r.sizes.CPUs || t >= bpf.Totals {
		return 0
	}
	return atomic.LoadUint64(&r.a.Totals[cpu*int(bpf.Totals)+int(t)])
}

// Idle is how long ago a use was, from its LastUsed; ok is false when there was
// none. It is good to a tenth of a second.
func (r *Reader) Idle(lastUsed uint64) (d time.Duration, ok bool) {
	hz := uint64(r.a.Config.JiffiesHz)
	if lastUsed == 0 || hz == 0 {
		return 0, false
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, false
	}
	// Jiffies begin at boot, five minutes before the end of 32 bits.
	jiffies := uint64(uint32(-300*int64(hz))) + uint64(now.Nano())*hz/uint64(time.Second)
	// Those of a use are known but for what has been carried out of an entry; one that
	// seems to be about to come was just now.
	const soon = 1 << 12
	steps := uint32(jiffies>>bpf.LastUsedShift) + soon - uint32(lastUsed>>bpf.LastUsedShift)
	if steps <= soon {
		return 0, true
	}
	return time.Duration(uint64(steps-soon) << bpf.LastUsedShift * uint64(time.Second) / hz), true
}

// InStep reports whether the programs' guard takes an SPI that is not in the index
// for nobody's (knows_all in guard.h): whoever keeps the index says so, and lives.
func (r *Reader) InStep() bool {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return false
	}
	c := r.a.Config
	return c.TailKnown != 0 && now.Sec < int64(atomic.LoadUint32(&c.AliveUntil))
}

// tickRate is the kernel's jiffies per second: its coarse clocks move by one.
func tickRate() (uint32, error) {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil {
		return 0, fmt.Errorf("the resolution of the coarse clock: %w", err)
	}
	if res.Nano() <= 0 {
		return 0, fmt.Errorf("the resolution of the coarse clock: %d ns", res.Nano())
	}
	return uint32((int64(time.Second) + res.Nano()/2) / res.Nano()), nil
}
