package flow

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// Shift is an inbound SA that is to be steered to another CPU.
type Shift struct {
	Slot, Generation uint32
	To               int // -1: it stays where it arrives
	// MayShed: the CPU that it leaves loses packets for want of time. Then a moment
	// without one of the SA's packets under way does not come, but may be made.
	MayShed bool
}

// Shifted is what became of a Shift.
type Shifted struct {
	Err    error // it stays where it was, and why
	Waited time.Duration
	// Shed is how many of its packets were dropped while its CPU, which did not get
	// through what it had, worked off those before them.
	Shed uint64
}

// Errors of Shift.
var (
	// ErrNoMoment: the SA's packets follow each other too closely to find a moment
	// at which none of them is under way.
	ErrNoMoment = errors.New("there was no moment without one of its packets under way")
	// ErrNotSteered: the steering mode gives SAs no CPU of their own.
	ErrNotSteered = errors.New("SAs are not steered one by one: espalier.steering has another mode")
)

// Bounds of a shift's wait.
const (
	// shiftPause is the time between two looks.
	shiftPause = 100 * time.Microsecond
	// shiftPatience is how long a CPU that loses packets may be busy without a pause.
	shiftPatience = 30 * time.Millisecond
	// shiftBound is how long an SA is tried to be moved.
	shiftBound = 500 * time.Millisecond
	// shiftIdle is how long an SA must have been silent when the kernel's threads
	// cannot be seen.
	shiftIdle = 100 * time.Millisecond
	// shedSoftirq is how long soft interrupts get for what they had, where they do
	// not get through.
	shedSoftirq = 20 * time.Millisecond
	// batches is more packets than a CPU's thread has in hand at a time.
	batches = 64
)

// Shift steers SAs to other CPUs so that no packet of an SA overtakes another
// (docs/tuner.md has the argument). It blocks, for half a second at most, or one
// where CPUs are overloaded; results are in the order of the shifts. One caller at
// a time.
func (f *Flow) Shift(ctx context.Context, shifts []Shift) []Shifted {
	return f.shifter.Shift(ctx, shifts)
}

// Shifter is what Flow.Shift is made of, for who has the table without a Flow.
type Shifter struct {
	tab     *table.Table
	threads *threads
}

// NewShifter takes the one table that writes the index, and the map of CPUs that
// goes with it; nil: there is none, and nothing is steered.
func NewShifter(tab *table.Table, cpus *ebpf.Map) *Shifter {
	return &Shifter{tab, newThreads((&maps{byID: map[string]*ebpf.Map{"cpus": cpus}}).id("cpus"))}
}

// Close gives back what the shifter has open.
func (s *Shifter) Close() { s.threads.close() }

// Shift is Flow.Shift.
func (s *Shifter) Shift(ctx context.Context, shifts []Shift) []Shifted {
	out := make([]Shifted, len(shifts))
	if s.tab.Config().Steer != uint32(bpf.SteerSlot) {
		for i := range out {
			out[i].Err = ErrNotSteered
		}
		return out
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread, which is bound to a CPU, ends with the goroutine
		m := &mover{tab: s.tab, asleep: s.threads.asleep, runOn: runOn, pause: nap, now: time.Now}
		m.run(ctx, shifts, out)
	}()
	<-done
	return out
}

// mover carries shifts out. Its thread runs on the CPU that receives an SA when it
// looks at it.
type mover struct {
	tab    *table.Table
	asleep func(cpu uint32, queue bool) (is, known bool)
	runOn  func(cpu int) error
	pause  func(time.Duration)
	now    func() time.Time
	on     int // CPU that the thread runs on, plus one
	began  time.Time
}

// shift is one of them under way.
type shift struct {
	slot, generation uint32
	from             uint32
	mayShed          bool
	out              *Shifted

	counts   []uint64 // of its packets, by CPU
	visited  []uint64 // the same, when this thread ran on that CPU last
	receiver int      // the CPU to look from next
	changed  time.Time
	seen     uint32 // packets that came since it departed, as of the last look
	said     bool   // seen was told to the programs
	asleep   bool   // its CPU was, at least once
	done     bool

	shed   time.Time // since when; zero: not
	before uint64    // packets counted until then
	taken  uint64    // by the old CPU's thread until then
}

