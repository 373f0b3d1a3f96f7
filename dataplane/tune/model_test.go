package tune

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// model is a gateway as the tuner sees one: a NIC with one queue on CPU 0, SAs
// that offer work, CPUs that do it as far as they can. Prices are in seconds of a CPU.
type model struct {
	rng     *rand.Rand
	cpus    []modelCPU
	sas     []modelSA
	receive float64 // per packet, on CPU 0, whatever happens to it afterwards
	hand    float64 // per packet that is given to another CPU, on CPU 0
	price   float64 // per unit of work
	noise   float64 // relative error of what is measured
	at      time.Duration
	wake    time.Duration // until a CPU's thread runs that was asleep
	moved   int           // moves carried out
	queues  *queues       // carries moves out while packets come; nil: moves take no time
}

type modelCPU struct {
	foreign float64 // share of its time that others take
	seen    float64 // part of foreign that the observation can tell for sure
	gone    bool
}

type modelSA struct {
	id     uint32
	cpu    int
	rate   float64 // packets per second
	size   float64 // bytes
	weight float64
	off    bool
	// canSplit: SAs of single CPUs may stand beside it. senders are the shares of the
	// peer's CPUs in what it sends; each part takes the next one's. group and bound as
	// in SA.
	canSplit, bound bool
	senders         []float64
	// limited: what the SA has is what one of the peer's CPUs can send; each part adds as much.
	limited bool
	group   uint32
}

func (s *modelSA) work() float64 {
	if s.off {
		return 0
	}
	return s.rate * (s.size + packetPrice) * s.weight
}

func (s *modelSA) place() int {
	if s.cpu == NoCPU {
		return 0
	}
	return s.cpu
}

// capacity is the share of a CPU that is left for SAs, with the assignment as it
// is.
func (m *model) capacity(c int) float64 {
	left := 1 - m.cpus[c].foreign
	if c == 0 {
		for _, s := range m.sas {
			if s.off {
				continue
			}
			left -= s.rate * m.receive
			if s.place() != 0 {
				left -= s.rate * m.hand
			}
		}
	}
	if m.cpus[c].gone {
		return 0
	}
	return max(left, 0)
}

// demand is what the SAs on a CPU ask for.
func (m *model) demand(c int) float64 {
	sum := 0.0
	for i := range m.sas {
		if m.sas[i].place() == c {
			sum += m.sas[i].work() * m.price
		}
	}
	return sum
}

// served is the work that gets done, in shares of CPUs.
func (m *model) served() float64 {
	sum := 0.0
	for c := range m.cpus {
		sum += min(m.demand(c), m.capacity(c))
	}
	return sum
}

// few tells whether all assignments can be tried.
func (m *model) few() bool { return math.Pow(float64(len(m.cpus)), float64(len(m.sas))) < 70000 }

// best is the most that any assignment gets done: by trying all of them where
// they are few, else what all CPUs together could do.
func (m *model) best() float64 {
	n, k := len(m.sas), len(m.cpus)
	if !m.few() {
		return m.bound()
	}
	at := make([]int, n)
	for i := range m.sas {
		at[i] = m.sas[i].cpu
	}
	defer func() {
		for i := range m.sas {
			m.sas[i].cpu = at[i]
		}
	}()
	best := 0.0
	for code := range int(math.Pow(float64(k), float64(n))) {
		for i := range m.sas {
			m.sas[i].cpu, code = code%k, code/k
		}
		best = max(best, m.served())
	}
	return best
}

// bound is what all CPUs together could do of all that comes.
func (m *model) bound() float64 {
	sum, room := 0.0, 0.0
	for i := range m.sas {
		sum += m.sas[i].work() * m.price
	}
	for c := range m.cpus {
		room += m.capacity(c)
	}
	return min(sum, room)
}

// observe lets an interval pass.
func (m *model) observe(interval time.Duration) Observation {
	m.at += interval
	o := Observation{At: m.at, Interval: interval}
	jitter := func(x float64) float64 { return x * (1 + m.noise*(2*m.rng.Float64()-1)) }
	part := make([]float64, len(m.cpus))
	for c := range m.cpus {
		demand, room := m.demand(c), m.capacity(c)
		part[c] = 1
		if demand > room {
			part[c] = room / demand
		}
		busy := 1 - room + min(demand, room)
		cpu := CPU{ID: c, Online: !m.cpus[c].gone}
		if cpu.Online {
			cpu.Busy, cpu.Foreign = min(jitter(busy), 1), jitter(m.cpus[c].seen)
		}
		o.CPUs = append(o.CPUs, cpu)
	}
	for i := range m.sas {
		s := &m.sas[i]
		obs := SA{ID: SAID{Slot: s.id, Generation: 1}, SPI: 0x1000 + s.id, CPU: s.cpu, Weight: s.weight, CanSplit: s.canSplit, Group: s.group, Fixed: s.bound}
		if !s.off {
			obs.Packets = uint64(s.rate * interval.Seconds())
			obs.Bytes = uint64(jitter(float64(obs.Packets) * s.size))
			obs.Lost = uint64(float64(obs.Packets) * (1 - part[s.place()]))
		}
		o.SAs = append(o.SAs, obs)
	}
	return o
}

