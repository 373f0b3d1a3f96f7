package flow

import (
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"espalier/dataplane"
)

// Table is the table of SPIs as its keeper wants it. The keeper calls it from
// one goroutine at a time.
type Table interface {
	// Insert adds an entry, or gives the one with the key other attributes: its
	// counters, and the CPU that somebody gave it meanwhile, stay. Errors: no room.
	Insert(Key, Attrs) error
	// Remove takes an entry out; nothing happens when there is none.
	Remove(Key)
	// Move takes an entry out whose SA goes on under another key, which is in already,
	// with its counts. Nothing happens when one of them is not there.
	Move(from, to Key)
	// InStep says whether the table has every inbound SPI of the kernel. While it
	// has not, the guard drops nothing.
	InStep(bool)
}

// Attrs are what the table says of an SA beside its key.
type Attrs struct {
	Own, Reserved bool
	ReqID, IfID   uint32
	ReplayWindow  uint32 // packets; 0: not known
	// PerCPU: the SA is one CPU's (RFC 9611); otherwise the steering policy decides.
	PerCPU bool
	CPU    uint32
}

// spiKeeper keeps the table in step with what the kernel holds: own SAs as they
// are installed (wrap.go), everybody else's by watching.
//
// An own entry is in the table before the kernel has its SA and goes after it,
// so that no packet is met by a table that does not know it. What the watch says
// of an own SA is old news, unless the kernel ended it: then the kernel is asked.
type spiKeeper struct {
	table Table
	log   zerolog.Logger
	// ownAddr tells inbound SAs of others from outbound ones: the kernel does not
	// say which they are.
	ownAddr func(*dataplane.SAKey) bool

	mu     sync.Mutex // held over changes of the kernel as well: their order is the table's
	sas    map[dataplane.SAKey]entry
	refs   map[Key]int // SAs with one key and several marks share an entry
	full   map[Key]bool
	synced bool
	// lame: something else that the guard must know is not in its maps.
	lame atomic.Bool
	// touched are the SAs that changed while a list is being made, which is older
	// than they are; nil: none is.
	touched map[dataplane.SAKey]bool
}

type entry struct {
	key   Key
	attrs Attrs
}

func newSPIKeeper(t Table, log zerolog.Logger, ownAddr func(*dataplane.SAKey) bool) *spiKeeper {
	return &spiKeeper{table: t, log: log, ownAddr: ownAddr, sas: map[dataplane.SAKey]entry{}, refs: map[Key]int{}, full: map[Key]bool{}}
}

// keyOf is the table's key of an SA.
func keyOf(k *dataplane.SAKey, dir dataplane.Direction) Key {
	return Key{Dir: dir, Dst: k.Dst.Unmap(), SPI: k.SPI}
}

// setLocked adds an SA or changes its entry.
func (s *spiKeeper) setLocked(k dataplane.SAKey, e entry) {
	s.touchLocked(k)
	old, had := s.sas[k]
	if had && old.key != e.key {
		s.dropLocked(k)
		had = false
	}
	if !had {
		s.refs[e.key]++
	}
	s.sas[k] = e
	if had && old.attrs == e.attrs && !s.full[e.key] {
		return
	}
	if err := s.table.Insert(e.key, e.attrs); err != nil {
		if len(s.full) == 0 {
			s.log.Error().Err(err).Int("sas", len(s.sas)).Msg("the table of SPIs is full: not every SA is counted, and the guard only logs (espalier.max_spis)")
		}
		s.full[e.key] = true
		s.stepLocked()
		return
	}
	if s.full[e.key] {
		delete(s.full, e.key)
		s.stepLocked()
	}
}

// dropLocked removes an SA.
func (s *spiKeeper) dropLocked(k dataplane.SAKey) {
	s.touchLocked(k)
	e, had := s.sas[k]
	if !had {
		return
	}
	delete(s.sas, k)
	if s.refs[e.key]--; s.refs[e.key] > 0 {
		return
	}
	delete(s.refs, e.key)
	if s.full[e.key] {
		delete(s.full, e.key)
	} else {
		s.table.Remove(e.key)
		s.retryLocked()
	}
	s.stepLocked()
}

// moveLocked removes an SA that goes on as another.
func (s *spiKeeper) moveLocked(from, to dataplane.SAKey) {
	e, had := s.sas[from]
	heir, has := s.sas[to]
	if had && has && s.refs[e.key] == 1 && e.key != heir.key && !s.full[e.key] && !s.full[heir.key] {
		s.table.Move(e.key, heir.key)
	}
	s.dropLocked(from)
}

