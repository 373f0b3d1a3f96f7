package simulator

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// Config says what to run.
type Config struct {
	Seed  uint64
	Fault *Fault // planted; nil: none
	Trace bool   // keep a line for each thing that happens
	// Without are classes of events that the seed shall not have.
	Without Classes
}

// Result is what a run showed.
type Result struct {
	Exchanges  int            // requests that were answered
	Collisions map[string]int // kinds of exchange that met
	Features   map[string]int // what else happened, by name
	Failure    string         // what was wrong; empty: nothing
	Trace      []string
}

// Run simulates a seed. The same configuration gives the same result.
func Run(c Config) (res Result) {
	s := newSim(c)
	defer func() {
		if p := recover(); p != nil {
			if f, ok := p.(failure); ok {
				s.res.Failure = string(f)
			} else {
				s.res.Failure = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
			}
		}
		s.res.Trace = s.lines
		res = s.res
	}()
	if c.Fault == nil || !c.Fault.Churn || s.churn > 0 {
		s.run()
	}
	return s.res
}

// failure ends a run.
type failure string

// sim is one run.
type sim struct {
	profile
	topology
	extras
	seed  uint64
	fault *Fault
	begin time.Time
	now   time.Time
	rnd   *rand.Rand    // the driver's, the network's
	bytes *rand.ChaCha8 // the machines'
	queue queue
	order uint64 // of events of the same time
	gws   [2]*gateway
	nats  [2]*nat // before the gateways; nil: none
	wire  wireWatch
	cut   time.Time // until then nothing passes
	calm  bool      // the end: no loss, no crash, no operator
	// calmUntil is when the traffic of the end ends.
	calmUntil time.Time
	// lastRebind is when a NAT last forgot its mappings.
	lastRebind time.Time
	// strict: nothing has happened yet that may cost a packet.
	strict  bool
	probing bool // a rekeying is tried that must lose nothing
	cpus    int  // of both gateways; more than one: CHILD SAs of single CPUs
	tracing bool
	lines   []string
	res     Result
}

func newSim(c Config) *sim {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(c.Seed >> (8 * i))
	}
	s := &sim{
		seed: c.Seed, fault: c.Fault, tracing: c.Trace,
		begin: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		rnd:   rand.New(rand.NewPCG(c.Seed, 0x73696d)), bytes: rand.NewChaCha8(key),
		res: Result{Collisions: map[string]int{}, Features: map[string]int{}},
	}
	s.now = s.begin
	s.profile = newProfile(s.rnd)
	s.tokens = c.Seed%5 == 1 && c.Without&Tokens == 0
	s.topology = newTopology(rand.New(rand.NewPCG(c.Seed, 0x746f706f)), s.profile.nat, c.Without)
	s.cpus = 1
	if c.Seed%4 == 2 && c.Without&CPUs == 0 {
		s.cpus = 2 + int(c.Seed/4%3)
	}
	s.extras = newExtras(rand.New(rand.NewPCG(c.Seed, 0x65787472)), c.Without)
	for i := range s.nats {
		if s.topology.nat[i] {
			s.nats[i] = newNAT(i, s.forward[i])
		}
	}
	if s.churn > 0 {
		s.liveness, s.traps = true, false
	}
	s.strict = s.gentle
	s.wire.flows = map[flowKey]*flow{}
	for i := range s.gws {
		s.gws[i] = newGateway(s, i)
	}
	return s
}

// run lets the operators work, then heals the network and looks.
func (s *sim) run() {
	for _, g := range s.gws {
		g.setTraps()
	}
	s.schedule()
	s.until(func() bool { return s.operations == 0 })
	s.heal()
	end := s.now.Add(s.aftermath)
	s.calmUntil = end.Add(-time.Minute)
	if s.churn > 0 || s.seamless { // before rekeyings cover up what is wrong
		half := s.now.Add(settleTime)
		s.until(func() bool { return s.now.After(half) })
		s.settled()
	}
	s.until(func() bool { return s.now.After(end) })
	limit := s.now.Add(quietLimit)
	s.until(func() bool {
		if s.now.After(limit) {
			return true
		}
		if !s.quiet() {
			return false
		}
		if s.gws[0].established() != nil && s.gws[1].established() != nil {
			return true
		}
		s.ensure()
		return false
	})
	s.check()
}

// settleTime is how long after the last change of addresses all are known: a
// check of the peer is due every 40 s, and given up after less than 170.
const settleTime = 4 * time.Minute

// quietLimit is how long it may take at the end until nothing is under way.
const quietLimit = 20 * time.Minute

// until runs events until done; at most maxEvents of them.
func (s *sim) until(done func() bool) {
	for n := 0; !done(); n++ {
		if n > maxEvents {
			s.failf("more than %d events: something spins", maxEvents)
		}
		if !s.next() {
			return
		}
	}
}

const maxEvents = 200_000

// next lets the next thing happen: what is queued, or a deadline of a machine.
func (s *sim) next() bool {
	var at time.Time
	var who *session
	for _, g := range s.gws {
		if x, d := g.soonest(); x != nil && (who == nil || d.Before(at)) {
			who, at = x, d
		}
	}
	if len(s.queue) > 0 && (who == nil || !s.queue[0].at.After(at)) {
		e := heap.Pop(&s.queue).(entry)
		s.advance(e.at)
		e.do()
		return true
	}
	if who == nil {
		return false
	}
	s.advance(at)
	who.tick()
	return true
}

func (s *sim) advance(to time.Time) {
	if to.After(s.now) {
		s.now = to
	}
}

// after queues something.
func (s *sim) after(d time.Duration, do func()) {
	s.order++
	heap.Push(&s.queue, entry{s.now.Add(d), s.order, do})
}

// entry is what happens at a time.
type entry struct {
	at    time.Time
	order uint64
	do    func()
}

type queue []entry

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(entry)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = entry{}
	*q = old[:len(old)-1]
	return e
}

// failf ends the run with a failure.
func (s *sim) failf(format string, args ...any) {
	panic(failure(fmt.Sprintf("at %s: ", s.clock()) + fmt.Sprintf(format, args...)))
}

func (s *sim) clock() string { return fmt.Sprintf("%.3fs", s.now.Sub(s.begin).Seconds()) }

// tracef keeps a line of the trace.
func (s *sim) tracef(format string, args ...any) {
	if s.tracing {
		s.lines = append(s.lines, fmt.Sprintf("%10s  ", s.clock())+fmt.Sprintf(format, args...))
	}
}

// chance is true once in n times.
func (s *sim) chance(n int) bool { return n > 0 && s.rnd.IntN(n) == 0 }

// between draws a duration.
func (s *sim) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(s.rnd.Int64N(int64(hi-lo)))
}
