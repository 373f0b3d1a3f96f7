package tune

import (
	"math"
	"testing"
	"time"
)

// priced has a price learn from rounds of a second in which CPUs are busy for shares
// of their time and do a unit of work each.
func priced(p *price, rounds int, busy ...float64) {
	for range rounds {
		var cpus []CPU
		todo := map[int]toDo{}
		for c, b := range busy {
			cpus = append(cpus, CPU{ID: c, Online: true, Busy: b})
			todo[c] = toDo{offered: 1, served: 1}
		}
		p.observe(cpus, todo, time.Second)
	}
}

// TestPriceIsKept: the CPU that says best what a unit of work costs gets other load,
// and another one goes on as before: the price stays. When all need longer for the
// same, it rises.
func TestPriceIsKept(t *testing.T) {
	t.Parallel()
	var p price
	priced(&p, 2*priceRounds, 0.3, 0.2)
	priced(&p, 3*priceRounds, 0.3, 0.6)
	if got := p.value(); got < 0.2 || got > 0.23 {
		t.Errorf("a unit costs %.3f with other load on the CPU that said 0.2", got)
	}
	priced(&p, 3*priceRounds, 0.6, 0.9)
	if got := p.value(); got < 0.29 || got > 0.4 {
		t.Errorf("a unit costs %.3f after all CPUs got slower by half; expected 0.3, or little more", got)
	}
}

// TestPriceOfLittle: a CPU with little to do says what a unit costs after some rounds;
// one on which others have nearly all of that, never.
func TestPriceOfLittle(t *testing.T) {
	t.Parallel()
	var p price
	todo := map[int]toDo{0: {offered: 1, served: 1}}
	for round := range 3 {
		if p.observe([]CPU{{Busy: 0.03}}, todo, 250*time.Millisecond); (p.value() > 0) != (round == 2) {
			t.Errorf("round %d: a unit costs %g; expected to know that with 20 ms of work", round, p.value())
		}
	}
	if want := 0.03 * 0.25; math.Abs(p.value()-want) > 1e-9 {
		t.Errorf("a unit costs %g; expected %g", p.value(), want)
	}
	for range 30 {
		p.observe([]CPU{{Busy: 0.8, Foreign: 0.799}}, todo, time.Second)
	}
	if want := 0.03 * 0.25; math.Abs(p.value()-want) > 1e-9 {
		t.Errorf("a unit costs %g, said a CPU on which others have all of the time", p.value())
	}
}

// TestPriceOfReceiver: a CPU that only receives has no time left for what stays there:
// a price is guessed, so that something moves. It counts no more once a CPU that
// receives nothing says what it is.
func TestPriceOfReceiver(t *testing.T) {
	t.Parallel()
	var p price
	todo := map[int]toDo{0: {offered: 2000, received: 1000}}
	cpus := []CPU{{Busy: 1}, {ID: 1, Busy: 0.5}}
	p.observe(cpus[:1], todo, time.Second)
	if math.Abs(p.value()-1./3000) > 1e-9 || p.sure {
		t.Errorf("a unit costs %g, sure: %v; expected a guess, of what would be if all were done", p.value(), p.sure)
	}
	todo[1] = toDo{offered: 500, served: 500}
	if p.observe(cpus, todo, time.Second); math.Abs(p.value()-0.001) > 1e-9 || !p.sure {
		t.Errorf("a unit costs %g, sure: %v; expected 0.001", p.value(), p.sure)
	}
}

// TestLoadFollowsPrice: a price that turns out to be lower lessens at once what SAs are
// taken to ask for.
func TestLoadFollowsPrice(t *testing.T) {
	t.Parallel()
	tuner := New(Limits{})
	o := Observation{Interval: time.Second, CPUs: []CPU{{Online: true, Busy: 0.9}, {ID: 1, Online: true}},
		SAs: []SA{{ID: SAID{Slot: 1}, CPU: 0, Arrives: 1, Packets: 100_000, Bytes: 50_000_000}}}
	before := tuner.Decide(o).Loads[0].SAs
	o.CPUs[0].Busy = 0.3
	if after := tuner.Decide(o).Loads[0].SAs; math.Abs(before-0.9) > 0.01 || math.Abs(after-0.3) > 0.01 {
		t.Errorf("the SA asks for %.2f, then %.2f; expected 0.90 and 0.30", before, after)
	}
}

// TestPriceOfFewPackets: the packets of an SA that has hardly any do not cost what its CPU does besides.
func TestPriceOfFewPackets(t *testing.T) {
	tuner := New(Limits{})
	for round := range 40 {
		d := tuner.Decide(Observation{At: time.Duration(round) * time.Second, Interval: time.Second,
			CPUs: []CPU{{ID: 0, Online: true, Busy: 0.9}, {ID: 1, Online: true, Busy: 0.1}},
			SAs:  []SA{{ID: SAID{1, 1}, SPI: 0x1000, CPU: NoCPU, Packets: 3, Bytes: 250}}})
		for _, p := range d.Actions {
			t.Errorf("round %d: %s: %s", round, p.Action, p.Reason.Text)
		}
	}
}
