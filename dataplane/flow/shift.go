package flow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
	"espalier/dataplane/host"
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
	// Unsure: this program got no CPU while they were dropped, for so long that the SA went
	// over by itself. Packets before that may come after those behind them.
	Unsure bool
}

// Errors of Shift.
var (
	// ErrNoMoment: the SA's packets follow each other too closely to find a moment
	// at which none of them is under way.
	ErrNoMoment = errors.New("there was no moment without one of its packets under way")
	// ErrNotDone: its packets were dropped so that its CPU would get through those
	// before them, but it did not in time.
	ErrNotDone = errors.New("its CPU did not get through the packets that it had")
	// ErrTwice: the SA is among the shifts before it.
	ErrTwice = errors.New("the SA is to be moved elsewhere at the same time")
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
	// shedBound is how long its packets are dropped for that at most: a CPU that has
	// a quarter of its time for a full queue, and takes a quarter of a millisecond for
	// a packet, gets through. One that does not keeps the SA.
	shedBound = 2 * time.Second
	// shedLease is how long the programs go on dropping by themselves.
	shedLease = 500 * time.Millisecond
	// shiftIdle is how long an SA must have been silent when the kernel's threads
	// cannot be seen.
	shiftIdle = 100 * time.Millisecond
	// shiftRecent is how long ago the last packet must have come to a CPU for nothing of
	// it to be under way there.
	shiftRecent = 10 * time.Second
	// softirqs is more packets than soft interrupts have in hand at a time: polls of
	// the card, of what was decrypted, and of the next device's take turns, 64 packets
	// each, so not more than two polls' worth waits between them.
	softirqs = 1024
	// batches is more packets than a CPU's thread has in hand at a time.
	batches = 64
)

// Shift steers SAs to other CPUs so that no packet of an SA overtakes another
// (docs/tuner.md has the argument). It blocks, for half a second at most, or two and
// a half where CPUs are overloaded; results are in the order of the shifts. One caller at
// a time.
func (f *Flow) Shift(ctx context.Context, shifts []Shift) []Shifted {
	return f.shifter.Shift(ctx, shifts)
}

// Shifter is what Flow.Shift is made of, for who has the table without a Flow.
type Shifter struct {
	tab    *table.Table
	kernel Kernel
	close  func()
}

// Kernel is what a Shifter needs of the kernel, beside the table. A simulation has
// its own.
type Kernel struct {
	// Asleep tells whether a CPU has nothing to do: none of the packets that were in
	// its queue, when queue is set, and no soft interrupt. Not known: its threads
	// cannot be seen.
	Asleep func(cpu uint32, queue bool) (is, known bool)
	// RunOn binds the calling thread to a CPU. When it returns, it runs there.
	RunOn func(cpu int) error
	// Pause has the calling thread sleep.
	Pause func(time.Duration)
	// Now is CLOCK_MONOTONIC, which the programs' times are of.
	Now func() time.Duration
	// Received counts the packets that a CPU's soft interrupts have taken up, each
	// as often as it passes through one. Not known: it cannot be read.
	Received func(cpu uint32) (n uint64, known bool)
}

// NewShifter takes the one table that writes the index, and the map of CPUs that
// goes with it; nil: there is none, and nothing is steered.
func NewShifter(tab *table.Table, cpus *ebpf.Map) *Shifter {
	t := newThreads((&maps{byID: map[string]*ebpf.Map{"cpus": cpus}}).id("cpus"))
	s := NewShifterOn(tab, Kernel{Asleep: t.asleep, RunOn: runOn, Pause: nap, Now: monotonic, Received: received})
	s.close = t.close
	return s
}

// NewShifterOn is NewShifter with another kernel.
func NewShifterOn(tab *table.Table, k Kernel) *Shifter {
	return &Shifter{tab: tab, kernel: k, close: func() {}}
}