func (m *mover) run(ctx context.Context, shifts []Shift, out []Shifted) {
	m.began = m.now()
	var open []*shift
	for i, s := range shifts {
		if sh, err := m.begin(s); err != nil {
			out[i].Err = err
		} else if sh != nil {
			sh.out = &out[i]
			open = append(open, sh)
		}
	}
	for len(open) > 0 {
		passed := m.now().Sub(m.began)
		for cpu := range m.tab.Sizes().CPUs {
			m.look(open, cpu)
		}
		left := open[:0]
		for _, s := range open {
			if !s.done {
				m.decide(ctx, s, passed)
			}
			if s.done {
				s.out.Waited = m.now().Sub(m.began)
			} else {
				left = append(left, s)
			}
		}
		if open = left; len(open) > 0 {
			m.pause(shiftPause)
		}
	}
}

// begin has the SA depart; nil when it is there already.
func (m *mover) begin(s Shift) (*shift, error) {
	to := uint32(bpf.NoCPU)
	if s.To >= 0 {
		to = uint32(s.To)
	}
	sa, ok := m.tab.Slot(s.Slot)
	switch {
	case !ok || sa.Generation != s.Generation:
		return nil, fmt.Errorf("slot %d: its SA has gone", s.Slot)
	case sa.Cpu == to:
		return nil, nil
	}
	sh := &shift{slot: s.Slot, generation: s.Generation, from: sa.Cpu, mayShed: s.MayShed, counts: make([]uint64, m.tab.Sizes().CPUs), visited: make([]uint64, m.tab.Sizes().CPUs), changed: m.began}
	latest := uint64(0)
	for cpu := range sh.counts {
		c := m.tab.CountersOn(cpu, s.Slot)
		sh.counts[cpu], sh.visited[cpu] = c.Packets, c.Packets
		if c.Packets > 0 {
			sh.visited[cpu]-- // it is to be visited: something may be on its way from there
		}
		if c.LastUsed > latest {
			latest, sh.receiver = c.LastUsed, cpu
		}
	}
	return sh, m.tab.Depart(s.Slot, s.Generation, to)
}

// look looks at SAs from a CPU that receives them: while this thread runs there, no
// receive poll does, so that every packet that this CPU counted is in the queue of
// the CPU that it was given to, or has been handed to the stack.
func (m *mover) look(open []*shift, cpu int) {
	var here []*shift
	for _, s := range open {
		if !s.done && s.receiver == cpu {
			here = append(here, s)
		}
	}
	if len(here) == 0 {
		return
	}
	if m.on != cpu+1 {
		if err := m.runOn(cpu); err != nil {
			for _, s := range here {
				m.fail(s, err)
			}
			return
		}
		m.on = cpu + 1
	}
	for _, s := range here {
		m.count(s)
	}
	// And then, that the CPU they went to has nothing left of them.
	asked := map[uint32][2]bool{}
	for _, s := range here {
		if s.done || s.said || !s.shed.IsZero() || s.receiver != cpu {
			continue
		}
		answer, had := asked[s.old()]
		if !had {
			answer[0], answer[1] = m.asleep(s.old(), s.queued())
			asked[s.old()] = answer
		}
		is, known := answer[0], answer[1]
		if !known {
			is = m.now().Sub(s.changed) >= shiftIdle
		}
		if is {
			s.asleep, s.said = true, true
			m.fail(s, m.tab.Seen(s.slot, s.generation, s.seen))
		}
	}
}

// count reads an SA's counters, on the CPU that this thread runs on, and finds out
// whether it went over.
func (m *mover) count(s *shift) {
	p, err := m.tab.Place(s.slot, s.generation)
	switch {
	case err != nil:
		m.fail(s, err)
		return
	case p.Over(), s.said && p.Passed == s.seen:
		// In the second case it was told, and not one packet came since: the next one
		// goes over, whatever it finds.
		m.arrive(s, false, nil)
		return
	}
	// What passed was counted before: the counts are of no fewer packets.
	s.said, s.seen = false, p.Passed
	next := -1
	for cpu := range s.counts {
		n := m.tab.CountersOn(cpu, s.slot).Packets
		if n != s.counts[cpu] {
			s.counts[cpu], s.changed = n, m.now()
		}
		if cpu == s.receiver {
			s.visited[cpu] = n
		} else if n != s.visited[cpu] {
			next = cpu
		}
	}
	if next >= 0 { // that CPU may be in a poll, with packets that are in no queue yet
		s.receiver = next
	}
}

