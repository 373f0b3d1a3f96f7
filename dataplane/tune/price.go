package tune

import "time"

// price learns what a unit of work costs: seconds of a CPU per byte, a packet
// counting as PacketPrice bytes more.
//
// On a CPU that did work w in a time of which at most t can have been packet
// processing, a unit costs at most t/w. Each CPU with enough work gives such a
// bound; the least one is the price, for the CPU with the least other load bounds
// it best. The bounds of the last priceRounds rounds count, so the price follows a
// clock frequency that goes down.
type price struct {
	bounds [priceRounds]float64 // 0: none
	next   int
}

const (
	priceRounds = 30
	// enoughWork is the least share of a CPU's time that packet processing can
	// have taken for a bound to be taken from it.
	enoughWork = 0.08
)

// observe takes the round's bounds. served is the work done on each CPU.
func (p *price) observe(cpus []CPU, served map[int]float64, interval time.Duration) {
	least := 0.0
	for _, c := range cpus {
		share := c.Busy - c.Foreign
		if w := served[c.ID]; w > 0 && share >= enoughWork {
			if bound := share * interval.Seconds() / w; least == 0 || bound < least {
				least = bound
			}
		}
	}
	if least > 0 {
		p.bounds[p.next] = least
		p.next = (p.next + 1) % priceRounds
	}
}

// value is the price; 0 while nothing is known.
func (p *price) value() float64 {
	least := 0.0
	for _, b := range p.bounds {
		if b > 0 && (least == 0 || b < least) {
			least = b
		}
	}
	return least
}

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

// served is the work of each kind that CPUs did.
func (t *Tuner) served(o *Observation) (out [kinds]map[int]float64) {
	for k := range out {
		out[k] = map[int]float64{}
	}
	for i := range o.SAs {
		s := &o.SAs[i]
		out[s.kind()][s.place()] += s.work(t.limits.PacketPrice) * s.delivered()
	}
	return out
}

// alone is how little of the other kind a CPU may have done for a kind's price to be
// learnt from it.
const alone = 0.1

// learn takes the round's bounds, and says what a unit of each kind comes to in this
// interval, in shares of a CPU: by the price that both have in common while a kind's
// own is not known.
func (t *Tuner) learn(o *Observation, served [kinds]map[int]float64) (units [kinds]float64) {
	all := map[int]float64{}
	for k := range served {
		pure := map[int]float64{}
		for cpu, w := range served[k] {
			all[cpu] += w
			if served[1-k][cpu] < alone*w {
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
		units[k] /= o.Interval.Seconds()
	}
	return units
}
