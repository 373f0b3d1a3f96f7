package tune

import (
	"fmt"
	"slices"
	"time"
)

// Link is a network interface over the interval.
type Link struct {
	Name    string
	Inside  bool // of the side of clear packets; otherwise outside
	Steered bool // a program gives its packets to CPUs
	Device  bool // there is one behind it: it may have interrupts and features
	// Packets and bytes, and packets that the device had no room for.
	Received, ReceivedBytes, Sent, SentBytes, Missed uint64
	Queues, SendQueues                               int
	Shares                                           []uint64 // packets by receive queue; nil: not known
	IRQs                                             []IRQ    // of the device, those that came
}

// IRQ is an interrupt over the interval.
type IRQ struct {
	Number int
	CPU    int // that served most of them
	Count  uint64
}

// Path is the way to a peer, as IKE found it.
type Path struct {
	Name string // of the connection
	MTU  int    // octets of the outer IP packet
}

// Renew asks IKE to replace an SA by a new one, which is how it gets what is settled
// when an SA is made.
type Renew struct {
	SA     SAID
	SPI    uint32
	Name   string
	Window uint32 // replay window of the new one, packets; 0: as it is
	For    string // what the new one shall have, in words
}

// Say tells the administrator what the tuner itself cannot change.
type Say struct{ Text string }

func (Renew) isAction() {}
func (Say) isAction()   {}

func (r Renew) String() string {
	return "have " + saName(r.Name, r.SPI) + " rekeyed: " + r.For
}

func (s Say) String() string { return s.Text }

// knobs is what is remembered of everything that the tuner turns beside moves, splits
// and the box's sysctls.
type knobs struct {
	sas    map[SAID]*saKnob
	late   map[uint32]*saKnob // SAs whose window was too narrow, by SPI
	banned map[Setting]ban
	trial  *knobTrial
	hot    int // rounds in a row in which one CPU was full of packets that no SA explains
	busy   int // rounds in a row in which a CPU was busy
	tooBig int // rounds in a row in which many packets did not fit their way
	said   int // round in which that was said; 0: never
	spread spreading
}

// saKnob is what is remembered of an SA.
type saKnob struct {
	born, seen int // rounds
	full       int // rounds in a row that it filled a CPU
	asked      int // round in which it was asked to be renewed; 0: never
	times      int
}

// knobTrial is a round's settings, until they are judged.
type knobTrial struct {
	sets    []Set
	round   int
	before  passed
	busiest float64
}

// passed is what went through the box.
type passed struct{ in, out float64 } // bytes per second

const (
	// knobRounds is how long settings get to show what they do.
	knobRounds = 4
	// knobBusy is the load from which on a CPU is in want of relief.
	knobBusy = 0.85
	// knobRate is how many packets a second an interface must have to matter.
	knobRate = 1000
	// cooler is how far below the busiest one a CPU must be to take work of it.
	cooler = 0.3
	// longAgo is for how many rounds it is remembered that a setting was of no use.
	longAgo = 64 * banRounds
)

// turn decides about them. moved: this round moves SAs, which is enough to judge at a time.
func (t *Tuner) turn(v *view, moved bool) (out []Planned, verdicts []Verdict) {
	k := &t.knobs
	t.recall(v)
	back, verdicts := t.judgeKnobs(v)
	out = append(out, back...)
	out = append(out, t.sayTooBig(v)...)
	spread, verdict := t.parallel(v)
	out, verdicts = append(out, spread...), append(verdicts, verdict...)
	out = append(out, t.windows(v, renewalsIn(out))...)
	t.warm(v)
	if len(back) > 0 || k.trial != nil || moved || t.trial != nil {
		return out, verdicts
	}
	sets := t.queues(v)
	if len(sets) == 0 {
		sets = t.offloads(v)
	}
	return append(out, t.try(v, sets)...), verdicts
}

// recall notes which SAs there are, and which settings nobody lets be changed.
func (t *Tuner) recall(v *view) {
	k := &t.knobs
	if k.sas == nil {
		k.sas, k.late, k.banned = map[SAID]*saKnob{}, map[uint32]*saKnob{}, map[Setting]ban{}
	}
	for i := range v.items {
		it := &v.items[i]
		m := k.sas[it.sa.ID]
		if m == nil {
			m = &saKnob{born: t.round}
			k.sas[it.sa.ID] = m
		}
		m.seen = t.round
		if v.fills(it) && !it.sa.Clear {
			m.full++
		} else {
			m.full = 0
		}
	}
	for id, m := range k.sas {
		if m.seen != t.round {
			delete(k.sas, id)
		}
	}
	for spi, m := range k.late {
		if m.seen+longAgo < t.round {
			delete(k.late, spi)
		}
	}
	for s, b := range k.banned {
		if b.until+longAgo < t.round {
			delete(k.banned, s)
		}
	}
	for _, s := range v.o.System.Refused {
		t.banKnob(s)
		if k.trial != nil {
			k.trial.sets = slices.DeleteFunc(k.trial.sets, func(x Set) bool { return x.Setting == s })
			if len(k.trial.sets) == 0 {
				k.trial = nil
			}
		}
	}
}

