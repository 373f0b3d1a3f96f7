package tune

import (
	"fmt"
	"slices"
	"time"
)

// A CPU is eager when a program runs on it that makes more packets come the more time
// it gets: a sender, or what senders wait for. Loads do not show that: the program has
// what SAs leave it, whatever that is. It shows when an SA goes, and much more comes.
// Then SAs leave that CPU, one by one, as long as each has more get through and another
// CPU gets through what it has; and none comes to it that it has no room for. One that
// has less get through is taken back, one with which no more does is the last.

const (
	// eagerShare is the least part of a CPU that what is no SA must have for it to be what
	// packets come from; aloneShare what it has when it has the CPU for itself.
	eagerShare, aloneShare = 0.3, 0.6
	// eagerBusy is the share of its time from which on a CPU is taken to have none left for
	// them: they wait for others at times, or for the CPU that has their packets.
	eagerBusy = 0.9
	// eagerTime is for how long it is taken to be so.
	eagerTime = 2 * time.Minute
	// starved is the part of what an SA had got through that it must keep.
	starved = 0.7
)

// waits tells whether what a CPU has to do besides SAs would do with more time.
func (v *view) waits(cpu int) bool {
	return v.o.CPUs[cpu].Busy >= eagerBusy && v.base[cpu] >= eagerShare
}

// ends are the CPUs that a move was between; waits: of the one that it left, see view.
type ends struct {
	from, to int
	waits    bool
}

// add adds a move to those that are to be judged.
func (tr *trial) add(m Move, v *view, it item) {
	tr.moves = append(tr.moves, m)
	tr.ends[m.SA] = ends{v.o.CPUs[it.start].ID, v.o.CPUs[it.at].ID, v.waits(it.start)}
}

// isEager tells whether a CPU was found to be eager of late.
func (t *Tuner) isEager(cpu int) bool { return t.at < t.eager[cpu] }

// clock takes the time of an observation. When the box was looked at anew it begins again.
func (t *Tuner) clock(at time.Duration) {
	if at < t.at {
		clear(t.eager)
	}
	t.at = at
}

// found notes which CPUs moves that were made show to be eager: more comes, and gets
// through, since SAs have left, and none went there instead.
func (t *Tuner) found(tr *trial, now outcome) {
	if now.offered <= tr.before.offered*(1+comparable) || now.delivered <= tr.before.delivered*(1+worse) {
		return
	}
	for _, m := range tr.moves {
		e := tr.ends[m.SA]
		joined := slices.ContainsFunc(tr.moves, func(other Move) bool { return tr.ends[other.SA].to == e.from })
		if e.waits && !joined {
			t.eager[e.from] = t.at + eagerTime
		}
	}
}

// foundWorse is found for moves that are taken back: less comes since SAs have joined.
func (t *Tuner) foundWorse(v *view, tr *trial, now outcome) {
	if now.offered >= tr.before.offered*(1-worse) {
		return
	}
	for _, m := range tr.moves {
		if to, known := v.index[m.To]; known && v.waits(to) {
			t.eager[m.To] = t.at + eagerTime
		}
	}
}

// makeWay is a step that takes an SA off an eager CPU, if another one may have room:
// that it got through all that it had is what counts, for a packet costs a CPU with
// time to spare more than one that has none.
func (t *Tuner) makeWay(v *view, p *plan) (step []item) {
	if t.trial != nil || t.knobs.trial != nil || t.round < t.patient || slices.ContainsFunc(v.items, func(it item) bool { return it.mem.pending != nil }) {
		return nil // the verdicts are to be of one thing each
	}
	to := -1
	for c, cpu := range v.o.CPUs {
		if p.open[c] && !t.isEager(cpu.ID) && cpu.Busy < saturated && cpu.Dropped == 0 && (to < 0 || cpu.Busy < v.o.CPUs[to].Busy) {
			to = c
		}
	}
	if to < 0 {
		return nil
	}
	for i, it := range p.items {
		from := v.o.CPUs[it.start]
		if it.at = to; it.fixed || it.load == 0 || !t.isEager(from.ID) || !v.waits(it.start) || t.isBanned(p, i, to) {
			continue
		}
		if it.load > t.limits.Elephant && t.limits.Elephants < 0 {
			continue
		}
		if step == nil || it.load > step[0].load {
			step = []item{it}
		}
	}
	return step
}

// judgeEager judges a move that was to have more come.
func (t *Tuner) judgeEager(v *view, tr *trial, now outcome, verdict Verdict) ([]Planned, []Verdict) {
	verdict.Text = fmt.Sprintf("%.0f of %.0f kbit/s get through, %.0f of %.0f before",
		now.delivered/125, now.offered/125, tr.before.delivered/125, tr.before.offered/125)
	less := now.delivered < tr.before.delivered*(1-worse)
	if now.delivered > tr.before.delivered*(1+worse) && tr.starves(v.o) == nil {
		verdict.Helped = true
		t.found(tr, now)
		return nil, []Verdict{verdict}
	}
	for _, m := range tr.moves {
		delete(t.eager, tr.ends[m.SA].from)
	}
	switch loser := tr.starves(v.o); {
	case loser != nil:
		why := fmt.Sprintf("%s lost too much for it: %.0f kbit/s of it got through, %.0f before", steeredName(loser.Clear, loser.Name, loser.SPI), loser.through(v.o)/125, tr.through[loser.ID]/125)
		verdict.Text += "; " + why
		return t.takeBack(v.o, tr, why), []Verdict{verdict}
	case less && now.offered < tr.before.offered*(1-comparable) && !t.crowded(v.o, tr):
		verdict.Unknown, verdict.Text = true, "cannot be told: "+verdict.Text // other senders have stopped, or pause
	case less:
		return t.takeBack(v.o, tr, madeWorse(tr, now)), []Verdict{verdict}
	}
	return nil, []Verdict{verdict}
}

// starves finds an SA on a CPU that got one that loses much, and gets much less through
// than before the trial: those for which more comes are not to have it from others.
func (tr *trial) starves(o Observation) *SA {
	for i := range o.SAs {
		s := &o.SAs[i]
		if s.delivered() < starved && s.Packets > 0 && s.through(o) < starved*tr.through[s.ID] &&
			slices.ContainsFunc(tr.moves, func(m Move) bool { return m.To == s.place() }) {
			return s
		}
	}
	return nil
}

// through is what of an SA got to its CPU, in octets per second.
func (s SA) through(o Observation) float64 {
	return float64(s.Bytes) * s.delivered() / o.Interval.Seconds()
}

// eagerCPUs says which of the plan's CPUs are, and are full without SAs.
func (t *Tuner) eagerCPUs(v *view) []bool {
	out := make([]bool, len(v.o.CPUs))
	for i, c := range v.o.CPUs {
		out[i] = t.isEager(c.ID) && v.base[i] >= aloneShare
	}
	return out
}
