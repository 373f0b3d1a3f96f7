// Package table is the index of SAs that the BPF programs read: hash, slots and
// publication as bpf/headers/layout.h has them. It writes the maps through
// memory; reading counters takes no system call.
package table

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
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

	mu    sync.Mutex
	free  queue
	taken []uint64 // a bit for each place of a row: an entry, or one of a slot that is not freed yet
	past  []uint32 // for each bucket of a row, how many keys in the index lie in a later one of theirs
	used  int
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
	r, err := newReader(a, bpf.LayoutVersion)
	if err != nil {
		return nil, err
	}
	return takeOver(r), nil
}

// takeOver finds out what the arrays hold.
func takeOver(r *Reader) *Table {
	places := r.a.Config.Buckets * indexWays
	t := &Table{Reader: r, free: newQueue(r.sizes.Slots), taken: make([]uint64, (places+63)/64), past: make([]uint32, r.a.Config.Buckets)}
	t.recover()
	return t
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

// recover finds out which slots are in use: those that row 0 of the index points
// to. Entries without a slot go, and the other rows are made to have the same keys.
func (t *Table) recover() {
	published := make([]bool, t.sizes.Slots)
	for place := range t.a.Config.Buckets * indexWays {
		e := t.a.entry(0, place)
		if e.Key != 0 && !t.recoverEntry(e, place, published) {
			atomic.StoreUint64(&e.Key, 0)
		}
		for cpu := 1; cpu < t.sizes.CPUs; cpu++ {
			if row := t.a.entry(cpu, place); row.Key != 0 && row.Key != e.Key {
				atomic.StoreUint64(&row.Key, 0)
			}
		}
	}
	for b := range t.a.Config.Buckets {
		t.tellPast(b)
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

// recoverEntry tells whether an entry of row 0 is that of an SA; then its slot is published.
func (t *Table) recoverEntry(e *bpf.IndexEntry, place uint32, published []bool) bool {
	s := slotOf(e.Where)
	if int(s) >= t.sizes.Slots || published[s] {
		return false
	}
	sa := &t.a.SAs[s]
	p := placeOf(t.a.Config, &sa.Key)
	if sa.Generation%2 == 0 || sa.Flags&bpf.FlagGone != 0 || sa.Place != place || p.word != e.Key {
		return false
	}
	published[s] = true
	t.each(p, place, func(b uint32) { t.past[b]++ })
	t.taken[place/64] |= 1 << (place % 64)
	t.used++
	t.recoverMove(s, e.Where)
	return true
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
	if _, _, ok := t.find(p); ok {
		return 0, ErrCollision
	}
	at, ok := t.room(p)
	if !ok {
		return 0, fmt.Errorf("%w: no room in the buckets of the key, with %d of %d slots in use", ErrFull, t.used, t.sizes.Slots)
	}
	slot = t.free.take()
	t.used++
	sa := &t.a.SAs[slot]
	// The generation last: a reader between the two takes the slot for free.
	sa.Key, sa.Cpu, sa.Flags, sa.Reqid, sa.IfId = k, attr.CPU, attr.Flags&^bpf.FlagGone, attr.Reqid, attr.IfID
	atomic.StoreUint32(&sa.Place, at)
	for i := range int(bpf.DropReasons) {
		atomic.StoreUint64(&t.a.DropCounts[int(slot)*int(bpf.DropReasons)+i], 0)
	}
	for cpu := range t.sizes.CPUs {
		e := t.a.entry(cpu, at)
		atomic.StoreUint64(&e.Packets, 0)
		atomic.StoreUint64(&e.Bytes, 0)
		atomic.StoreUint32(&e.LastUsed, 0)
		setWhere(e, whereOf(slot, attr.CPU))
	}
	t.each(p, at, func(b uint32) { t.past[b]++; t.tellPast(b) })
	atomic.StoreUint32(&sa.Generation, sa.Generation+1)
	for cpu := t.sizes.CPUs - 1; cpu >= 0; cpu-- { // row 0 last
		atomic.StoreUint64(&t.a.entry(cpu, at).Key, p.word)
	}
	return slot, nil
}

// room is a free place for a key: in the first of its buckets that has one. What
// the SA before it left there cannot be counted any more, since its slot was freed.
func (t *Table) room(p place) (at uint32, ok bool) {
	for n := range uint32(maxProbes) {
		for w := range indexWays {
			at = p.bucket(t.a.Config, n)*indexWays + w
			if t.taken[at/64]>>(at%64)&1 != 0 {
				continue
			}
			t.taken[at/64] |= 1 << (at % 64)
			return at, true
		}
	}
	return 0, false
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
	t.enter(slot, sa.Place, cpu)
}

// enter writes the CPU into the index.
func (t *Table) enter(slot, place, cpu uint32) {
	for row := range t.sizes.CPUs {
		setWhere(t.a.entry(row, place), whereOf(slot, cpu))
	}
}

// setWhere writes what an entry says of its SA.
func setWhere(e *bpf.IndexEntry, where uint32) { atomic.StoreUint32(&e.Where, where|e.Where&passed) }

// each calls f with the buckets that a key at this place goes past.
func (t *Table) each(p place, at uint32, f func(bucket uint32)) {
	for n := range uint32(maxProbes) {
		b := p.bucket(t.a.Config, n)
		if b == at/indexWays {
			return
		}
		f(b)
	}
}

// tellPast writes into all rows whether keys go past a bucket.
func (t *Table) tellPast(bucket uint32) {
	var now uint32
	if t.past[bucket] > 0 {
		now = passed
	}
	for cpu := range t.sizes.CPUs {
		if e := t.a.entry(cpu, bucket*indexWays); e.Where&passed != now {
			atomic.StoreUint32(&e.Where, e.Where&^passed|now)
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
	sa := &t.a.SAs[slot]
	for cpu := range t.sizes.CPUs { // row 0 first
		atomic.StoreUint64(&t.a.entry(cpu, sa.Place).Key, 0)
	}
	t.each(placeOf(t.a.Config, &k), sa.Place, func(b uint32) { t.past[b]--; t.tellPast(b) })
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
	t.taken[sa.Place/64] &^= 1 << (sa.Place % 64)
	t.free.put(slot)
	return nil
}
