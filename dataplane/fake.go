package dataplane

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// FakeOptions configure a Fake; the zero value is a good one for unit tests.
type FakeOptions struct {
	// Now is the clock; nil: time.Now. Time limits end an SA when Tick is called.
	Now func() time.Time
	// Events is how many events wait for the reader before one Overrun takes
	// the place of the rest; 0: 1024.
	Events int
	// Seed of the SPI choice; the same seed gives the same SPIs.
	Seed uint64
	// Compact keeps no keys, selectors and other rare parts of SAs, so that
	// Fake.SA knows less: for load and memory tests.
	Compact bool
	// Features to report; nil: everything.
	Features *Features
}

// Fake is a DataPlane in memory with the behaviour of the kernel's, for tests:
// it refuses what the kernel refuses, undoes a batch whose operation fails,
// keeps the stack of policy owners, and reports events that a test causes with
// Count, Tick and Inject.
type Fake struct {
	mu       sync.Mutex
	now      func() time.Time
	compact  bool
	closed   bool
	rnd      *rand.PCG
	sas      map[saID]*fakeSA
	policies *PolicyTable
	events   *EventQueue
	features Features
	failOp   func(Op) error
	failSPI  error
	undo     []fakeUndo
	watches  []*fakeWatch
	applied  uint64
	queried  int // calls of QuerySA
}

// saID is an SAKey without pointers.
type saID struct {
	dst        [16]byte
	spi        uint32
	mark, mask uint32
	proto      Proto
	v6         bool
}

func saIDOf(k *SAKey) saID {
	dst := k.Dst.Unmap()
	return saID{dst: dst.As16(), v6: !dst.Is4(), spi: k.SPI, proto: k.Proto, mark: k.Mark.Value, mask: k.Mark.Mask}
}

func (id *saID) key() SAKey {
	return SAKey{Dst: unpackAddr(id.dst, id.v6), Proto: id.proto, SPI: id.spi, Mark: Mark{id.mark, id.mask}}
}

// fakeSA is an SA or, when reserved, an SPI.
type fakeSA struct {
	src              [16]byte
	crypt, auth      string
	limits           Limits
	bytes, packets   uint64
	out, in          uint64
	installed, used  int64 // Unix nanoseconds; used 0: never
	drops            [3]uint32
	reqID, ifID      uint32
	keepalive        uint32 // seconds
	flags            SAFlags
	encapSrc         uint16
	encapDst         uint16
	mode             Mode
	dir              Direction
	reserved, encap  bool
	esn, softExpired bool
	full             *SA // nil when Compact
}

type fakeUndo struct {
	id     saID
	had    *fakeSA // what stood under id before; nil: nothing
	saved  fakeSA  // contents of had, when the operation changed it in place
	inside bool    // saved is set
	policy PolicyChange
	isPol  bool
}

// NewFake returns an empty Fake.
func NewFake(o FakeOptions) *Fake {
	f := &Fake{
		now: o.Now, compact: o.Compact,
		rnd:      rand.NewPCG(o.Seed, 0x657370616c696572),
		sas:      make(map[saID]*fakeSA),
		policies: NewPolicyTable(),
	}
	if f.now == nil {
		f.now = time.Now
	}
	if o.Events == 0 {
		o.Events = 1024
	}
	f.events = NewEventQueue(o.Events)
	f.features = Features{Kernel: "fake", ESN: true, IPTFS: true, IPComp: true, PerCPU: true, SADir: true, Migrate: true, NATKeepalive: true, XFRMIf: true, Algorithms: map[string]bool{}}
	if o.Features != nil {
		f.features = *o.Features
	}
	return f
}

// ReserveSPI implements DataPlane.
func (f *Fake) ReserveSPI(r SPIRequest) (uint32, error) {
	if err := CheckRequest(&r); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, ErrClosed
	}
	if err := f.failSPI; err != nil {
		f.failSPI = nil
		return 0, err
	}
	id := saIDOf(&SAKey{Dst: r.Dst, Proto: r.Proto, Mark: r.Mark})
	if !f.pick(&id, r.Min, uint64(r.Max-r.Min)+1) {
		return 0, ErrNoSPI
	}
	f.sas[id] = &fakeSA{src: r.Src.Unmap().As16(), reqID: r.ReqID, ifID: r.IfID, mode: r.Mode, reserved: true, installed: f.now().UnixNano()}
	f.tell(id)
	return id.spi, nil
}

// pick sets id's SPI to an unused one of the n from first on: random as the
// kernel's, then, in a crowded range, the next free one.
func (f *Fake) pick(id *saID, first uint32, n uint64) bool {
	for range 4 {
		id.spi = first + uint32(f.rnd.Uint64()%n)
		if f.sas[*id] == nil {
			return true
		}
	}
	at := f.rnd.Uint64() % n
	for i := range n {
		id.spi = first + uint32((at+i)%n)
		if f.sas[*id] == nil {
			return true
		}
	}
	return false
}

