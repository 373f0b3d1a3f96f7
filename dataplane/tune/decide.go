package tune

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Tuner decides, and remembers what it needs for the next decision. Its methods
// are not safe for concurrent use.
type Tuner struct {
	limits  Limits
	round   int
	price   price
	prices  [kinds]price // of a kind of traffic, from CPUs where it is nearly all
	sas     map[SAID]*memory
	other   map[int]float64 // foreign load by CPU, smoothed
	trial   *trial          // the last round's moves, until they are judged
	banned  map[Move]ban    // moves that made things worse; Name is empty
	still   int             // rounds since the last action
	short   map[Setting]int // rounds in a row in which the box ran short of it
	tried   map[Setting]attempt
	wanted  int                   // rounds in a row in which a move was worth it
	split   map[uint32]bool       // groups of SAs in which one of a single CPU was asked for
	at      time.Duration         // of the last observation
	eager   map[int]time.Duration // CPUs whose other programs have packets come, until when
	patient int                   // round from which on an SA may leave an eager CPU
	knobs   knobs
}

// memory is what is known of one SA.
type memory struct {
	load     float64 // share of a CPU; follows a rise at once, a fall slowly
	now      float64 // of the last round alone
	paid     float64 // the price that it is reckoned at
	seen     int     // round of the last observation
	moved    int     // round in which it was to move last; 0: never
	to       int     // where to
	made     int     // round of the last such move that was made
	rest     int     // rounds it stays after moved
	hot      int     // rounds in a row that it filled a CPU by itself
	spare    int     // rounds in a row that an SA of one CPU had no packets
	asked    int     // round in which one was asked for, or it was said that none can be; 0: never
	parts    int     // how many there were
	before   float64 // its load when one was asked for
	carried  float64 // octets per second that its group got through then
	pending  *Split  // that was asked for, until what came of it is known
	came     int     // round in which the pending one was there; 0: not yet
	declined int     // how often that was of no use
}

// New makes a tuner that knows nothing yet.
func New(l Limits) *Tuner {
	return &Tuner{limits: l.withDefaults(), sas: map[SAID]*memory{}, other: map[int]float64{}, banned: map[Move]ban{}, short: map[Setting]int{}, tried: map[Setting]attempt{}, split: map[uint32]bool{}, eager: map[int]time.Duration{}}
}

// Decide takes the next observation and says what to do. Actions are expected to
// be carried out before the interval of the next observation begins; one that was
// not shows in that observation, and is decided anew.
func (t *Tuner) Decide(o Observation) Decision {
	t.round++
	t.clock(o.At)
	t.forgetBans()
	v := t.understand(o)
	var d Decision
	undo, verdicts := t.judge(v)
	d.Verdicts = append(verdicts, t.judgeSettings(o)...)
	if len(undo) > 0 {
		d.Actions = undo
	} else {
		d.Actions = t.moves(v)
	}
	split, verdicts := t.splits(v)
	d.Actions, d.Verdicts = append(d.Actions, split...), append(d.Verdicts, verdicts...)
	more, verdicts := t.turn(v, len(d.Actions) > 0)
	d.Actions, d.Verdicts = append(d.Actions, more...), append(d.Verdicts, verdicts...)
	if set := t.settings(o); t.limits.Settings > 0 {
		d.Actions = append(d.Actions, set[:min(len(set), t.limits.Settings)]...)
	}
	d.Loads = v.loads()
	d.Next = t.next(v, slices.ContainsFunc(d.Actions, changes))
	return d
}

// changes tells whether an action does anything.
func changes(p Planned) bool {
	switch p.Action.(type) {
	case Leave, Say:
		return false
	}
	return true
}

// view is an observation understood: CPUs by index, loads as shares.
type view struct {
	o     Observation
	index map[int]int // CPU id to index
	base  []float64   // foreign load
	total []float64   // with the SAs as they are placed now
	open  []bool
	items []item
}