// banKnob keeps a setting from being tried for a while, longer each time.
func (t *Tuner) banKnob(s Setting) {
	b := t.knobs.banned[s]
	b.times++
	b.until = t.round + banRounds<<min(b.times-1, 5)
	t.knobs.banned[s] = b
}

// free tells whether a setting is there and may be tried; value is what it is.
func (t *Tuner) free(v *view, s Setting) (value string, ok bool) {
	value, there := v.o.System.Settings[s]
	return value, there && t.round >= t.knobs.banned[s].until
}

// warm counts for how long CPUs have been in want of relief.
func (t *Tuner) warm(v *view) {
	count := func(n *int, yes bool) {
		if *n++; !yes {
			*n = 0
		}
	}
	count(&t.knobs.hot, v.receiver() >= 0)
	count(&t.knobs.busy, slices.ContainsFunc(v.o.CPUs, func(c CPU) bool { return c.Online && c.Busy > knobBusy }))
}

// receiver is the index of the CPU that is full of packets which no inbound SA
// explains: clear ones to be encrypted, and interrupts; -1: none is.
func (v *view) receiver() int {
	best, most := -1, 0.0
	for i, c := range v.o.CPUs {
		if plain := v.base[i] - c.Foreign; v.open[i] && c.Busy > knobBusy && plain > cooler && plain > most {
			best, most = i, plain
		}
	}
	return best
}

// coolest is the index of the open CPU with least to do that has room for work of
// the CPU with the index; -1: none has.
func (v *view) coolest(of int) int {
	best := -1
	for i, c := range v.o.CPUs {
		if v.open[i] && i != of && c.Busy <= v.o.CPUs[of].Busy-cooler && (best < 0 || c.Busy < v.o.CPUs[best].Busy) {
			best = i
		}
	}
	return best
}

func perSec(n uint64, d time.Duration) float64 { return float64(n) / d.Seconds() }

// try makes settings a trial.
func (t *Tuner) try(v *view, plans []Planned) []Planned {
	if len(plans) == 0 {
		return nil
	}
	tr := &knobTrial{round: t.round, before: throughput(v.o), busiest: busiest(v)}
	for _, p := range plans {
		tr.sets = append(tr.sets, p.Action.(Set))
	}
	t.knobs.trial = tr
	return plans
}

func throughput(o Observation) (p passed) {
	for _, l := range o.Links {
		p.in += perSec(l.ReceivedBytes, o.Interval)
		p.out += perSec(l.SentBytes, o.Interval)
	}
	return p
}

func busiest(v *view) (most float64) {
	for i, c := range v.o.CPUs {
		if v.open[i] {
			most = max(most, c.Busy)
		}
	}
	return most
}

// judgeKnobs compares what goes through the box with what did before the trial's
// settings, and takes them back when less of what comes in leaves again.
func (t *Tuner) judgeKnobs(v *view) ([]Planned, []Verdict) {
	tr := t.knobs.trial
	if tr == nil || t.round-tr.round < knobRounds {
		return nil, nil
	}
	t.knobs.trial = nil
	now, was := throughput(v.o), tr.before
	verdict := Verdict{}
	for _, s := range tr.sets {
		verdict.Actions = append(verdict.Actions, s)
	}
	if was.in == 0 || was.out == 0 || now.in > was.in*(1+comparable) || now.in < was.in*(1-comparable) {
		verdict.Unknown, verdict.Text = true, fmt.Sprintf("cannot be told: %.0f kbit/s arrive now, %.0f did before", now.in/125, was.in/125)
		return nil, []Verdict{verdict}
	}
	top := busiest(v)
	verdict.Text = fmt.Sprintf("%.0f kbit/s leave of %.0f that arrive, %.0f of %.0f before; the busiest CPU has %s to do, %s before",
		now.out/125, now.in/125, was.out/125, was.in/125, percent(top), percent(tr.busiest))
	through, before := now.out/now.in, was.out/was.in
	verdict.Helped = through > before*(1+worse) || through >= before*(1-worse) && top < tr.busiest-worse
	if through >= before*(1-worse) {
		return nil, []Verdict{verdict}
	}
	var back []Planned
	for _, s := range tr.sets {
		t.banKnob(s.Setting)
		if v.o.System.Settings[s.Setting] == s.To {
			back = append(back, Planned{Action: Set{Setting: s.Setting, From: s.To, To: s.From}, Reason: Reason{Text: "made things worse: " + verdict.Text}})
		}
	}
	return back, []Verdict{verdict}
}
