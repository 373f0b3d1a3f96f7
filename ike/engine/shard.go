package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"espalier/ike/sa"
	"espalier/ike/wire"
)

// shard is one goroutine and the sessions of its buckets. Everything below the
// inbox belongs to that goroutine alone.
type shard struct {
	e      *Engine
	index  int
	inbox  *inbox
	kernel *queue // one worker: a session's kernel jobs stay in order
	quit   chan struct{}
	done   chan struct{}

	batch    batch
	env      sa.Env
	sessions map[wire.SPI]*session // by own SPI
	byID     map[uint64]*session
	byConn   byConn
	halfOpen map[halfOpenKey]*session
	children map[uint32]childRef // by inbound SPI of CHILD SAs
	outbound outbound            // the same by their outbound SPIs
	holding  map[*session]bool   // those that hold an outbound SA back
	replaced map[uint64]*session // by unique id the session in whose place one comes
	timers   timers
	counted  int // of timers, in the engine's counter
	timer    *time.Timer
	inline   []result // of jobs that ran at once, not handled yet
	encoded  []byte   // buffer of Persist
	unknown  limiter  // answers INVALID_IKE_SPI
	rand     *rand.Rand
}

// childRef is where a CHILD SA lives.
type childRef struct {
	sess *session
	id   uint64
}

// spiPair are the SPIs of a CHILD SA.
type spiPair struct{ in, out uint32 }

// session is one machine with what the shell keeps about it.
type session struct {
	m        *sa.Machine
	bucket   uint8
	spi      wire.SPI
	child    string      // of an initiator: the child it negotiates first
	key      halfOpenKey // of a responder
	halfOpen bool        // counted in the registry
	prefix   uint8       // bits of the prefix that it is counted under
	busy     bool        // counted in counters.busy
	gone     bool
	deadline time.Time
	place    int   // in timers
	links    links // in byConn
	grants   []grant
	lease    *leaseGrant // virtual addresses that the peer has from us
	spis     []spiPair   // of the CHILD SAs that s.children has of it
	waits    []*wait
	contact  *contact // in the registry; nil: not
	failure  string   // the last failure's explanation, for those who wait
	replaces uint64   // under which s.replaced has it; 0: it has not
	failures int      // how many there were

	failedChild string // of the last failure; empty: the IKE SA

	downSeen bool     // a CHILD SA may have gone in this step
	heirs    []func() // wait until the session holds nothing back, see handOver
}

func newShard(e *Engine, index int, in *inbox, seed uint64) *shard {
	s := &shard{
		e: e, index: index, inbox: in, kernel: newQueue(1, true),
		quit: make(chan struct{}), done: make(chan struct{}),
		sessions: map[wire.SPI]*session{}, byID: map[uint64]*session{}, byConn: byConn{},
		halfOpen: map[halfOpenKey]*session{}, children: map[uint32]childRef{}, outbound: newOutbound(),
		holding: map[*session]bool{}, replaced: map[uint64]*session{},
		unknown: *newLimiter(10, 20), rand: rand.New(rand.NewPCG(seed, uint64(index))),
	}
	s.env.Rand = e.rand
	return s
}

// run is the shard's life.
func (s *shard) run() {
	defer close(s.done)
	s.timer = time.NewTimer(time.Hour)
	defer s.timer.Stop()
	for {
		for s.turn() {
		}
		s.arm()
		select {
		case <-s.inbox.wake:
		case <-s.timer.C:
		case <-s.quit:
			for s.inbox.take(&s.batch) { // whoever asked is answered
				for _, f := range s.batch.calls {
					f(s)
				}
			}
			return
		}
	}
}

// turn does what waits and what is due, and reports whether there was anything.
func (s *shard) turn() bool {
	took := s.inbox.take(&s.batch)
	b := &s.batch
	for _, r := range b.results {
		s.deliver(r)
	}
	for _, f := range b.calls {
		f(s)
	}
	for _, m := range b.messages {
		s.message(m)
		s.inbox.recycle(m)
	}
	for _, m := range b.inits {
		s.init(m)
		s.inbox.recycle(m)
	}
	clear(b.results)
	clear(b.calls)
	clear(b.messages)
	clear(b.inits)
	return s.tick() || took
}