// old is the CPU that the SA leaves, queued whether its packets wait in a queue there.
func (s *shift) old() uint32 {
	if s.from == bpf.NoCPU {
		return uint32(s.receiver)
	}
	return s.from
}

func (s *shift) queued() bool { return s.from != bpf.NoCPU && s.from != uint32(s.receiver) }

// decide ends what takes too long.
func (m *mover) decide(ctx context.Context, s *shift, passed time.Duration) {
	switch {
	case !s.shed.IsZero():
		if m.drained(s) {
			s.out.Shed = m.tab.CountersOn(s.receiver, s.slot).Packets - s.before
			m.arrive(s, false, nil)
		}
	case ctx.Err() != nil:
		m.giveUp(s, ctx.Err())
	case s.mayShed && passed > shiftPatience && !s.asleep && m.visible(s):
		m.beginShed(s)
	case passed > shiftBound:
		m.giveUp(s, fmt.Errorf("%w in %v", ErrNoMoment, passed.Round(time.Millisecond)))
	}
}

func (m *mover) visible(s *shift) bool {
	_, known := m.asleep(s.old(), s.queued())
	return known
}

// halt keeps the SA from going over, and says whether it has.
func (m *mover) halt(s *shift) (over bool) {
	if err := m.tab.Unsee(s.slot, s.generation); err != nil {
		m.fail(s, err)
		return true
	}
	// On its receiver, what ran before has ended.
	if err := m.runOn(s.receiver); err != nil {
		m.fail(s, err)
		return true
	}
	m.on = s.receiver + 1
	if p, err := m.tab.Place(s.slot, s.generation); err != nil || p.Over() {
		m.arrive(s, false, err)
		return true
	}
	return false
}

func (m *mover) giveUp(s *shift, why error) {
	if !m.halt(s) {
		m.arrive(s, true, why)
	}
}

// beginShed drops the SA's packets. Its CPU has more than it can do, and loses
// packets: those of other SAs have the room now that these would have had, so no
// more are lost in all.
func (m *mover) beginShed(s *shift) {
	if m.halt(s) {
		return
	}
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	if err == nil {
		err = m.tab.Shed(s.slot, s.generation, time.Duration(now.Nano())+shiftBound)
	}
	if err != nil {
		m.fail(s, err)
		return
	}
	s.shed = m.now()
	s.before = m.tab.CountersOn(s.receiver, s.slot).Packets
	s.taken = m.tab.TotalOn(int(s.old()), bpf.TotalCPUTaken)
}

// drained tells whether the old CPU has delivered what it had when the shedding began.
func (m *mover) drained(s *shift) bool {
	passed := m.now().Sub(s.shed)
	if is, known := m.asleep(s.old(), s.queued()); known && is {
		return true
	}
	if !s.queued() {
		return passed > shedSoftirq
	}
	return m.tab.TotalOn(int(s.old()), bpf.TotalCPUTaken)-s.taken > cpuQueue+batches || passed > shiftBound
}

// arrive ends the move in the programs' eyes, too.
func (m *mover) arrive(s *shift, back bool, err error) {
	s.done, s.out.Err = true, errors.Join(err, m.tab.Arrive(s.slot, s.generation, back))
}

// fail ends a shift on an error, if it is one.
func (m *mover) fail(s *shift, err error) {
	if err != nil {
		s.done, s.out.Err = true, err
	}
}

// runOn binds the calling thread to a CPU. When it returns, it runs there.
func runOn(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPU %d, which receives the SA's packets: %w", cpu, err)
	}
	return nil
}

// nap keeps the thread, not only the goroutine.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // woken early: looks once more
}