// Close gives back what the shifter has open.
func (s *Shifter) Close() { s.close() }

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
		m := &mover{tab: s.tab, Kernel: s.kernel}
		m.run(ctx, shifts, out)
	}()
	<-done
	return out
}

// mover carries shifts out. Its thread runs on the CPU that receives an SA when it
// looks at it.
type mover struct {
	Kernel
	tab   *table.Table
	on    int           // CPU that the thread runs on, plus one
	began time.Duration // of Now, as the other times
	// turn is from when on a CPU that loses packets is waited for by those that are to
	// leave it: the end of the last one's shedding there.
	turn map[uint32]time.Duration
}

// shift is one of them under way.
type shift struct {
	slot, generation uint32
	from             uint32
	mayShed          bool
	out              *Shifted

	counts   []uint64 // of its packets, by CPU
	recent   []bool   // CPUs that they have come to of late
	visited  []uint64 // the same, when this thread ran on that CPU last
	receiver int      // the CPU to look from next
	changed  time.Duration
	seen     uint32 // packets that came since it departed, as of the last look
	said     bool   // seen was told to the programs
	asleep   bool   // its CPU was, at least once
	done     bool

	shed   time.Duration // since when; 0: not
	off    []uint32      // CPUs that are to get through meanwhile
	lease  time.Duration // until when, unless it is renewed
	before uint64        // packets counted until then
	taken  uint64        // by the old CPU's thread until then
	soft   []uint64      // by soft interrupts until then, by CPU
}