// ticksPerTurn keeps a crowd of deadlines from delaying messages.
const ticksPerTurn = 64

func (s *shard) tick() bool {
	now := s.e.now()
	n := 0
	for ; n < ticksPerTurn; n++ {
		x := s.timers.due(now)
		if x == nil {
			break
		}
		s.step(x, sa.Tick{})
		if x.place != noTimer && x.deadline.Equal(x.m.Deadline()) && !x.deadline.After(now) {
			// A machine that leaves its deadline in the past would spin.
			s.timers.set(x, now.Add(time.Second))
		}
	}
	s.e.counters.timers.Add(int64(len(s.timers) - s.counted))
	s.counted = len(s.timers)
	return n > 0
}

// arm sets the runtime timer to the next deadline.
func (s *shard) arm() {
	d := time.Hour
	if next, ok := s.timers.next(); ok {
		d = max(next.Sub(s.e.now()), 0)
	}
	s.timer.Reset(d)
}

// ask runs f in the shard and waits until it has run.
func (s *shard) ask(ctx context.Context, f func(*shard)) error {
	if s.e.started.Load() == nil {
		return ErrStopping
	}
	ran := make(chan struct{})
	s.inbox.call(func(s *shard) {
		f(s)
		close(ran)
	})
	select {
	case <-ran:
		return nil
	case <-s.done:
		return ErrStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}

// add makes the shard the owner of a new session.
func (s *shard) add(x *session) {
	x.place, x.busy = noTimer, true
	s.own(x.spi, x)
	s.byID[x.m.ID()] = x
	s.byConn.list(x, x.m.ConnName())
	if x.replaces = x.m.Replaces(); x.replaces != 0 {
		s.replaced[x.replaces] = x
	}
	s.e.counters.sessions.Add(1)
	s.e.counters.busy.Add(1)
}

// forget ends the shard's knowledge of a session that is Gone.
func (s *shard) forget(x *session) {
	x.gone = true
	s.settle(x)
	s.calm(x)
	s.timers.set(x, time.Time{})
	s.leaveContact(x)
	others := false
	for _, g := range x.grants {
		others = s.e.reg.release(g) || others
	}
	x.grants = nil
	if others {
		s.handOver(x.m.Heir(), func() {})
	}
	s.releaseLease(x)
	s.disown(x.spi)
	delete(s.byID, x.m.ID())
	s.byConn.list(x, "")
	if s.halfOpen[x.key] == x {
		delete(s.halfOpen, x.key)
	}
	for _, p := range x.spis {
		s.dropChild(x, p)
	}
	delete(s.holding, x)
	s.replaces(x, 0)
	if st := s.e.opts.Store; st != nil {
		st.Remove(x.m.ID())
	}
	s.e.counters.sessions.Add(-1)
}

// dropChild forgets where a CHILD SA lives.
func (s *shard) dropChild(x *session, p spiPair) {
	if s.children[p.in].sess == x {
		delete(s.children, p.in)
		s.outbound.remove(p)
	}
}

// replaces notes in whose place the session comes by now.
func (s *shard) replaces(x *session, id uint64) {
	if x.replaces != id {
		if s.replaced[x.replaces] == x {
			delete(s.replaced, x.replaces)
		}
		x.replaces = id
	}
}

// settle takes the session out of the half-open count.
func (s *shard) settle(x *session) {
	if x.halfOpen {
		x.halfOpen = false
		p, _ := x.key.remote.WithZone("").Prefix(int(x.prefix)) // as it was admitted
		s.e.reg.settle(p)
	}
}

// calm takes the session out of those that a stop waits for.
func (s *shard) calm(x *session) {
	if x.busy {
		x.busy = false
		s.e.settled()
	}
}

func (s *shard) terminateAll() {
	for _, x := range s.byID {
		s.step(x, sa.Terminate{})
	}
}

func (s *shard) abortAll() {
	for _, x := range s.byID {
		s.step(x, sa.Abort{Reason: "the daemon stops"})
	}
}

// newSPI draws an own SPI of the bucket that no session has.
func (s *shard) newSPI(bucket uint8) wire.SPI {
	for {
		spi := sa.NewSPI(bucket, s.e.opts.Settings.NodeID, s.e.rand)
		if s.sessions[spi] == nil {
			return spi
		}
	}
}