// Apply implements DataPlane.
func (f *Fake) Apply(ops []Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.undo = f.undo[:0]
	for i, op := range ops {
		if err := f.apply(op); err != nil {
			for j := len(f.undo) - 1; j >= 0; j-- {
				f.undoOne(&f.undo[j])
			}
			clear(f.undo)
			return &OpError{Index: i, Op: op, Err: err}
		}
	}
	for i := range f.undo {
		if u := &f.undo[i]; !u.isPol {
			f.tell(u.id)
		}
	}
	clear(f.undo)
	f.applied += uint64(len(ops))
	return nil
}

func (f *Fake) apply(op Op) error {
	if f.failOp != nil {
		if err := f.failOp(op); err != nil {
			f.failOp = nil
			return err
		}
	}
	switch o := op.(type) {
	case InstallSA:
		return f.install(&o.SA, o.Again)
	case UpdateSA:
		return f.update(&o.SA)
	case MoveSA:
		return f.move(&o)
	case DeleteSA:
		id := saIDOf(&o.Key)
		if s := f.sas[id]; s != nil {
			f.undo = append(f.undo, fakeUndo{id: id, had: s})
			delete(f.sas, id)
		}
		return nil
	case InstallPolicy:
		if err := CheckPolicy(&o.Policy); err != nil {
			return err
		}
		f.undo = append(f.undo, fakeUndo{isPol: true, policy: f.policies.Install(&o.Policy)})
		return nil
	case DeletePolicy:
		f.undo = append(f.undo, fakeUndo{isPol: true, policy: f.policies.Delete(&o.Key, o.Owner)})
		return nil
	}
	return ErrUnknownOp
}

func (f *Fake) undoOne(u *fakeUndo) {
	switch {
	case u.isPol:
		f.policies.Undo(u.policy)
	case u.had == nil:
		delete(f.sas, u.id)
	default:
		if u.inside {
			*u.had = u.saved
		}
		f.sas[u.id] = u.had
	}
}

func (f *Fake) install(sa *SA, again bool) error {
	if err := CheckSA(sa); err != nil {
		return err
	}
	id := saIDOf(&sa.SAKey)
	old := f.sas[id]
	if old != nil && !old.reserved {
		if again {
			return nil
		}
		return ErrExists
	}
	s := &fakeSA{
		src: sa.Src.Unmap().As16(), reqID: sa.ReqID, ifID: sa.IfID, mode: sa.Mode, dir: sa.Dir,
		flags: sa.Flags, limits: EffectiveLimits(sa), esn: sa.ESN,
		out: sa.Seq.Out, in: sa.Seq.In, installed: f.now().UnixNano(),
		crypt: sa.Crypt.Name, auth: sa.Auth.Name,
	}
	if sa.AEAD.Name != "" {
		s.crypt = sa.AEAD.Name
	}
	f.setEncap(s, sa.Encap)
	if !f.compact {
		s.full = cloneSA(sa)
	}
	f.undo = append(f.undo, fakeUndo{id: id, had: old})
	f.sas[id] = s
	return nil
}

func (f *Fake) setEncap(s *fakeSA, e *Encap) {
	s.encap, s.keepalive = e != nil, 0
	if e == nil {
		return
	}
	s.encapSrc, s.encapDst = e.SrcPort, e.DstPort
	if f.features.NATKeepalive {
		s.keepalive = uint32((e.Keepalive + time.Second - 1) / time.Second)
	}
}

