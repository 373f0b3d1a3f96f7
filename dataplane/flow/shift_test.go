package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// twoCPUs is a receiver, CPU 0, with the real esp_in, and the thread of CPU 1's
// queue, in a time of their own. What esp_in passes is delivered by the receiver,
// what it redirects waits in the queue of the other; both are in no hurry.
type twoCPUs struct {
	t    *testing.T
	rng  *rand.Rand
	prog *ebpf.Program
	maps map[string]*ebpf.Map
	tab  *table.Table
	now  time.Duration // ahead of the time that the program goes by: when shedding ends is decided here

	slots []uint32
	next  []uint64 // sequence numbers
	last  []uint64 // delivered
	shed  []int
	turns []int // SAs that packets were dropped of, each as often as it came to it

	left  []item // passed, and left over by the receiver: soft interrupts that wait for ksoftirqd
	queue []item // of CPU 1
	hand  []item // taken by its thread
	taken uint64

	on int // CPU that the mover runs on

	received uint64 // by the receiver's soft interrupts, that were done

	size     int // of polls, at most
	work     int // what CPU 1 does while the receiver receives one packet, at most
	slow     int // of its chances to do something it takes one in so many; 0: each
	overflow int
}

type item struct {
	sa  int
	seq uint64
}

const simSPI = 0x2000

func newTwoCPUs(t *testing.T, seed uint64, sas int) *twoCPUs {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	must(t, err)
	if cpus < 2 {
		t.Skip("needs two CPUs")
	}
	spec, err := bpf.XDP(bpf.Sizes{Slots: 64, CPUs: cpus})
	must(t, err)
	c, err := ebpf.NewCollection(spec)
	must(t, err)
	t.Cleanup(c.Close)
	s := &twoCPUs{t: t, rng: rand.New(rand.NewPCG(seed, 0)), prog: c.Programs["esp_in"], maps: c.Maps, now: monotonic() + time.Hour, size: 8, work: 4,
		next: make([]uint64, sas), last: make([]uint64, sas), shed: make([]int, sas)}
	s.tab, err = table.Open((&maps{byID: c.Maps}).table())
	must(t, err)
	t.Cleanup(func() { must(t, s.tab.Close()) })
	must(t, c.Maps["cpus"].Put(uint32(1), bpf.CPUMapValue{Queue: 64}))
	s.tab.Programs().Steer = uint32(bpf.SteerSlot)
	for i := range sas {
		slot, err := s.tab.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), uint32(simSPI+i)), table.Attr{CPU: bpf.NoCPU})
		must(t, err)
		s.slots = append(s.slots, slot)
	}
	return s
}

