package tune

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"espalier/dataplane/flow"
	"espalier/dataplane/host"
)

// Box is what the tuner looks at and changes. Methods may block and are called by
// one goroutine at a time.
type Box interface {
	// Observe counts from the call before, or from the end of Move after it; the
	// first one has no interval.
	Observe() (Observation, error)
	// Move steers SAs to other CPUs, keeping the order of each one's packets.
	// Results are in the order of the moves.
	Move(context.Context, []Move) []Moved
}

// Moved is what became of a move.
type Moved struct {
	Err  error // it was not made, and why
	Note string
}

// Paths is the fast path as the kernel's box uses it; flow.Flow is one.
type Paths interface {
	Traffic() iter.Seq[*flow.Traffic]
	SteerCPUs() []int
	Shift(context.Context, []flow.Shift) []flow.Shifted
	Taken(cpu int) uint64
	Queue() int
}

// KernelBox is the Box of the running kernel.
type KernelBox struct {
	paths Paths
	now   func() time.Time
	times func() ([]host.CPUTime, error)
	net   func() ([]host.Softnet, error)
	wires *network

	began  time.Time // of the first observation; zero: none was yet
	before counts
	sas    map[SAID]*counted
	round  int
	wait   map[int]int64 // packets that may be in each CPU's queue
	short  map[int]bool  // CPUs that lose packets for want of time
}

// counts are the CPUs' counters at one moment.
type counts struct {
	at    time.Time
	times map[int]host.CPUTime
	net   map[int]host.Softnet
	taken map[int]uint64
}

// counted is what was counted of an SA, and of the packets of the last interval.
type counted struct {
	packets, bytes []uint64 // by CPU
	round          int      // in which it was read
	arrives        int      // CPU on which packets arrived last
	handed         uint64   // packets that were given to its CPU's queue
	silent         int      // rounds in a row without packets
}

// keepSilent is for how many rounds a group of connections is shown that has none.
const keepSilent = 20

var _ Box = (*KernelBox)(nil)

// NewBox makes the box of the running kernel.
func NewBox(paths Paths) *KernelBox {
	return &KernelBox{paths: paths, now: time.Now, times: host.CPUTimes, net: host.SoftnetStats, wires: newNetwork(paths),
		sas: map[SAID]*counted{}, wait: map[int]int64{}, short: map[int]bool{}}
}

// Observe implements Box.
func (b *KernelBox) Observe() (Observation, error) {
	now, err := b.read()
	if err != nil {
		return Observation{}, err
	}
	o := Observation{}
	if !b.began.IsZero() {
		o.At, o.Interval = now.at.Sub(b.began), now.at.Sub(b.before.at)
	} else {
		b.began = now.at
	}
	steered := b.paths.SteerCPUs()
	o.SAs = make([]SA, 0, len(b.sas))
	b.round++
	for t := range b.paths.Traffic() {
		// Of the groups of connections, those that have any, or had of late: what the tuner
		// remembers of one that comes and goes is not to be forgotten each time.
		if sa, ok := b.sa(t); ok && len(steered) > 0 && (!sa.Clear || sa.CPU != NoCPU || b.sas[sa.ID].silent < keepSilent) {
			o.SAs = append(o.SAs, sa)
		}
	}
	for id, c := range b.sas {
		if c.round != b.round {
			delete(b.sas, id)
		}
	}
	if o.Interval > 0 {
		b.cpus(&o, now, steered)
	}
	b.before = *now
	b.wires.observe(&o, now.at)
	o.System.IRQBalance = b.wires.balance
	return o, nil
}

// read takes the counters of the CPUs.
func (b *KernelBox) read() (*counts, error) {
	now := &counts{at: b.now(), times: map[int]host.CPUTime{}, net: map[int]host.Softnet{}, taken: map[int]uint64{}}
	times, err := b.times()
	if err != nil {
		return nil, err
	}
	for _, t := range times {
		now.times[t.CPU], now.taken[t.CPU] = t, b.paths.Taken(t.CPU)
	}
	stats, err := b.net()
	for _, n := range stats {
		now.net[n.CPU] = n
	}
	return now, err
}