// cloneSA copies what the caller may change or wipe later.
func cloneSA(sa *SA) *SA {
	c := *sa
	c.AEAD.Key, c.Crypt.Key, c.Auth.Key = c.AEAD.Key.Clone(), c.Crypt.Key.Clone(), c.Auth.Key.Clone()
	c.Encap, c.Selector, c.CPU = clonePtr(c.Encap), clonePtr(c.Selector), clonePtr(c.CPU)
	c.Seq.Window = append([]uint32(nil), c.Seq.Window...)
	return &c
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// live finds an SA that is not merely a reserved SPI.
func (f *Fake) live(k *SAKey) (saID, *fakeSA, error) {
	id := saIDOf(k)
	if s := f.sas[id]; s != nil && !s.reserved {
		return id, s, nil
	}
	return id, nil, ErrNotFound
}

func (f *Fake) update(sa *SA) error {
	id, s, err := f.live(&sa.SAKey)
	if err != nil {
		return err
	}
	if err := CheckLimits(&sa.Limits); err != nil {
		return err
	}
	if err := CheckEncap(sa.Encap, s.dir); err != nil {
		return err
	}
	f.undo = append(f.undo, fakeUndo{id: id, had: s, inside: true, saved: *s})
	with := SA{ESN: s.esn, Limits: sa.Limits}
	if s.dir == Out && s.out > s.packets {
		with.Seq.Out = s.out - s.packets // where it started
	}
	s.limits = EffectiveLimits(&with)
	s.flags, s.softExpired = sa.Flags, false
	f.setEncap(s, sa.Encap)
	if s.full != nil {
		full := cloneSA(s.full)
		full.Limits, full.Flags, full.Encap = sa.Limits, sa.Flags, clonePtr(sa.Encap)
		s.full = full
	}
	return nil
}

func (f *Fake) move(m *MoveSA) error {
	key, src := m.Key, m.NewSrc
	if m.NewDst.IsValid() {
		key.Dst = m.NewDst
	}
	id, s, err := f.live(&m.Key)
	if err != nil {
		if id, s, err = f.live(&key); err != nil { // moved already?
			return err
		}
	}
	if !src.IsValid() {
		src = unpackAddr(s.src, id.v6)
	}
	if err := checkAddrs(src, key.Dst); err != nil {
		return err
	}
	if err := CheckEncap(m.Encap, s.dir); err != nil {
		return err
	}
	to := saIDOf(&key)
	if to != id {
		if f.sas[to] != nil {
			return ErrExists
		}
		f.undo = append(f.undo, fakeUndo{id: to})
	}
	f.undo = append(f.undo, fakeUndo{id: id, had: s, inside: true, saved: *s})
	s.src = src.Unmap().As16()
	f.setEncap(s, m.Encap)
	if s.full != nil {
		full := cloneSA(s.full)
		full.SAKey, full.Src, full.Encap = key, src, clonePtr(m.Encap)
		s.full = full
	}
	delete(f.sas, id)
	f.sas[to] = s
	return nil
}

// QuerySA implements DataPlane.
func (f *Fake) QuerySA(k SAKey) (SAStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queried++
	if f.closed {
		return SAStatus{}, ErrClosed
	}
	_, s, err := f.live(&k)
	if err != nil {
		return SAStatus{}, err
	}
	st := SAStatus{
		Bytes: s.bytes, Packets: s.packets, Installed: time.Unix(0, s.installed),
		Replay:              Replay{Out: s.out, In: s.in},
		ReplayWindowDropped: s.drops[0], ReplayDropped: s.drops[1], IntegrityFailed: s.drops[2],
	}
	if s.used != 0 {
		st.LastUsed = time.Unix(0, s.used)
	}
	if s.full != nil {
		st.Replay.Window = append([]uint32(nil), s.full.Seq.Window...)
	}
	return st, nil
}

// AdvanceReplay implements DataPlane.
func (f *Fake) AdvanceReplay(k SAKey, r Replay) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	_, s, err := f.live(&k)
	if err != nil {
		return err
	}
	if !s.esn && (r.Out >= 1<<32 || r.In >= 1<<32) {
		return fmt.Errorf("sequence numbers %d out, %d in: expected below 2^32 without ESN", r.Out, r.In)
	}
	if s.full != nil && r.In > s.in {
		s.full.Seq.Window = append([]uint32(nil), r.Window...)
	}
	s.out, s.in = max(s.out, r.Out), max(s.in, r.In)
	return nil
}

// List implements DataPlane.
func (f *Fake) List() (Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return Snapshot{}, ErrClosed
	}
	snap := Snapshot{SAs: make([]InstalledSA, 0, len(f.sas)), Policies: f.policies.Standing()}
	for id, s := range f.sas {
		snap.SAs = append(snap.SAs, s.installedSA(id))
	}
	return snap, nil
}

// installedSA is how the SA is listed.
func (s *fakeSA) installedSA(id saID) InstalledSA {
	in := InstalledSA{
		SAKey: id.key(), Src: unpackAddr(s.src, id.v6), ReqID: s.reqID, IfID: s.ifID, Mode: s.mode,
		Reserved: s.reserved, Algs: algNames(&SA{Crypt: Algorithm{Name: s.crypt}, Auth: Algorithm{Name: s.auth}}),
	}
	if s.encap {
		in.Encap = &Encap{SrcPort: s.encapSrc, DstPort: s.encapDst, Keepalive: time.Duration(s.keepalive) * time.Second}
	}
	return in
}

// Events implements DataPlane.
func (f *Fake) Events() <-chan Event { return f.events.C() }

// Features implements DataPlane.
func (f *Fake) Features() Features { return f.features }

// Close implements DataPlane.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.events.Close()
	for _, w := range f.watches {
		close(w.ch)
	}
	f.watches = nil
	return nil
}

var _ DataPlane = (*Fake)(nil)