func (v *view) loads() []Load {
	out := make([]Load, len(v.o.CPUs))
	for i, c := range v.o.CPUs {
		out[i] = Load{CPU: c.ID, Foreign: v.base[i], SAs: v.total[i] - v.base[i]}
	}
	return out
}

// understand learns from the observation and turns it into loads.
func (t *Tuner) understand(o Observation) *view {
	v := &view{items: make([]item, 0, len(o.SAs)), o: o, index: map[int]int{}, base: make([]float64, len(o.CPUs)), total: make([]float64, len(o.CPUs)), open: make([]bool, len(o.CPUs))}
	for i, c := range o.CPUs {
		v.index[c.ID], v.open[i] = i, c.Online
	}
	todo := t.toDo(&o)
	units := t.learn(&o, todo)
	for i, c := range o.CPUs {
		v.base[i] = t.foreign(c, todo[ofSA][c.ID].served*units[ofSA]+todo[ofClear][c.ID].served*units[ofClear])
		v.total[i] = v.base[i]
	}
	for i := range o.SAs {
		s := &o.SAs[i]
		at, known := v.index[s.place()]
		if !known {
			continue // arrives on a CPU that is not observed
		}
		unit := units[s.kind()]
		t.sas[s.ID].reprice(unit * o.Interval.Seconds())
		m := t.remember(s, unit)
		m.paid = unit * o.Interval.Seconds()
		v.total[at] += m.load
		it := item{sa: s, mem: m, at: at, start: at, load: m.load, from: -1, fixed: s.Fixed}
		if from, known := v.index[s.Arrives]; known && m.load > 0 {
			// As much of the packets' load as handing is of their work, whatever is remembered.
			it.from, it.hand = from, m.load*t.handing(s)
		}
		v.items = append(v.items, it)
	}
	for id, m := range t.sas {
		if m.seen != t.round {
			delete(t.sas, id)
		}
	}
	return v
}

// reprice has what is remembered of an SA follow the price: what it has to do is as it
// was.
func (m *memory) reprice(now float64) {
	if m != nil && m.paid > 0 {
		m.load, m.before = m.load*now/m.paid, m.before*now/m.paid
	}
}

// foreign is a CPU's load that no SA explains, smoothed.
func (t *Tuner) foreign(c CPU, explained float64) float64 {
	now := max(c.Foreign, c.Busy-explained, 0)
	old, known := t.other[c.ID]
	if known {
		part := 0.4
		if now > old {
			part = 0.8 // CPUs in want are to be relieved at once
		}
		now = part*now + (1-part)*old
	}
	t.other[c.ID] = now
	return now
}

// fall is how much of an SA's remembered load is left after a round without
// traffic. Remembering peaks for some rounds keeps a flow that comes and goes
// from being moved at each turn.
const fall = 0.85

// receivePrice and handPrice are what receiving a packet and giving it to another CPU
// takes, in bytes as PacketPrice is: BenchmarkModel of tools/lab/fastpath has 200 for
// each of them, give or take as much.
const receivePrice, handPrice = 200, 200

// remember takes an SA's load of this round into its memory, which then has what
// the decision shall take it for.
func (t *Tuner) remember(s *SA, unit float64) *memory {
	now := s.work(t.limits.PacketPrice) * unit
	m := t.sas[s.ID]
	if m == nil {
		m = &memory{load: now, rest: t.limits.Rest}
		t.sas[s.ID] = m
	}
	m.seen, m.now = t.round, now
	if m.moved != 0 && m.moved == t.round-1 && s.CPU == m.to {
		m.made = m.moved
	}
	if now >= m.load {
		m.load = 0.5*now + 0.5*m.load
		if m.load < 0.8*now {
			m.load = now
		}
	} else {
		m.load = max(now, fall*m.load)
	}
	return m
}

// handing is what giving an SA's packets to another CPU takes, as a part of what
// they take there.
func (t *Tuner) handing(s *SA) float64 {
	if work := s.work(t.limits.PacketPrice); work > 0 {
		return min(handPrice*float64(s.Packets)/work, 1)
	}
	return 0
}

