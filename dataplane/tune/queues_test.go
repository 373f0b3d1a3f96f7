package tune

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"testing"
	"time"

	"espalier/bpf"
	"espalier/dataplane/flow"
	"espalier/dataplane/flow/table"
)

// queues are the packets of a model while SAs move: the real table and the real
// shifter, with CPU 0 as the receiver, which chooses as headers/inbound.h does, and
// with the CPUMAP's queue and thread of each other CPU. Time passes while the shifter
// looks and sleeps.
type queues struct {
	m        *model
	arrays   *table.Arrays
	tab      *table.Table
	shift    *flow.Shifter
	now      time.Duration
	on       uint32               // CPU that the shifter runs on
	sas      map[uint32]*queuedSA // by id
	offers   []*queuedSA          // those with packets, and sums of their rates
	sums     []float64
	due      float64 // packets that have arrived, and not been polled
	left     []queuedPacket
	received uint64  // packets that CPU 0 took up, as it came and when it was decrypted
	budget   float64 // seconds that CPU 0 may yet work on what is left
	cpus     []queueCPU

	moves, failed       int
	lost, shed, through int
	late                error // the first packet that another of its SA was delivered before
}

type queuedSA struct {
	slot, generation uint32
	entry            *bpf.IndexEntry
	work             float64 // seconds of a packet
	sent, got        uint64
}

type queuedPacket struct {
	sa     *queuedSA
	number uint64
}

// queueCPU is the CPUMAP's entry of a CPU, and its thread.
type queueCPU struct {
	queue, hand []queuedPacket
	asleep      bool
	runs        time.Duration // from when on, once it was woken
	budget      float64       // seconds that it may yet work
	speed       float64       // share of the CPU's time that it gets
}

const (
	// What the kernel has: how many packets a poll takes (NAPI_POLL_WEIGHT), how many
	// the CPUMAP's thread does (CPUMAP_BATCH), and how many packets wait for the receiver
	// in its ring (veth's).
	pollMost, batchMost, ringMost = 64, 8, 256
	queueMost                     = 2048 // flow.Flow.Queue
	// before is for how long packets come before SAs begin to move.
	queueBefore = 2 * time.Millisecond
)

func newQueues(t testing.TB, m *model) *queues {
	t.Helper()
	q := &queues{m: m, arrays: table.NewArrays(bpf.Sizes{Slots: 1 << 10, CPUs: len(m.cpus)}), now: time.Hour, sas: map[uint32]*queuedSA{}}
	q.cpus = make([]queueCPU, len(m.cpus))
	var err error
	if q.tab, err = table.New(q.arrays); err != nil {
		t.Fatal(err)
	}
	q.tab.Programs().Steer = uint32(bpf.SteerSlot)
	q.shift = flow.NewShifterOn(q.tab, flow.Kernel{
		Asleep: q.asleep,
		RunOn: func(cpu int) error {
			q.on = uint32(cpu)
			q.pass(20 * time.Microsecond)
			return nil
		},
		Pause:    func(d time.Duration) { q.pass(d) },
		Now:      func() time.Duration { return q.now },
		Received: func(cpu uint32) (uint64, bool) { return q.received, cpu == 0 },
	})
	return q
}

// sa is a model's SA, which is in the table from its first move on.
func (q *queues) sa(s *modelSA) *queuedSA {
	if sa := q.sas[s.id]; sa != nil {
		return sa
	}
	slot, err := q.tab.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), 0x1000+s.id), table.Attr{CPU: bpf.NoCPU})
	if err != nil {
		panic(err) // the table is far from full
	}
	at, ways := q.arrays.SAs[slot].Place, uint32(len(bpf.IndexBucket{}.Way))
	sa := &queuedSA{slot: slot, generation: q.arrays.SAs[slot].Generation, entry: &q.arrays.Index[at/ways].Way[at%ways]}
	q.sas[s.id] = sa
	return sa
}

// begin takes over the model's load. CPUs that do not get through have full queues.
func (q *queues) begin() {
	q.offers, q.sums = nil, nil
	sum := 0.0
	for i := range q.m.sas {
		s := &q.m.sas[i]
		sa := q.sa(s)
		to := uint32(bpf.NoCPU)
		if s.cpu != NoCPU {
			to = uint32(s.cpu)
		}
		if now, _ := q.tab.Slot(sa.slot); now.Cpu != to {
			_ = q.tab.SetCPU(sa.slot, to) // a test has put it there, or taken it back
		}
		sa.work = (s.size + packetPrice) * s.weight * q.m.price
		if s.off || s.rate == 0 {
			continue
		}
		sum += s.rate
		q.offers, q.sums = append(q.offers, sa), append(q.sums, sum)
	}
	q.left, q.due, q.budget = nil, 0, 0
	for c := range q.cpus {
		cpu := &q.cpus[c]
		*cpu = queueCPU{asleep: true, speed: 1 - q.m.cpus[c].foreign}
		if c == 0 || q.m.demand(c) <= q.m.capacity(c) {
			continue
		}
		cpu.asleep = false
		for len(cpu.queue) < queueMost {
			if sa := q.arrival(); sa.to() == uint32(c) {
				sa.sent++
				cpu.queue = append(cpu.queue, queuedPacket{sa, sa.sent})
			}
		}
	}
}

// arrival draws the SA of the next packet.
func (q *queues) arrival() *queuedSA {
	at := q.m.rng.Float64() * q.sums[len(q.sums)-1]
	return q.offers[sort.SearchFloat64s(q.sums, at)]
}

// pass lets time pass in which packets arrive, with polls at no fixed times.
func (q *queues) pass(d time.Duration) {
	for until := q.now + d; q.now < until; {
		q.poll(time.Duration(10+q.m.rng.IntN(50)) * time.Microsecond)
	}
}

