package tune

import (
	"testing"
	"time"
)

// elastic is a box of two CPUs with four SAs of one load, which arrive on CPU 0. What
// sends is there, and sends as much as it gets time to: rates are packets per second, by
// how many SAs are done beside it, and busy is what CPU 1 is for the others then, of its
// time. Above 1 it has no room for some.
type elastic struct {
	rates, busy [5]float64
	cpu         [4]int
	moves       int
}

func (e *elastic) here() (n int) {
	for _, cpu := range e.cpu {
		if cpu != 1 {
			n++
		}
	}
	return n
}

func (e *elastic) round(t *Tuner, at time.Duration) Decision {
	const interval = 250 * time.Millisecond
	here := e.here()
	o := Observation{At: at, Interval: interval, CPUs: []CPU{{ID: 0, Online: true, Busy: 1}, {ID: 1, Online: true, Busy: min(e.busy[here], 1)}}}
	for i, cpu := range e.cpu {
		n := uint64(e.rates[here] / 4 * interval.Seconds())
		s := SA{ID: SAID{uint32(i + 1), 1}, SPI: 0x1000 + uint32(i), CPU: cpu, Packets: n, Bytes: 1400 * n}
		if cpu == 1 && e.busy[here] > 1 {
			s.Lost = uint64(float64(n) * (1 - 1/e.busy[here]))
			o.CPUs[1].Dropped += s.Lost
		}
		o.SAs = append(o.SAs, s)
	}
	d := t.Decide(o)
	for _, p := range d.Actions {
		if m, ok := p.Action.(Move); ok {
			e.cpu[m.SA.Slot-1] = m.To
			e.moves++
		}
	}
	return d
}

// As measured in the lab with BenchmarkTunerBusy, each CPU of the guest one of the
// host: the other CPU has room while one SA is left beside the sender, by what a packet
// costs it then it has none for that one, and gets half as much again done with it.
var (
	measuredRates = [5]float64{62_000, 36_000, 25_500, 22_500, 25_000}
	measuredBusy  = [5]float64{1.4, 0.85, 0.5, 0.25, 0.05}
)

// TestEager: SAs leave the CPU of a sender for as long as that has more come, and stay away.
func TestEager(t *testing.T) {
	t.Parallel()
	e := &elastic{rates: measuredRates, busy: measuredBusy, cpu: [4]int{NoCPU, NoCPU, 1, 1}}
	tuner := New(Limits{})
	for round := range 200 {
		e.round(tuner, time.Duration(round)*250*time.Millisecond)
		if here := e.here(); round >= 12 && here > 0 {
			t.Fatalf("round %d: %d SAs are beside the sender; expected none after three seconds", round, here)
		}
	}
	if e.moves != 2 {
		t.Errorf("%d moves; expected one for each SA", e.moves)
	}
}

// TestEagerUntilLessComes: one that has less come is taken back, and that is it.
func TestEagerUntilLessComes(t *testing.T) {
	t.Parallel()
	e := &elastic{rates: measuredRates, busy: measuredBusy, cpu: [4]int{NoCPU, NoCPU, 1, 1}}
	e.rates[0], e.busy[0] = 24_000, 1
	tuner := New(Limits{})
	for round := range 200 {
		e.round(tuner, time.Duration(round)*250*time.Millisecond)
		if here := e.here(); round >= 16 && here != 1 {
			t.Fatalf("round %d: %d SAs are beside the sender; expected the one with which most comes", round, here)
		}
	}
	if e.moves > 3 {
		t.Errorf("%d moves; expected two, and one back", e.moves)
	}
}

// TestNotEager: what another program has of a CPU is no reason by itself; the same comes
// whatever is done there.
func TestNotEager(t *testing.T) {
	t.Parallel()
	e := &elastic{rates: [5]float64{36_000, 36_000, 36_000, 36_000, 36_000}, busy: [5]float64{1.15, 0.86, 0.57, 0.29, 0.05}, cpu: [4]int{NoCPU, NoCPU, 1, 1}}
	tuner := New(Limits{})
	for round := range 200 {
		e.round(tuner, time.Duration(round)*250*time.Millisecond)
		if e.here() == 0 {
			t.Fatalf("round %d: nothing is done on CPU 0, and CPU 1 loses packets", round)
		}
	}
}