// sa takes the counters of an SA, and says what they grew by; ok is false when it
// was not there before.
func (b *KernelBox) sa(t *flow.Traffic) (sa SA, ok bool) {
	sa = SA{ID: SAID{t.Slot, t.Generation}, Clear: t.Clear, SPI: t.SPI, CPU: t.CPU, Fixed: t.Fixed}
	c, ok := b.sas[sa.ID]
	if !ok {
		c = &counted{packets: make([]uint64, len(t.Packets)), bytes: make([]uint64, len(t.Packets))}
		b.sas[sa.ID] = c
	}
	c.round, c.handed = b.round, 0
	most := uint64(0)
	for cpu := range c.packets {
		n := t.Packets[cpu] - c.packets[cpu]
		sa.Packets += n
		sa.Bytes += t.Bytes[cpu] - c.bytes[cpu]
		if n > most {
			most, c.arrives = n, cpu
		}
		if cpu != t.CPU && t.CPU != NoCPU {
			c.handed += n
		}
		c.packets[cpu], c.bytes[cpu] = t.Packets[cpu], t.Bytes[cpu]
	}
	sa.Arrives = c.arrives
	switch {
	case sa.Packets > 0:
		c.silent = 0
	case !ok:
		c.silent = keepSilent // before it was looked at
	default:
		c.silent++
	}
	return sa, ok
}

// cpus says how the CPUs spent the interval, and which packets did not get to theirs.
func (b *KernelBox) cpus(o *Observation, now *counts, steered []int) {
	handed, lost := map[int]uint64{}, map[int]uint64{}
	for i := range o.SAs {
		s := &o.SAs[i]
		handed[s.CPU] += b.sas[s.ID].handed
	}
	for _, id := range slices.Sorted(maps.Keys(now.times)) {
		t, old := now.times[id], b.before.times[id]
		// Where packets stay where they come there are no SAs to give a CPU to: all of
		// them may get what the kernel spreads.
		c := CPU{ID: id, Online: len(steered) == 0 || slices.Contains(steered, id)}
		if total := t.Total() - old.Total(); total > 0 {
			share := func(d time.Duration) float64 { return min(max(float64(d)/float64(total), 0), 1) }
			c.Busy = 1 - share(t.Idle-old.Idle)
			c.Foreign = share(t.Processes - old.Processes + t.Stolen - old.Stolen)
		}
		c.Squeezed = now.net[id].Squeezed - b.before.net[id].Squeezed
		// What was handed and not taken waits, as far as there is room, or is lost.
		left := b.wait[id] + int64(handed[id]) - int64(now.taken[id]-b.before.taken[id])
		b.wait[id] = min(max(left, 0), int64(b.paths.Queue()))
		lost[id] = uint64(max(left-b.wait[id], 0))
		c.Dropped = lost[id]
		b.short[id] = lost[id] > 0 || handed[id] == 0 && c.Squeezed > 0 && c.Busy-c.Foreign > saturated
		o.CPUs = append(o.CPUs, c)
		o.System.Dropped += now.net[id].Dropped - b.before.net[id].Dropped
		o.System.Squeezed += c.Squeezed
	}
	for i := range o.SAs {
		if s := &o.SAs[i]; lost[s.CPU] > 0 {
			s.Lost = min(lost[s.CPU]*b.sas[s.ID].handed/max(handed[s.CPU], 1), s.Packets)
		}
	}
}

// saturated is the share of its time from which on a CPU that receives packets, and
// leaves some at the card when it may take no more at a time (squeezed), has none left.
// What it loses then is lost there, where few drivers count it, and a hypervisor does not
// tell. Other programs that have the CPU meanwhile leave it time: it comes to its packets.
const saturated = 0.97

// Move implements Box.
func (b *KernelBox) Move(ctx context.Context, moves []Move) []Moved {
	shifts := make([]flow.Shift, len(moves))
	for i, m := range moves {
		from := m.From
		if c := b.sas[m.SA]; from == NoCPU && c != nil {
			from = c.arrives
		}
		shifts[i] = flow.Shift{Slot: m.SA.Slot, Generation: m.SA.Generation, To: m.To, MayShed: b.short[from]}
	}
	out := make([]Moved, len(moves))
	for i, s := range b.paths.Shift(ctx, shifts) {
		out[i].Err = s.Err
		switch {
		case s.Err != nil:
		case s.Unsure:
			out[i].Note = fmt.Sprintf("after %v, by itself, since espalierd got no CPU for long; %d packets were dropped, and some before them may have come late",
				s.Waited.Round(time.Millisecond), s.Shed)
		case s.Shed > 0:
			out[i].Note = fmt.Sprintf("after %v; %s did not get through, so %d packets were dropped until those before them were done",
				s.Waited.Round(time.Millisecond), cpuName(moves[i].From), s.Shed)
		default:
			out[i].Note = fmt.Sprintf("after %v, at a moment without one of its packets under way", s.Waited.Round(10*time.Microsecond))
		}
	}
	// What the moves themselves did to the counts is in no interval.
	if _, err := b.Observe(); err != nil {
		b.began = time.Time{}
	}
	return out
}