// elapse lets time pass in which the receiver is in no poll.
func (q *queues) elapse(since time.Duration) {
	q.now += since
	for c := 1; c < len(q.cpus); c++ {
		q.run(c, since)
	}
	if len(q.sums) > 0 {
		q.due = min(q.due+q.sums[len(q.sums)-1]*since.Seconds(), ringMost)
	}
	q.budget = min(q.budget, 0) + since.Seconds()*q.cpus[0].speed
	for len(q.left) > 0 && q.budget > 0 {
		q.received++
		q.budget -= q.left[0].sa.work
		q.deliver(q.left[0])
		q.left = q.left[1:]
	}
}

// poll has the receiver take what has arrived since the last one. What goes to
// another CPU gets there when the poll ends, what stays is done after it.
func (q *queues) poll(since time.Duration) {
	q.elapse(since)
	var flush []func()
	// Polls of the card take turns with those of what was passed, as many packets each.
	for n := 0; q.due >= 1 && n < pollMost && q.budget > 0 && len(q.left) < pollMost; n++ {
		q.due--
		q.budget -= q.m.receive
		sa := q.arrival()
		sa.sent++
		p := queuedPacket{sa, sa.sent}
		switch to := q.choose(sa); to {
		case bpf.Shed:
			q.shed++
		case bpf.NoCPU, 0:
			q.received++
			q.left = append(q.left, p)
		default:
			q.budget -= q.m.hand
			flush = append(flush, func() { q.enqueue(int(to), p) })
		}
	}
	for _, f := range flush {
		f()
	}
}

// choose is steer and moving of headers/inbound.h.
func (q *queues) choose(s *queuedSA) uint32 {
	s.entry.Packets++
	s.entry.LastUsed = 1
	if s.to() != bpf.EntryMoving {
		if to := s.to(); to != bpf.EntryMoving+1 {
			return to
		}
		return bpf.NoCPU
	}
	sa := &q.arrays.SAs[s.slot]
	if sa.From == bpf.Shed {
		if uint64(q.now) >= sa.Seen {
			return sa.Cpu
		}
		return bpf.Shed
	}
	if sa.Passed++; uint64(sa.Passed-1) == sa.Seen {
		sa.From = sa.Cpu
	}
	return sa.From
}

// to is the CPU in the index (ENTRY_CPU of headers/layout.h).
func (s *queuedSA) to() uint32 { return s.entry.Where >> 20 & (1<<11 - 1) }

func (q *queues) enqueue(c int, p queuedPacket) {
	cpu := &q.cpus[c]
	if len(cpu.queue) >= queueMost {
		q.lost++
		return
	}
	cpu.queue = append(cpu.queue, p)
	if cpu.asleep {
		cpu.asleep, cpu.runs = false, q.now+q.m.wake
	}
}

// run has a CPU's thread work for a time that has passed.
func (q *queues) run(c int, since time.Duration) {
	cpu := &q.cpus[c]
	if cpu.asleep || q.now < cpu.runs {
		return
	}
	cpu.budget = min(cpu.budget+since.Seconds()*cpu.speed, since.Seconds()*cpu.speed)
	for cpu.budget > 0 {
		if len(cpu.hand) == 0 {
			n := min(len(cpu.queue), batchMost)
			if n == 0 {
				cpu.asleep = true
				return
			}
			cpu.hand, cpu.queue = cpu.queue[:n:n], cpu.queue[n:]
			q.arrays.Totals[c*int(bpf.Totals)+int(bpf.TotalCPUTaken)] += uint64(n)
		}
		cpu.budget -= cpu.hand[0].sa.work
		q.deliver(cpu.hand[0])
		cpu.hand = cpu.hand[1:]
	}
}

func (q *queues) deliver(p queuedPacket) {
	if p.number <= p.sa.got && q.late == nil {
		q.late = fmt.Errorf("slot %d: packet %d was delivered after packet %d", p.sa.slot, p.number, p.sa.got)
	}
	p.sa.got = max(p.sa.got, p.number)
	q.through++
}

// asleep is flow.Kernel.Asleep. The answer is of a moment before the caller has it.
func (q *queues) asleep(cpu uint32, queue bool) (is, known bool) {
	if q.m.rng.IntN(4) == 0 {
		q.pass(10 * time.Microsecond)
	}
	q.elapse(time.Duration(q.m.rng.IntN(40)) * time.Microsecond)
	if queue {
		// A thread that is about to look into its queue once more says that it sleeps,
		// and may be kept from it for long while nothing else runs on its CPU.
		is = q.cpus[cpu].asleep || q.on != cpu && q.m.rng.IntN(100) == 0
	} else {
		is = cpu != 0 || len(q.left) == 0
	}
	if q.m.rng.IntN(4) == 0 {
		q.pass(10 * time.Microsecond)
	}
	return is, true
}

// carry is Box.Move: it moves SAs while their packets come, and returns those moves
// that were made.
func (q *queues) carry(moves []Move) (made []Move) {
	if len(moves) == 0 {
		return nil
	}
	q.begin()
	q.pass(queueBefore)
	shifts := make([]flow.Shift, len(moves))
	for i, mv := range moves {
		at := &q.m.sas[q.m.index(mv.SA)]
		sa, c := q.sa(at), at.place()
		shifts[i] = flow.Shift{Slot: sa.slot, Generation: sa.generation, To: mv.To, MayShed: q.m.demand(c) > q.m.capacity(c)}
	}
	for i, r := range q.shift.Shift(context.Background(), shifts) {
		if r.Err != nil {
			q.failed++
			continue
		}
		q.moves++
		made = append(made, moves[i])
	}
	q.pass(queueBefore)
	return made
}
