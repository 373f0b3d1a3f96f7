package tune

import "time"

// price learns what a unit of work costs: seconds of a CPU per byte, a packet
// counting as PacketPrice bytes more.
//
// On a CPU that did work w in a time of which at most t can have been packet
// processing, a unit costs at most t/w. Each CPU with enough work gives such a
// bound; the least one is the price, for the CPU with the least other load bounds
// it best. That CPU may get other load, and its bound become worse, while the price
// stays: so the price rises only as far as the bounds of all CPUs do, from one
// window of priceRounds rounds to the next, which is what a clock frequency that
// goes down does to them; and a little besides, lest a bound that was wrong hold for
// good. Until a CPU has given a bound that has next to no packets to receive for
// others, what receiving costs is guessed.
type price struct {
	known  float64           // 0: nothing
	sure   bool              // of a CPU that does little else
	least  map[int]float64   // by CPU, in this window
	before map[int]float64   // in the one before
	little map[int]processed // of CPUs that had too little to do for a bound yet
	round  int               // of this window
}

// toDo is what a CPU had to do: the work of its SAs, what of that was done, and what
// it had to receive and to give away, in bytes of a packet's work.
type toDo struct{ offered, served, received float64 }

// processed is how long a CPU worked, and what it did.
type processed struct{ seconds, work float64 }

const (
	priceRounds = 30
	// enoughWork is the least share of a CPU's time that packet processing can
	// have taken for a bound to be taken from it at once; enoughTime the least time,
	// in seconds, that it can have taken in several rounds: two ticks of the clock.
	enoughWork, enoughTime = 0.08, 0.02
	// aside is the part of a CPU's work that receiving may be for a bound to be sure.
	aside = 0.1
	// priceRise is what the price rises by in a window when nothing says so.
	priceRise = 1.03
)

// observe takes the round's bounds.
func (p *price) observe(cpus []CPU, todo map[int]toDo, interval time.Duration) {
	if p.least == nil {
		p.least, p.little = map[int]float64{}, map[int]processed{}
	}
	for _, c := range cpus {
		w := todo[c.ID]
		sure := w.received <= aside*w.served
		if !p.sure && !sure {
			w.served += w.received
			if w.served == w.received && c.Busy > saturated {
				w.served += w.offered // nothing is done: it would need as much at least
			}
		}
		b := p.bound(c, processed{(c.Busy - c.Foreign) * interval.Seconds(), w.served}, interval)
		if b == 0 {
			continue
		}
		if sure && !p.sure {
			*p = price{sure: true, least: map[int]float64{}, little: map[int]processed{}} // the others were guesses
		}
		if old := p.least[c.ID]; old == 0 || b < old {
			p.least[c.ID] = b
		}
		if p.known == 0 || b < p.known {
			p.known = b
		}
	}
	if p.round++; p.round == priceRounds {
		p.turn()
	}
}

// bound is what a CPU says about the price; 0: nothing, or nothing yet.
func (p *price) bound(c CPU, did processed, interval time.Duration) float64 {
	share := c.Busy - c.Foreign
	switch {
	case p.known > 0 && share <= c.Foreign: // the difference of two that are near each other says little
		return 0
	case did.work > 0 && share >= enoughWork:
		delete(p.little, c.ID)
		return did.seconds / did.work
	case did.work == 0 || share <= c.Foreign:
		delete(p.little, c.ID)
		return 0
	}
	sum := p.little[c.ID]
	sum.seconds, sum.work = sum.seconds+did.seconds, sum.work+did.work
	if p.little[c.ID] = sum; sum.seconds < enoughTime {
		return 0
	}
	delete(p.little, c.ID)
	return sum.seconds / sum.work
}

// turn begins the next window: the price rises by what the bounds of all CPUs have
// risen by.
func (p *price) turn() {
	rise, least := 0.0, 0.0
	for c, now := range p.least {
		if least == 0 || now < least {
			least = now
		}
		if was := p.before[c]; was > 0 && (rise == 0 || now/was < rise) {
			rise = now / was
		}
	}
	switch {
	case least == 0:
	case rise == 0:
		p.known = least
	default:
		p.known = min(p.known*max(rise, priceRise), least)
	}
	p.round, p.before, p.least = 0, p.least, map[int]float64{}
}

// value is the price; 0 while nothing is known.
func (p *price) value() float64 { return p.known }

// work is what an SA's packets of one observation amount to.
func (s SA) work(packetPrice float64) float64 {
	weight := s.Weight
	if weight == 0 {
		weight = 1
	}
	return (float64(s.Bytes) + packetPrice*float64(s.Packets)) * weight
}

// place is the CPU that does an SA's work.
func (s SA) place() int {
	if s.CPU == NoCPU {
		return s.Arrives
	}
	return s.CPU
}

// delivered is the part of an SA's packets that got to their CPU, 0 to 1.
func (s SA) delivered() float64 {
	if s.Packets == 0 || s.Lost >= s.Packets {
		return 0
	}
	return 1 - float64(s.Lost)/float64(s.Packets)
}

// Kinds of traffic, each with a price of its own: of clear connections some may be
// encrypted, and others only be passed on, for a fraction of that.
const (
	ofSA = iota
	ofClear
	kinds
)

func (s *SA) kind() int {
	if s.Clear {
		return ofClear
	}
	return ofSA
}

// toDo is what CPUs had to do for each kind.
func (t *Tuner) toDo(o *Observation) (out [kinds]map[int]toDo) {
	for k := range out {
		out[k] = map[int]toDo{}
	}
	for i := range o.SAs {
		s := &o.SAs[i]
		of := out[s.kind()]
		w, at := of[s.place()], s.work(t.limits.PacketPrice)
		w.offered, w.served = w.offered+at, w.served+at*s.delivered()
		of[s.place()] = w
		w = of[s.Arrives]
		w.received += receivePrice * float64(s.Packets)
		if s.place() != s.Arrives {
			w.received += handPrice * float64(s.Packets)
		}
		of[s.Arrives] = w
	}
	return out
}

// alone is how little of the other kind a CPU may have done for a kind's price to be
// learnt from it.
const alone = 0.1

// highest is what no unit costs, in seconds of a CPU: two milliseconds for a large
// packet, four times as much as on an emulated processor. Where the few packets of SAs
// stand beside much other work, the bounds say nothing.
const highest = 1e-6

// learn takes the round's bounds, and says what a unit of each kind comes to in this
// interval, in shares of a CPU: by the price that both have in common while a kind's
// own is not known.
func (t *Tuner) learn(o *Observation, todo [kinds]map[int]toDo) (units [kinds]float64) {
	all := map[int]toDo{}
	for k := range todo {
		pure := map[int]toDo{}
		for cpu, w := range todo[k] {
			sum := all[cpu]
			all[cpu] = toDo{sum.offered + w.offered, sum.served + w.served, sum.received + w.received}
			if other := todo[1-k][cpu]; other.served < alone*w.served {
				w.received += other.received
				pure[cpu] = w
			}
		}
		t.prices[k].observe(o.CPUs, pure, o.Interval)
	}
	t.price.observe(o.CPUs, all, o.Interval)
	for k := range units {
		if units[k] = t.prices[k].value(); units[k] == 0 {
			units[k] = t.price.value()
		}
		units[k] = min(units[k], highest) / o.Interval.Seconds()
	}
	return units
}
