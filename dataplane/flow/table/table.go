// Package table is the index of SAs that the BPF programs read: hash, slots and
// publication as bpf/headers/layout.h has them. It writes the maps through
// memory; reading counters takes no system call.
package table

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// Errors of Insert.
var (
	// ErrFull: no slot is free, or no room could be made in the buckets of the key.
	ErrFull = errors.New("the table of SPIs is full")
	// ErrExists: the key is there already.
	ErrExists = errors.New("the SPI is in the table already")
	// ErrCollision: another key has the same hash (one pair in 2^64 has).
	ErrCollision = errors.New("another SA has the same hash")
)

// Attr is what a slot says of its SA besides the key.
type Attr struct {
	CPU   uint32 // where inbound packets are steered to: bpf.NoCPU or an index of the map cpus
	Flags uint32 // bpf.FlagOwn, bpf.FlagReserved
	Reqid uint32
	IfID  uint32
}

// Table writes the index. Only one process may have one on the same maps at a
// time; its methods may be called by many goroutines.
type Table struct {
	*Reader

	mu   sync.Mutex
	free queue
	used int
}

// Open takes kernel maps over, or fills their configuration when they are new
// (layout 0). Slots that were removed but not freed are free. Errors: maps of
// another layout, sizes that do not fit together, and the kernel's.
func Open(m Maps) (*Table, error) {
	a, err := mapArrays(m, true)
	if err != nil {
		return nil, err
	}
	t, err := New(a)
	if err != nil {
		_ = a.unmap() // the first error says more
	}
	return t, err
}

// New is Open for arrays that are in memory already.
func New(a *Arrays) (*Table, error) {
	if a.Config.Layout == 0 {
		if err := initConfig(a); err != nil {
			return nil, err
		}
	}
	r, err := newReader(a)
	if err != nil {
		return nil, err
	}
	t := &Table{Reader: r, free: newQueue(r.sizes.Slots)}
	t.recover()
	return t, nil
}

// initConfig gives new maps their configuration: all is off, and the layout
// number is written last.
func initConfig(a *Arrays) error {
	s, err := a.sizes()
	if err != nil {
		return err
	}
	hz, err := tickRate()
	if err != nil {
		return err
	}
	var secret [24]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return err
	}
	c := a.Config
	*c = bpf.Config{Slots: uint32(s.Slots), Buckets: uint32(s.Buckets()), Cpus: uint32(s.CPUs), JiffiesHz: hz, Prefix4: 32, Prefix6: 64}
	for i := range c.HashKey {
		c.HashKey[i] = binary.LittleEndian.Uint64(secret[8*i:]) | 1
	}
	atomic.StoreUint32(&c.Layout, bpf.LayoutVersion)
	return nil
}

// recover finds out which slots are in use: those that the index points to.
// Entries without a slot, and second copies of one that was being moved, go.
func (t *Table) recover() {
	published := make([]bool, t.sizes.Slots)
	for n := range t.a.Index {
		for w := range t.a.Index[n].Way {
			e := &t.a.Index[n].Way[w]
			if e.Key == 0 {
				continue
			}
			s := uint32(e.Value)
			if int(s) < t.sizes.Slots && !published[s] && t.a.SAs[s].Generation%2 == 1 && uint16(t.a.SAs[s].Generation) == uint16(e.Value>>48) &&
				placeOf(t.a.Config, &t.a.SAs[s].Key).word == e.Key && t.a.SAs[s].Flags&bpf.FlagGone == 0 {
				published[s] = true
				t.used++
				t.recoverMove(s, e)
				continue
			}
			atomic.StoreUint64(&e.Key, 0)
		}
	}
	for s := range published {
		if published[s] {
			continue
		}
		if g := &t.a.SAs[s].Generation; *g%2 == 1 {
			atomic.StoreUint32(g, *g+1)
		}
		t.free.put(uint32(s))
	}
}

// Programs is the programs' configuration itself, to set single fields of it. It
// is valid until Close.
func (t *Table) Programs() *bpf.Config { return t.a.Config }

// vouchFor is how many seconds the guard takes the daemon for alive after a Vouch.
// It is more than a busy machine keeps a process waiting.
const vouchFor = 5

// Vouch tells the guard that the index is being kept. Without another one for some
// seconds it drops nothing any more.
func (t *Table) Vouch() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("monotonic clock: %w", err)
	}
	atomic.StoreUint32(&t.a.Config.AliveUntil, uint32(now.Sec)+vouchFor)
	return nil
}

// Used is how many SAs the table has, those that were removed and not yet freed not among them.
func (t *Table) Used() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