// retryLocked gives the room that came free to an SA that found none.
func (s *spiKeeper) retryLocked() {
	for key := range s.full {
		for k, e := range s.sas {
			if e.key == key {
				s.setLocked(k, e)
				return
			}
		}
	}
}

func (s *spiKeeper) touchLocked(k dataplane.SAKey) {
	if s.touched != nil {
		s.touched[k] = true
	}
}

func (s *spiKeeper) stepLocked() {
	s.table.InStep(s.synced && len(s.full) == 0 && !s.lame.Load())
	if s.lame.Load() { // since
		s.table.InStep(false)
	}
}

// blind keeps the guard from dropping anything until the daemon starts anew. It
// does not wait.
func (s *spiKeeper) blind() {
	s.lame.Store(true)
	s.table.InStep(false)
}

// foreignLocked takes an SA as the kernel lists it, unless it is an own one.
func (s *spiKeeper) foreignLocked(sa *dataplane.InstalledSA) {
	if sa.Proto != dataplane.ESP || sa.SPI == 0 || s.sas[sa.SAKey].attrs.Own {
		return
	}
	dir := dataplane.Out
	if s.ownAddr(&sa.SAKey) {
		dir = dataplane.In
	}
	s.setLocked(sa.SAKey, entry{keyOf(&sa.SAKey, dir), Attrs{Reserved: sa.Reserved, ReqID: sa.ReqID, IfID: sa.IfID}})
}

// follow takes one change of the kernel's.
func (s *spiKeeper) follow(dp dataplane.SAWatcher, c *dataplane.SAChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := c.SA.SAKey
	if !c.Gone {
		s.foreignLocked(&c.SA)
		return
	}
	if _, had := s.sas[k]; !had {
		return
	}
	// Another SA may have its place already. While an operation is under way this
	// waits, so the answer is not of the middle of one.
	if has, err := dp.HasSA(k); err == nil && !has {
		s.dropLocked(k)
	}
}

// sameSA is what an SA keeps when its addresses change.
type sameSA struct{ spi, reqID uint32 }

// resync makes the table what the kernel lists. Until it is done, and when the
// kernel cannot be listed, the table is not in step.
func (s *spiKeeper) resync(list func() (dataplane.Snapshot, error)) error {
	s.mu.Lock()
	s.synced, s.touched = false, map[dataplane.SAKey]bool{}
	s.stepLocked()
	s.mu.Unlock()

	snap, err := list()

	s.mu.Lock()
	defer s.mu.Unlock()
	touched := s.touched
	s.touched = nil
	if err != nil {
		return err
	}
	listed := make(map[dataplane.SAKey]bool, len(snap.SAs))
	fresh := map[sameSA]dataplane.SAKey{}
	for i := range snap.SAs {
		sa := &snap.SAs[i]
		listed[sa.SAKey] = true
		if touched[sa.SAKey] {
			continue
		}
		if _, had := s.sas[sa.SAKey]; !had && sa.ReqID != 0 {
			fresh[sameSA{sa.SPI, sa.ReqID}] = sa.SAKey
		}
		s.foreignLocked(sa)
	}
	for k, e := range s.sas {
		if listed[k] || touched[k] {
			continue
		}
		// Another daemon's migration shows as one that went and one that came.
		if to, moved := fresh[sameSA{k.SPI, e.attrs.ReqID}]; moved {
			s.moveLocked(k, to)
		} else {
			s.dropLocked(k)
		}
	}
	s.synced = true
	s.stepLocked()
	return nil
}

// replayWindow is that of an own inbound SA in packets, 0 when it is not known.
func (s *spiKeeper) replayWindow(k Key) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sas[dataplane.SAKey{Dst: k.Dst, Proto: dataplane.ESP, SPI: k.SPI}].attrs.ReplayWindow
}

// turn gives the SAs of others their direction again: the box's addresses have
// changed.
func (s *spiKeeper) turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.sas {
		if e.attrs.Own {
			continue
		}
		if dir := (map[bool]dataplane.Direction{true: dataplane.In, false: dataplane.Out})[s.ownAddr(&k)]; dir != e.key.Dir {
			e.key.Dir = dir
			s.setLocked(k, e)
		}
	}
}
