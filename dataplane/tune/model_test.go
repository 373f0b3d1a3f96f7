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
	group           uint32
}

// packetPrice is what a packet costs before its first byte, in bytes, as the tuner takes it.
const packetPrice = 500

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
	if len(s.senders) > 0 {
		rest := 0.0
		for _, share := range s.senders {
			rest += share
		}
		part.rate = s.rate * s.senders[0] / rest
		s.rate, s.senders = s.rate-part.rate, s.senders[1:]
	}
	m.sas = append(m.sas, part)
}

// randomModel draws a gateway whose load can be carried, or nearly.
func randomModel(seed uint64) *model {
	rng := rand.New(rand.NewPCG(seed, 7))
	m := &model{rng: rng, noise: 0.02}
	// BenchmarkModel of tools/lab/fastpath measures these in User-Mode Linux; so far only on a machine on which others worked (30 November 2026): a
	// packet of 1400 bytes took the CPU that gets it 11.1 us, one of 200 bytes 5.1 (as if a packet cost 820 bytes before its first one), the receiver
	// 8.8 and 4.3 us more when it stayed there, 11.5 and 1.2 when it was given away, and a thread 269 us to wake up. Under load the receiver has 2.8 us to
	// do (xdp_steering_cpu_per_packet in docs/figures.md less the 11.1). The values here, of a machine that is twice as slow at decrypting, are yet to
	// be replaced by those of an idle machine; with 11.1, 1.2 and 1.6 us one seed of 1,000 reaches only 94.8 % in five rounds.
	m.price, m.receive, m.hand, m.wake = 20e-6/(1400+packetPrice), 1.5e-6, 2.5e-6, 50*time.Microsecond
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