// Insert publishes an SA: when it returns the programs know it, with counters at
// zero. On ErrExists the slot is the one that the key has.
func (t *Table) Insert(k bpf.Key, attr Attr) (slot uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.Lookup(k); ok {
		return s, ErrExists
	}
	if t.free.len() == 0 {
		return 0, fmt.Errorf("%w: all %d slots are in use", ErrFull, t.sizes.Slots)
	}
	p := placeOf(t.a.Config, &k)
	if t.has(p) {
		return 0, ErrCollision
	}
	entry := t.makeRoom(p)
	if entry == nil {
		return 0, fmt.Errorf("%w: no room in the buckets of the key, with %d of %d slots in use", ErrFull, t.used, t.sizes.Slots)
	}
	slot = t.free.take(homeSlots * p.bucket)
	t.used++
	t.clear(slot)
	sa := &t.a.SAs[slot]
	generation := sa.Generation + 1
	// The generation last: a reader between the two takes the slot for free.
	sa.Key, sa.Cpu, sa.Flags, sa.Reqid, sa.IfId = k, attr.CPU, attr.Flags&^bpf.FlagGone, attr.Reqid, attr.IfID
	atomic.StoreUint32(&sa.Generation, generation)
	atomic.StoreUint64(&entry.Value, valueOf(slot, attr.CPU, generation))
	atomic.StoreUint64(&entry.Key, p.word)
	return slot, nil
}

// Carried is what Carry has taken over from a slot.
type Carried struct {
	rows  []bpf.Counters // by CPU
	drops [bpf.DropReasons]uint64
}

// Carry adds to one SA's counters what another's slot, which may have been removed,
// counted since the last call with the same was (nil: in all). A packet that one of
// the programs counts at this very moment under the heir may cost what a CPU's row
// carries: moves are rare, and counts are no accounts. Errors: the heir is not in use.
func (t *Table) Carry(from, to uint32, was *Carried) (*Carried, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.live(to); err != nil {
		return nil, err
	}
	if was == nil {
		was = &Carried{rows: make([]bpf.Counters, t.sizes.CPUs)}
	}
	for cpu := range t.sizes.CPUs {
		now, had := t.CountersOn(cpu, from), &was.rows[cpu]
		if now == *had {
			continue
		}
		c := &t.a.Counters[cpu*t.sizes.Slots+int(to)]
		atomic.AddUint64(&c.Packets, now.Packets-had.Packets)
		atomic.AddUint64(&c.Bytes, now.Bytes-had.Bytes)
		if now.LastUsed > atomic.LoadUint64(&c.LastUsed) {
			atomic.StoreUint64(&c.LastUsed, now.LastUsed)
		}
		*had = now
	}
	drops := t.Drops(from)
	for r, n := range drops {
		atomic.AddUint64(&t.a.DropCounts[int(to)*len(drops)+r], n-was.drops[r])
	}
	was.drops = drops
	return was, nil
}

// clear sets a slot's counters to zero.
func (t *Table) clear(slot uint32) {
	for cpu := range t.sizes.CPUs {
		c := &t.a.Counters[cpu*t.sizes.Slots+int(slot)]
		atomic.StoreUint64(&c.Packets, 0)
		atomic.StoreUint64(&c.Bytes, 0)
		atomic.StoreUint64(&c.LastUsed, 0)
	}
	for i := range int(bpf.DropReasons) {
		atomic.StoreUint64(&t.a.DropCounts[int(slot)*int(bpf.DropReasons)+i], 0)
	}
}

// Update changes what the slot says of its SA.
func (t *Table) Update(slot uint32, attr Attr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	sa, err := t.live(slot)
	if err != nil {
		return err
	}
	if sa.Cpu != attr.CPU {
		t.steer(slot, sa, attr.CPU) // else it may be on its way there
	}
	atomic.StoreUint32(&sa.Flags, attr.Flags&^bpf.FlagGone)
	atomic.StoreUint32(&sa.Reqid, attr.Reqid)
	atomic.StoreUint32(&sa.IfId, attr.IfID)
	return nil
}

// SetCPU steers an SA's inbound packets to a CPU from now on, whatever is on its
// way to another; bpf.NoCPU: leaves them where they arrive.
func (t *Table) SetCPU(slot, cpu uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	sa, err := t.live(slot)
	if err == nil {
		t.steer(slot, sa, cpu)
	}
	return err
}

// steer writes the CPU where user space reads it and where the programs do.
func (t *Table) steer(slot uint32, sa *bpf.Slot, cpu uint32) {
	atomic.StoreUint32(&sa.Cpu, cpu)
	t.enter(slot, sa, cpu)
}