// espFor is a packet of an SA.
func espFor(i int) []byte {
	p := make([]byte, 64)
	binary.BigEndian.PutUint16(p[12:], 0x0800)
	ip := p[14:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 50, 64, 50
	copy(ip[12:], []byte{198, 51, 100, 7, 192, 0, 2, 1})
	binary.BigEndian.PutUint32(ip[20:], uint32(simSPI+i))
	return p
}

// poll is one of the receiver's: nothing else runs on its CPU meanwhile. The other
// one's thread goes on.
func (s *twoCPUs) poll() {
	var flush, passed []item
	for range 1 + s.rng.IntN(s.size) {
		i := s.rng.IntN(len(s.slots))
		action, _, err := s.prog.Test(espFor(i))
		must(s.t, err)
		s.next[i]++
		it := item{i, s.next[i]}
		switch action {
		case 2:
			passed = append(passed, it)
		case 4:
			flush = append(flush, it)
		case 1:
			s.shed[i]++
			if len(s.turns) == 0 || s.turns[len(s.turns)-1] != i {
				s.turns = append(s.turns, i)
			}
		default:
			s.t.Fatalf("action %d", action)
		}
		s.other()
	}
	for _, it := range flush {
		if len(s.queue) >= cpuQueue {
			s.overflow++
			continue
		}
		s.queue = append(s.queue, it)
	}
	for _, it := range passed {
		s.received++
		s.other()
		if len(s.left) > 0 || s.rng.IntN(20) == 0 {
			s.left = append(s.left, it)
		} else {
			s.deliver(it)
		}
	}
}

// other lets CPU 1's thread do something: take a batch, when it has none in hand,
// or deliver a packet.
func (s *twoCPUs) other() {
	if s.slow > 0 && s.rng.IntN(s.slow) > 0 {
		return
	}
	for range s.rng.IntN(s.work + 1) {
		if len(s.hand) == 0 {
			n := min(len(s.queue), 8)
			s.hand, s.queue = append(s.hand, s.queue[:n]...), s.queue[n:]
			if n > 0 {
				s.taken += uint64(n)
				must(s.t, s.maps["totals"].Put(uint32(bpf.Totals)+uint32(bpf.TotalCPUTaken), s.taken))
			}
			continue
		}
		s.deliver(s.hand[0])
		s.hand = s.hand[1:]
	}
}

func (s *twoCPUs) deliver(it item) {
	if it.seq <= s.last[it.sa] {
		s.t.Fatalf("SA %d: packet %d delivered after %d", it.sa, it.seq, s.last[it.sa])
	}
	s.last[it.sa] = it.seq
}

// pass lets time pass: the mover's thread is not running, or was interrupted.
func (s *twoCPUs) pass(most int) {
	for range s.rng.IntN(most + 1) {
		s.now += 50 * time.Microsecond
		if s.rng.IntN(3) == 0 {
			for len(s.left) > 0 && s.rng.IntN(20) > 0 {
				s.deliver(s.left[0])
				s.left = s.left[1:]
			}
		} else {
			s.poll()
		}
	}
	s.other()
}

func (s *twoCPUs) asleep(cpu uint32, queue bool) (is, known bool) {
	s.pass(1)
	switch {
	case cpu == 0 && !queue:
		is = len(s.left) == 0
	case cpu == 1 && queue:
		// Seen from another CPU, one that is about to look into its queue once more sleeps.
		is = len(s.queue) == 0 && len(s.hand) == 0 || s.on != 1 && len(s.hand) == 0 && s.rng.IntN(20) == 0
	default:
		s.t.Fatalf("asked about CPU %d, queue %v", cpu, queue)
	}
	s.other()
	return is, true
}

// move moves SAs and says what became of it.
func (s *twoCPUs) move(to int, mayShed bool, sas ...int) []Shifted {
	var shifts []Shift
	for _, i := range sas {
		sa, _ := s.tab.Slot(s.slots[i])
		shifts = append(shifts, Shift{Slot: s.slots[i], Generation: sa.Generation, To: to, MayShed: mayShed})
	}
	m := &mover{tab: s.tab, Kernel: Kernel{Asleep: s.asleep, RunOn: func(cpu int) error { s.on = cpu; s.pass(1); return nil }, Now: func() time.Duration { return s.now },
		Pause: func(d time.Duration) { s.now += d; s.pass(2) }, Received: func(uint32) (uint64, bool) { return s.received, true }}}
	out := make([]Shifted, len(shifts))
	before := slices.Clone(s.shed)
	m.run(s.t.Context(), shifts, out)
	for i := range out {
		if n := s.shed[sas[i]] - before[sas[i]]; uint64(n) > out[i].Shed {
			s.t.Errorf("a move to %d dropped %d packets, and says %d", to, n, out[i].Shed)
		}
		sa, _ := s.tab.Slot(shifts[i].Slot)
		at := -1
		if sa.Cpu != bpf.NoCPU {
			at = int(sa.Cpu)
		}
		if p, err := s.tab.Place(shifts[i].Slot, shifts[i].Generation); err != nil || (out[i].Err == nil) != (at == to) {
			s.t.Errorf("after a move to %d (%v): at %d, place %+v, %v", to, out[i].Err, at, p, err)
		}
	}
	return out
}

// onFirstCPU keeps the test on CPU 0.
func onFirstCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	must(t, runOn(0))
}

// TestShiftKeepsOrder: SAs that go to and fro while packets come, as they can be
// with two CPUs that are in no step with each other: not one packet is lost, or
// delivered after a later one of its SA.
func TestShiftKeepsOrder(t *testing.T) {
	needKernel(t)
	onFirstCPU(t)
	for seed := range uint64(3) {
		s := newTwoCPUs(t, seed, 6)
		moved := 0
		for range 40 {
			first := s.rng.IntN(6)
			for _, r := range s.move([]int{1, -1}[s.rng.IntN(2)], false, first, (first+1)%6) {
				if r.Err == nil {
					moved++
				} else if !errors.Is(r.Err, ErrNoMoment) {
					t.Errorf("%v", r.Err)
				}
			}
			s.pass(20)
		}
		if moved < 70 || s.overflow > 0 {
			t.Errorf("seed %d: %d moves, %d packets lost; expected at least 70, and none", seed, moved, s.overflow)
		}
		for i := range s.shed {
			if s.shed[i] > 0 {
				t.Errorf("seed %d: %d packets shed that nobody allowed", seed, s.shed[i])
			}
		}
	}
}