// perform carries a decision out.
func (m *model) perform(d Decision) {
	var moves []Move
	for _, p := range d.Actions {
		switch a := p.Action.(type) {
		case Move:
			moves = append(moves, a)
		case Split:
			m.split(a)
		case Join:
			m.sas = slices.DeleteFunc(m.sas, func(s modelSA) bool { return s.id == a.SA.Slot })
		}
	}
	if m.queues != nil {
		moves = m.queues.carry(moves)
	}
	for _, mv := range moves {
		if i := m.index(mv.SA); i >= 0 {
			m.sas[i].cpu = mv.To
			m.moved++
		}
	}
}

// index is that of an SA; -1: there is none.
func (m *model) index(id SAID) int {
	return slices.IndexFunc(m.sas, func(s modelSA) bool { return s.id == id.Slot })
}

// split makes a part, if the peer does, with what the next of the peer's CPUs sends.
func (m *model) split(a Split) {
	s := &m.sas[m.index(a.SA)]
	if s.senders == nil {
		return
	}
	part := *s
	part.id, part.cpu, part.bound, part.canSplit, part.rate = uint32(len(m.sas)+1), a.CPU, true, false, 0
	switch {
	case s.limited:
		part.rate = s.rate
	case len(s.senders) > 0:
		rest := 0.0
		for _, share := range s.senders {
			rest += share
		}
		part.rate = s.rate * s.senders[0] / rest
		s.rate, s.senders = s.rate-part.rate, s.senders[1:]
	}
	m.sas = append(m.sas, part)
}

// What packets cost, and how long a thread takes to wake up, as BenchmarkModel of
// tools/lab/fastpath measured it in User-Mode Linux 7.3.4 on 30 November 2026, on a
// virtual machine (Intel Xeon, 2 CPUs) on which others were at work:
//
//	bin/lab test --uml linux-7.3.4-um.xz --run XXX ./tools/lab/fastpath -- -test.bench BenchmarkModel -test.benchtime 1x -test.v
//
// In seven runs, two of them with the least of ten shorter measurements, microseconds:
//
//	packet of 1400 octets, on the CPU that gets it   11.1 11.4 16 22.7 22.9 23 25.1
//	packet of 200 octets                             2.9 4 5.1 6 6.4 16.7 18
//	given away, on CPU 0, 1400 octets                0 3.3 3.6 6 6.2 10.9 11.5
//	given away, on CPU 0, 200 octets                 -0.7 1.2 6 7.5 7.6 8 14.8
//	wake-up                                          49 160 162 189 267 269 489
//
// Others can only add to what a packet costs, or to what is taken off it: each model
// draws from the least that makes sense to the median. Of the same run, a packet of 200
// costs 0.38 of one of 1400 (median), as if a packet cost 520 bytes before its first
// one: 500 is what the tuner takes (Limits.PacketPrice). How much of what the receiver
// does with a packet that it gives away it would do with each is not measured: half.
const (
	leastPacket, medianPacket = 11.1e-6, 22.7e-6 // seconds, 1400 octets
	leastGiven, medianGiven   = 1.2e-6, 6.1e-6
	leastWake, medianWake     = 49e-6, 189e-6
	packetPrice               = 500
)

// randomModel draws a gateway whose load can be carried, or nearly.
func randomModel(seed uint64) *model {
	rng := rand.New(rand.NewPCG(seed, 7))
	between := func(low, high float64) float64 { return low + (high-low)*rng.Float64() }
	m := &model{rng: rng, noise: 0.02}
	m.price = between(leastPacket, medianPacket) / (1400 + packetPrice)
	given := between(leastGiven, medianGiven)
	m.receive, m.hand = given/2, given/2
	m.wake = time.Duration(between(leastWake, medianWake) * float64(time.Second))
	for range 2 + rng.IntN(3) {
		m.cpus = append(m.cpus, modelCPU{})
	}
	return m
}

// add gives the model an SA that asks for a share of a CPU.
func (m *model) add(share float64) *modelSA {
	size := []float64{1400, 1400, 600, 120}[m.rng.IntN(4)]
	weight := []float64{1, 1, 1, 2.5}[m.rng.IntN(4)]
	s := modelSA{id: uint32(len(m.sas) + 1), size: size, weight: weight, cpu: NoCPU}
	s.rate = share / m.price / weight / (size + packetPrice)
	m.sas = append(m.sas, s)
	return &m.sas[len(m.sas)-1]
}