// enter writes the CPU into the index.
func (t *Table) enter(slot uint32, sa *bpf.Slot, cpu uint32) {
	p := placeOf(t.a.Config, &sa.Key)
	for _, n := range []uint32{p.bucket, other(t.a.Config, p.bucket, p.word)} {
		for w := range t.a.Index[n].Way {
			if e := &t.a.Index[n].Way[w]; e.Key == p.word {
				atomic.StoreUint64(&e.Value, valueOf(slot, cpu, sa.Generation))
			}
		}
	}
}

// live is a slot that is published.
func (t *Table) live(slot uint32) (*bpf.Slot, error) {
	if int(slot) >= t.sizes.Slots || t.a.SAs[slot].Generation%2 == 0 || t.a.SAs[slot].Flags&bpf.FlagGone != 0 {
		return nil, fmt.Errorf("slot %d of %d: expected one in use", slot, t.sizes.Slots)
	}
	return &t.a.SAs[slot], nil
}

// Remove takes an SA out of the index: the programs do not know it any more. A
// program that had found it just before may still count, so its last counters are
// read a little later (a millisecond is plenty), and Free gives the slot back then.
func (t *Table) Remove(k bpf.Key) (slot uint32, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot, ok = t.Lookup(k)
	if !ok {
		return 0, false
	}
	p := placeOf(t.a.Config, &k)
	for _, n := range []uint32{p.bucket, other(t.a.Config, p.bucket, p.word)} {
		for w := range t.a.Index[n].Way {
			if e := &t.a.Index[n].Way[w]; e.Key == p.word {
				atomic.StoreUint64(&e.Key, 0)
			}
		}
	}
	sa := &t.a.SAs[slot]
	atomic.StoreUint32(&sa.Flags, sa.Flags|bpf.FlagGone)
	t.used--
	return slot, true
}

// Free gives the slot of a removed SA back, after its counters were read for the
// last time.
func (t *Table) Free(slot uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(slot) >= t.sizes.Slots || t.a.SAs[slot].Flags&bpf.FlagGone == 0 || t.a.SAs[slot].Generation%2 == 0 {
		return fmt.Errorf("slot %d of %d: expected one whose SA was removed", slot, t.sizes.Slots)
	}
	sa := &t.a.SAs[slot]
	atomic.StoreUint32(&sa.Generation, sa.Generation+1)
	t.free.put(slot)
	return nil
}

// has tells whether an entry has this place's key word.
func (t *Table) has(p place) bool {
	same := func(e bpf.IndexEntry) bool { return e.Key == p.word }
	return slices.ContainsFunc(t.a.Index[p.bucket].Way[:], same) ||
		slices.ContainsFunc(t.a.Index[other(t.a.Config, p.bucket, p.word)].Way[:], same)
}

// maxPath bounds the search for room. Half of the entries are always free, so
// that the first or second bucket nearly always has one.
const maxPath = 256

// step is a bucket that the search for room looked at: it is the other one of
// the entry way in the bucket of the step from.
type step struct {
	bucket uint32
	from   int // -1: a bucket of the new key itself
	way    int
}

// makeRoom finds a free entry for a key, and moves others to their other buckets
// to make one if need be (breadth first, so as few as possible); nil: none.
func (t *Table) makeRoom(p place) *bpf.IndexEntry {
	steps := []step{{bucket: p.bucket, from: -1}, {bucket: other(t.a.Config, p.bucket, p.word), from: -1}}
	for i := 0; i < len(steps); i++ {
		b := &t.a.Index[steps[i].bucket]
		for w := range b.Way {
			if b.Way[w].Key == 0 {
				return t.shift(steps, i, w)
			}
		}
		for w := range b.Way {
			if len(steps) < maxPath {
				steps = append(steps, step{bucket: other(t.a.Config, steps[i].bucket, b.Way[w].Key), from: i, way: w})
			}
		}
	}
	return nil
}

// shift moves the entries on the way back from a free one, and returns the one
// that is free then. Each is in its new place before it leaves the old one.
func (t *Table) shift(steps []step, i, way int) *bpf.IndexEntry {
	free := &t.a.Index[steps[i].bucket].Way[way]
	for s := steps[i]; s.from >= 0; s = steps[s.from] {
		from := &t.a.Index[steps[s.from].bucket].Way[s.way]
		atomic.StoreUint64(&free.Value, from.Value)
		atomic.StoreUint64(&free.Key, from.Key)
		atomic.StoreUint64(&from.Key, 0)
		free = from
	}
	return free
}