func (m *mover) run(ctx context.Context, shifts []Shift, out []Shifted) {
	m.began, m.turn = m.Now(), map[uint32]time.Duration{}
	var open []*shift
	for i, s := range shifts {
		// Where the packets of one that has departed are is not what a second departure would begin from.
		if slices.ContainsFunc(shifts[:i], func(other Shift) bool { return other.Slot == s.Slot }) {
			out[i].Err = ErrTwice
		} else if sh, err := m.begin(s); err != nil {
			out[i].Err = err
		} else if sh != nil {
			sh.out = &out[i]
			open = append(open, sh)
		}
	}
	for len(open) > 0 {
		passed := m.Now() - m.began
		for cpu := range m.tab.Sizes().CPUs {
			m.look(open, cpu)
		}
		left := open[:0]
		for _, s := range open {
			if !s.done {
				m.decide(ctx, s, passed)
			}
			if s.done {
				s.out.Waited = m.Now() - m.began
				for _, cpu := range s.off {
					m.turn[cpu] = m.Now()
				}
			} else {
				left = append(left, s)
			}
		}
		if open = left; len(open) > 0 {
			m.Pause(shiftPause)
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
	sh := &shift{slot: s.Slot, generation: s.Generation, from: sa.Cpu, mayShed: s.MayShed, counts: make([]uint64, m.tab.Sizes().CPUs), recent: make([]bool, m.tab.Sizes().CPUs), visited: make([]uint64, m.tab.Sizes().CPUs), changed: m.began}
	latest := uint64(0)
	for cpu := range sh.counts {
		c := m.tab.CountersOn(cpu, s.Slot)
		sh.counts[cpu], sh.visited[cpu] = c.Packets, c.Packets
		if c.Packets > 0 {
			sh.visited[cpu]-- // it is to be visited: something may be on its way from there
		}
		if idle, used := m.tab.Idle(c.LastUsed); c.Packets > 0 && (!used || idle < shiftRecent) {
			sh.recent[cpu] = true
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
	if err := m.goTo(cpu); err != nil {
		for _, s := range here {
			m.fail(s, err)
		}
		return
	}
	for _, s := range here {
		m.count(s)
	}
	// And then, that the CPU they went to has nothing left of them.
	asked := map[holding][2]bool{}
	for _, s := range here {
		if s.done || s.said || s.shed != 0 || s.receiver != cpu {
			continue
		}
		is, known := true, true
		for _, holder := range s.holders() {
			if !is {
				break
			}
			what := holding{holder, s.queued()}
			answer, had := asked[what]
			if !had {
				answer[0], answer[1] = m.Asleep(what.cpu, what.queue)
				asked[what] = answer
			}
			is, known = answer[0], answer[1]
		}
		if !known {
			is = m.Now()-s.changed >= shiftIdle
		}
		if is && (!known || m.confirmed(s)) {
			s.asleep, s.said = true, true
			m.fail(s, m.tab.Seen(s.slot, s.generation, s.seen))
		}
	}
}

// holding is where packets may be: with a CPU's soft interrupts, and in its queue.
type holding struct {
	cpu   uint32
	queue bool
}

// confirmed looks again from the CPUs that the SA leaves. A thread of a queue that has
// found it empty says that it sleeps, looks once more, and only then does. Between
// these its CPU may be taken from it, by a hypervisor for milliseconds. But not while
// this thread runs there: what seems to sleep then does.
func (m *mover) confirmed(s *shift) bool {
	for _, holder := range s.holders() {
		if err := m.goTo(int(holder)); err != nil {
			m.fail(s, err)
			return false
		}
		if is, known := m.Asleep(holder, s.queued()); !is || !known {
			return false
		}
	}
	return true
}

// goTo has the thread run on a CPU.
func (m *mover) goTo(cpu int) error {
	if m.on == cpu+1 {
		return nil
	}
	err := m.RunOn(cpu)
	if err == nil {
		m.on = cpu + 1
	}
	return err
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
			s.counts[cpu], s.recent[cpu], s.changed = n, true, m.Now()
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

// receivers are the CPUs that its packets have come to: one mostly, several where a card
// spreads connections whose group this is.
func (s *shift) receivers() (cpus []uint32) {
	for cpu, recent := range s.recent {
		if recent {
			cpus = append(cpus, uint32(cpu))
		}
	}
	if len(cpus) == 0 {
		cpus = append(cpus, uint32(s.receiver))
	}
	return cpus
}

// holders are the CPUs that may have packets of it in hand, queued whether some come
// there by a queue.
func (s *shift) holders() []uint32 {
	if s.from == bpf.NoCPU {
		return s.receivers()
	}
	return []uint32{s.from}
}

func (s *shift) queued() bool {
	return s.from != bpf.NoCPU && slices.ContainsFunc(s.receivers(), func(cpu uint32) bool { return cpu != s.from })
}

// decide ends what takes too long.
func (m *mover) decide(ctx context.Context, s *shift, passed time.Duration) {
	switch {
	case s.shed != 0:
		m.keepShed(s)
	case ctx.Err() != nil:
		m.giveUp(s, ctx.Err())
	case s.mayShed && m.waited(s) > s.patience() && m.visible(s):
		m.beginShed(s)
	case passed > shiftBound:
		m.giveUp(s, fmt.Errorf("%w in %v", ErrNoMoment, passed.Round(time.Millisecond)))
	}
}

// patience is how long a CPU that loses packets is waited for: longer, if it had a
// pause, in which just then another packet came.
func (s *shift) patience() time.Duration {
	if s.asleep {
		return shiftBound / 2
	}
	return shiftPatience
}

// waited is how long there was no moment for an SA since nothing was dropped for another
// one that leaves its CPU. One goes at a time: the others' packets are done while its own
// are dropped, and when it is gone, they may find a moment.
func (m *mover) waited(s *shift) time.Duration {
	since := m.began
	for _, cpu := range s.holders() {
		since = max(since, m.turn[cpu])
	}
	return m.Now() - since
}

func (m *mover) visible(s *shift) bool {
	_, known := m.Asleep(s.holders()[0], s.queued())
	return known
}

// halt keeps the SA from going over, and says whether it has.
func (m *mover) halt(s *shift) (over bool) {
	if err := m.tab.Unsee(s.slot, s.generation); err != nil {
		m.fail(s, err)
		return true
	}
	// On its receivers, what ran before has ended.
	for _, cpu := range s.receivers() {
		if err := m.goTo(int(cpu)); err != nil {
			m.fail(s, err)
			return true
		}
	}
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
	// Counted before it begins, and again when it has ended: so it is not said to be less than it was.
	s.before = m.tab.Counters(s.slot).Packets
	s.shed = m.Now()
	s.lease = s.shed + shedLease
	for _, cpu := range s.holders() {
		s.off = append(s.off, cpu)
		m.turn[cpu] = math.MaxInt64
	}
	if err := m.tab.Shed(s.slot, s.generation, s.lease); err != nil {
		m.fail(s, err)
		return
	}
	if s.queued() {
		s.taken = m.tab.TotalOn(int(s.from), bpf.TotalCPUTaken)
	}
	s.soft = make([]uint64, len(s.counts))
	for cpu := range s.soft {
		s.soft[cpu], _ = m.Received(uint32(cpu))
	}
}

// keepShed goes on dropping the SA's packets until its CPU has delivered those before
// them. The SA stays where it is when that takes too long.
func (m *mover) keepShed(s *shift) {
	// The programs end it by themselves only when this thread was away for long.
	s.out.Unsure = m.Now() >= s.lease
	switch {
	case s.out.Unsure || m.drained(s):
		m.arrive(s, false, nil)
	case m.Now()-s.shed > shedBound:
		err := m.tab.Return(s.slot, s.generation, s.from)
		m.tell(s)
		m.fail(s, errors.Join(fmt.Errorf("%w in %v; %d were dropped", ErrNotDone, (m.Now()-s.shed).Round(time.Millisecond), s.out.Shed), err))
	default:
		ends := s.lease
		s.lease = m.Now() + shedLease
		m.fail(s, m.tab.Shed(s.slot, s.generation, s.lease))
		if s.out.Unsure = m.Now() >= ends; s.out.Unsure && !s.done { // it ended before it was renewed, so packets may have gone over
			m.arrive(s, false, nil)
		}
	}
}

// tell says how many packets were dropped, as soon as no more are.
func (m *mover) tell(s *shift) {
	if s.shed != 0 {
		s.out.Shed = m.tab.Counters(s.slot).Packets - s.before
	}
}

// drained tells whether the old CPUs have delivered what they had when the shedding
// began: they have nothing to do, or have taken up more since than there can have been.
func (m *mover) drained(s *shift) bool {
	seem := !slices.ContainsFunc(s.holders(), func(cpu uint32) bool {
		is, known := m.Asleep(cpu, s.queued())
		return !is || !known
	})
	if seem && m.confirmed(s) {
		return true
	}
	if s.queued() && m.tab.TotalOn(int(s.from), bpf.TotalCPUTaken)-s.taken <= cpuQueue+batches {
		return false
	}
	for _, cpu := range s.holders() {
		if !s.recent[cpu] {
			continue // all that it has comes from its queue
		}
		if n, known := m.Received(cpu); !known || n-s.soft[cpu] <= softirqs {
			return false
		}
	}
	return true
}

// arrive ends the move in the programs' eyes, too.
func (m *mover) arrive(s *shift, back bool, err error) {
	s.done, s.out.Err = true, errors.Join(err, m.tab.Arrive(s.slot, s.generation, back))
	m.tell(s)
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

// received is what /proc/net/softnet_stat has of a CPU.
func received(cpu uint32) (n uint64, known bool) {
	stats, err := host.SoftnetStats()
	i := slices.IndexFunc(stats, func(s host.Softnet) bool { return s.CPU == int(cpu) })
	if err != nil || i < 0 {
		return 0, false
	}
	return stats[i].Processed, true
}

// monotonic is CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // each Linux has it
	return time.Duration(now.Nano())
}

// nap keeps the thread, not only the goroutine.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // woken early: looks once more
}