// TestShiftOffAnOverloadedCPU: a queue that never gets empty. Without leave to shed
// the SA stays; with it, it moves, in order.
func TestShiftOffAnOverloadedCPU(t *testing.T) {
	needKernel(t)
	onFirstCPU(t)
	s := newTwoCPUs(t, 1, 4)
	for i := range s.slots {
		if r := s.move(1, false, i)[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	s.work, s.size = 0, 64
	for s.overflow == 0 {
		s.poll()
	}
	s.work = 1 // half of what comes
	if r := s.move(-1, false, 0)[0]; !errors.Is(r.Err, ErrNoMoment) || s.shed[0] > 0 {
		t.Errorf("without leave: %+v, %d shed; expected that there is no moment", r, s.shed[0])
	}
	r := s.move(-1, true, 0)[0]
	if r.Err != nil || r.Shed == 0 || s.shed[0] == 0 || r.Shed > uint64(s.shed[0]) {
		t.Errorf("with leave: %+v, %d shed", r, s.shed[0])
	}
	before := s.shed[0]
	s.pass(50)
	if s.shed[0] != before {
		t.Error("shedding goes on")
	}
	// Of several, one at a time is dropped: while all were, the CPU would only get through
	// what it has, and more be lost than without any move.
	s.turns = nil
	for i, r := range s.move(-1, true, 1, 2, 3) {
		if r.Err != nil {
			t.Errorf("SA %d of three: %v", i, r.Err)
		}
	}
	if seen := slices.Compact(slices.Sorted(slices.Values(s.turns))); len(s.turns) != len(seen) || len(seen) < 2 {
		t.Errorf("of three SAs, packets were dropped by turns, %v; expected of one after the other", s.turns)
	}
}

// TestShiftSaysWhatItSheds: also when the moment that was found just before it began
// to shed was one.
func TestShiftSaysWhatItSheds(t *testing.T) {
	needKernel(t)
	onFirstCPU(t)
	s := newTwoCPUs(t, 1, 1)
	sa, _ := s.tab.Slot(s.slots[0])
	must(t, s.tab.SetCPU(s.slots[0], 1))
	shed := uint64(0)
	packet := func() {
		action, _, err := s.prog.Test(espFor(0))
		must(t, err)
		if action == 1 {
			shed++
		}
	}
	packet() // it has a CPU that receives it
	began := s.now
	early, late := 5*time.Millisecond, shiftBound/2
	m := &mover{tab: s.tab, Kernel: Kernel{
		Asleep: func(uint32, bool) (is, known bool) {
			past := s.now - began
			if past < early {
				packet() // which was not counted before: no moment
			}
			return past < early || past > late, true
		},
		RunOn:    func(int) error { return nil },
		Now:      func() time.Duration { return s.now },
		Pause:    func(time.Duration) { s.now += time.Millisecond; packet() },
		Received: func(uint32) (uint64, bool) { return 0, true },
	}}
	out := make([]Shifted, 1)
	m.run(t.Context(), []Shift{{Slot: s.slots[0], Generation: sa.Generation, To: -1, MayShed: true}}, out)
	if out[0].Err != nil || shed == 0 || out[0].Shed != shed {
		t.Errorf("%+v, %d packets dropped; expected that it says so", out[0], shed)
	}
}

// TestShiftThatLapsed: the mover gets no CPU while packets are dropped; then the programs
// end that by themselves, and it says that the order is not certain.
func TestShiftThatLapsed(t *testing.T) {
	needKernel(t)
	onFirstCPU(t)
	for _, away := range []time.Duration{shedLease / 2, shedLease} {
		s := newTwoCPUs(t, 1, 1)
		sa, _ := s.tab.Slot(s.slots[0])
		must(t, s.tab.SetCPU(s.slots[0], 1))
		began := s.now
		m := &mover{tab: s.tab, Kernel: Kernel{
			Asleep: func(uint32, bool) (is, known bool) { return s.now-began > time.Second, true },
			RunOn:  func(int) error { return nil },
			Now:    func() time.Duration { return s.now },
			Pause: func(time.Duration) {
				if s.now += time.Millisecond; s.shed[0] > 10 && s.now-began < time.Second {
					s.now += away
				}
				if action, _, err := s.prog.Test(espFor(0)); err != nil {
					t.Fatal(err)
				} else if action == 1 {
					s.shed[0]++
				}
			},
			Received: func(uint32) (uint64, bool) { return 0, true },
		}}
		out := make([]Shifted, 1)
		m.run(t.Context(), []Shift{{Slot: s.slots[0], Generation: sa.Generation, To: -1, MayShed: true}}, out)
		if out[0].Err != nil || out[0].Shed == 0 || out[0].Unsure != (away >= shedLease) {
			t.Errorf("away for %v: %+v, %d shed", away, out[0], s.shed[0])
		}
	}
}

// TestShiftOffASlowCPU: one that takes seconds for a full queue. The SA waits for
// that, and stays where it would have to wait too long; either way in order.
func TestShiftOffASlowCPU(t *testing.T) {
	needKernel(t)
	onFirstCPU(t)
	for _, c := range []struct {
		name string
		slow int
		err  error
	}{
		{"more than half a second", 5, nil},
		{"more than two seconds", 20, ErrNotDone},
	} {
		s := newTwoCPUs(t, 1, 4)
		for i := range s.slots {
			if r := s.move(1, false, i)[0]; r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		s.work, s.size = 0, 64
		for s.overflow == 0 {
			s.poll()
		}
		s.work, s.size, s.slow = 1, 1, c.slow
		r := s.move(-1, true, 0)[0]
		if !errors.Is(r.Err, c.err) || r.Waited < shiftBound+shiftPatience || r.Shed == 0 || r.Shed != uint64(s.shed[0]) {
			t.Errorf("%s: %+v, %d shed; expected %v", c.name, r, s.shed[0], c.err)
		}
		before := s.shed[0]
		s.slow = 0
		s.pass(2000)
		if s.shed[0] != before {
			t.Errorf("%s: shedding goes on", c.name)
		}
	}
}

// TestThreads: states as the kernel tells them.
func TestThreads(t *testing.T) {
	proc := t.TempDir()
	thread := func(pid int, name, state string) {
		dir := filepath.Join(proc, fmt.Sprint(pid))
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "comm"), []byte(name+"\n"), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "stat"), []byte(fmt.Sprintf("%d (%s) %s 2 0 0", pid, name, state)), 0o644))
	}
	th := newThreads(7)
	th.proc = proc
	defer th.close()
	check := func(what string, cpu uint32, queue, want, wantKnown bool) {
		t.Helper()
		if is, known := th.asleep(cpu, queue); is != want || known != wantKnown {
			t.Errorf("%s: asleep %v, known %v; expected %v, %v", what, is, known, want, wantKnown)
		}
	}
	check("no threads", 0, false, false, false)
	thread(10, "ksoftirqd/0", "S")
	thread(11, "ksoftirqd/1", "S")
	thread(12, "cpumap/1/map:7", "S")
	thread(13, "cpumap/1/map:8", "R") // of another map
	check("only soft interrupts", 0, false, true, true)
	check("no queue", 0, true, false, false)
	check("both", 1, true, true, true)
	thread(12, "cpumap/1/map:7", "R")
	check("at work", 1, true, false, true)
	thread(12, "cpumap/1/map:7", "S")
	thread(11, "ksoftirqd/1", "R")
	check("soft interrupts are left", 1, true, false, true)
	must(t, os.RemoveAll(filepath.Join(proc, "12")))
	thread(11, "ksoftirqd/1", "S")
	check("an open file of a thread that has gone", 1, true, true, true) // ends with the process in a real /proc
}

// TestThreadsOfTheKernel: the names are what this kernel gives them.
func TestThreadsOfTheKernel(t *testing.T) {
	needKernel(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.CPUMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer m.Close()
	must(t, m.Put(uint32(0), uint32(64)))
	th := newThreads((&maps{byID: map[string]*ebpf.Map{"cpus": m}}).id("cpus"))
	defer th.close()
	if _, known := th.asleep(0, false); !known {
		t.Skip("this process does not see the kernel's threads")
	}
	eventually(t, "a thread without packets sleeps", func() bool {
		is, known := th.asleep(0, true)
		if !known {
			t.Fatal("no thread of the CPUMAP")
		}
		return is
	})
	must(t, m.Delete(uint32(0)))
	eventually(t, "no thread without an entry", func() bool { _, known := th.asleep(0, true); return !known })
}