// resting tells whether an SA was moved too short a time ago. While a CPU stands
// out by far, only the rounds count in which the move cannot have shown yet.
func (t *Tuner) resting(m *memory, urgent bool) bool {
	rest := m.rest
	if urgent {
		rest = min(rest, judgeAfter)
	}
	return m.moved != 0 && t.round-m.moved <= rest
}

const (
	// urgency is how far the busiest CPU must be above the mean for a move at once.
	urgency = 0.12
	// patience is for how many rounds a move must have been worth it otherwise.
	patience = 3
	// swapGain is what swaps must gain of the load that they swap: a move that finds no
	// moment leaves one half done until the next round.
	swapGain = 0.15
)

// moves searches a better assignment and takes as many steps towards it as the
// limits allow.
func (t *Tuner) moves(v *view) []Planned {
	if len(v.items) == 0 || t.price.value() == 0 || t.limits.Moves < 0 {
		return nil
	}
	p := newPlan(v.o.CPUs, v.base, v.open, v.items)
	p.eager = t.eagerCPUs(v)
	p.barred = func(i, to int) bool { return t.isBanned(p, i, to) }
	was := p.figures()
	leaving := slices.ContainsFunc(p.items, func(it item) bool { return !v.open[it.at] })
	pending := t.trial
	if pending != nil && pending.through == nil {
		pending = nil // loads are as good a reason as it had
	}
	if pending != nil && !leaving {
		return nil // it goes against what loads say, and is to be judged by what comes
	}
	urgent := leaving || was.worst-was.mean > urgency
	for i := range p.items {
		it := &p.items[i]
		// Moving what is idle would change nothing; an SA whose part was asked for is
		// about to have another load.
		if v.open[it.at] && (it.load == 0 || it.mem.pending != nil || t.resting(it.mem, urgent)) {
			it.fixed = true
		}
	}
	steps := t.balance(p, was, leaving, urgent)
	if pending != nil {
		steps = slices.DeleteFunc(steps, func(it item) bool { return v.open[it.start] })
		out := t.carry(v, steps, was, p.worst(), false)
		t.trial = pending
		return out
	}
	if len(steps) > 0 {
		return t.carry(v, steps, was, p.worst(), false)
	}
	out := t.carry(v, t.makeWay(v, p), figures{}, 0, true)
	if len(out) > 0 {
		t.trial.through = map[SAID]float64{}
		for _, s := range v.o.SAs {
			t.trial.through[s.ID] = s.through(v.o)
		}
	}
	return out
}

// figures are those of an assignment.
type figures struct {
	worst, mean     float64 // load of the busiest CPU that has work to give, and of all
	unserved, least float64 // the SAs' work that no CPU gets done, and the load of the CPU with least to do
}

func (p *plan) figures() figures {
	return figures{p.worst(), meanLoad(p), p.unserved(), p.least()}
}

// balance searches a better assignment, and chooses the steps of this round; none when
// that would not be worth it.
func (t *Tuner) balance(p *plan, was figures, leaving, urgent bool) []item {
	worth := leaving || p.uneven(was.mean)
	idle := was.mean-was.least > 2*t.limits.Gain // a CPU has less to do than its part
	if !worth && !idle && was.worst-was.mean < t.limits.Gain {
		t.wanted = 0
		return nil // no assignment can gain enough
	}
	p.search(4*t.limits.Moves, 1e-6)
	after := p.worst()
	if !(worth && after < was.worst || leaving || idle && p.least()-was.least >= t.limits.Gain) &&
		max(min(was.worst-after, p.moved()), was.unserved-p.unserved()) < max(t.limits.Gain, swapGain*p.swapped()) {
		t.wanted = 0
		return nil
	}
	if t.wanted++; !urgent && t.wanted < patience {
		return nil
	}
	t.wanted = 0
	return t.pick(p)
}

// meanLoad is that of the CPUs, of each as far as it can be done.
func meanLoad(p *plan) float64 {
	sum, n := 0.0, 0
	for c, l := range p.load {
		if p.open[c] {
			sum, n = sum+min(l, 1), n+1
		}
	}
	return sum / float64(max(n, 1))
}

// pick chooses which of the plan's moves this round makes: those off CPUs that
// are gone first, then the biggest, within the limits. A swap whose second half
// does not fit in this round is made by the next.
func (t *Tuner) pick(p *plan) []item {
	var steps []item
	all := 0.0
	for _, it := range p.items {
		all += it.load
		if it.at != it.start {
			steps = append(steps, it)
		}
	}
	slices.SortFunc(steps, func(a, b item) int {
		return cmp.Or(
			boolCompare(p.open[a.start], p.open[b.start]),
			cmp.Compare(b.load, a.load),
			cmp.Compare(a.sa.ID.Slot, b.sa.ID.Slot))
	})
	elephant := t.limits.Elephant
	if !t.price.sure {
		elephant = min(elephant, all/4) // the price is partly guessed
	}
	out, elephants := steps[:0], 0
	for _, it := range steps {
		if p.open[it.start] {
			if len(out) >= t.limits.Moves {
				break
			}
			if it.load > elephant {
				if elephants >= t.limits.Elephants {
					continue
				}
				elephants++
			}
		}
		out = append(out, it)
	}
	return out
}

// boolCompare sorts false before true.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// carry turns steps into actions with reasons, and remembers them to be judged. With
// eager, they are off CPUs that are, and what loads they lead to is not known.
func (t *Tuner) carry(v *view, steps []item, was figures, after float64, eager bool) []Planned {
	var out []Planned
	tr := &trial{round: t.round, before: yield(v.o), busiest: was.worst, ends: map[SAID]ends{}}
	for _, it := range steps {
		m := it.mem
		if m.made != 0 && t.round-m.made < 8*m.rest {
			m.rest = min(2*m.rest, 64) // moved again so soon: let it rest longer
		} else {
			m.rest = t.limits.Rest
		}
		from, to := v.o.CPUs[it.start], v.o.CPUs[it.at]
		m.moved, m.to = t.round, to.ID
		move := Move{SA: it.sa.ID, Clear: it.sa.Clear, SPI: it.sa.SPI, Name: it.sa.Name, From: it.sa.CPU, To: to.ID}
		tr.add(move, v, it)
		r := Reason{Before: was.worst, After: after}
		switch {
		case !from.Online:
			r.Text = fmt.Sprintf("CPU %d takes no more work", from.ID)
		case eager:
			r.Text = fmt.Sprintf("CPU %d is full, with %s of other work, and how much comes has changed with the SAs there; one more leaves it, which asks for %s, to see whether more comes, as CPU %d gets through what it has",
				from.ID, percent(v.base[it.start]), percent(it.load), to.ID)
		default:
			r.Text = fmt.Sprintf("CPU %d has %s to do (%s of it other than IPsec), the mean is %s; %s for %s, and CPU %d has room",
				from.ID, percent(v.total[it.start]), percent(v.base[it.start]), percent(was.mean), asking(it.sa), percent(it.load), to.ID)
		}
		out = append(out, Planned{Action: move, Reason: r})
	}
	if len(tr.moves) > 0 {
		t.trial = tr
	}
	return out
}

func asking(s *SA) string {
	if s.Clear {
		return "these connections ask"
	}
	return "this SA asks"
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// next is how long to wait: less the more a CPU stands out, more when nothing
// has moved for some rounds.
func (t *Tuner) next(v *view, acted bool) time.Duration {
	if acted {
		t.still = 0
		return t.limits.MinRound
	}
	t.still++
	const calm = time.Second
	switch {
	case t.trial != nil:
		return t.limits.MinRound
	case t.still > 20:
		return t.limits.MaxRound
	case t.still > 10:
		return min(2*calm, t.limits.MaxRound)
	}
	highest, lowest := 0.0, 1.0
	for i := range v.o.CPUs {
		if v.open[i] {
			l := v.total[i]
			highest, lowest = max(highest, l), min(lowest, l)
		}
	}
	if highest-lowest > 0.3 {
		return max(t.limits.MinRound, calm/2)
	}
	return calm
}
