package tune

import (
	"fmt"
	"slices"
)

// trial is a round of moves that is still to be judged.
type trial struct {
	round  int
	moves  []Move
	before outcome
	ends   map[SAID]ends
	// through is what each SA got through before, of a trial that is to have more come; else nil.
	through map[SAID]float64
	// busiest was the load of the busiest CPU that had work to give.
	busiest float64
}

// ban keeps a move from being tried again.
type ban struct {
	until int // round
	times int
}

// outcome is what a round achieved: how much of the work that arrived was
// delivered to a CPU, and how often CPUs did not get through.
type outcome struct {
	offered, delivered float64 // bytes per second
	squeezed           float64 // per second
}

func yield(o Observation) outcome {
	var r outcome
	for i := range o.SAs {
		s := &o.SAs[i]
		r.offered += float64(s.Bytes)
		r.delivered += float64(s.Bytes) * s.delivered()
	}
	for _, c := range o.CPUs {
		r.squeezed += float64(c.Squeezed)
	}
	n := o.Interval.Seconds()
	return outcome{r.offered / n, r.delivered / n, r.squeezed / n}
}

const (
	judgeAfter = 2    // rounds: one in which the moves take effect, one that shows it
	worse      = 0.05 // part of the delivered work that must be missing
	comparable = 0.15 // how much offered load may differ to compare at all
	banRounds  = 60
)

// judge compares what the last moves achieved with what was before, and takes
// them back if less arrives now. Nil while there is nothing to say.
func (t *Tuner) judge(v *view) ([]Planned, []Verdict) {
	tr := t.trial
	if tr == nil || t.round-tr.round < judgeAfter {
		return nil, nil
	}
	t.trial = nil
	o := v.o
	now := yield(o)
	verdict := Verdict{}
	tr.moves = slices.DeleteFunc(tr.moves, func(m Move) bool { return !made(o, m) })
	if len(tr.moves) == 0 {
		if tr.through != nil {
			t.patient = t.round + t.limits.Rest // no moment for it
		}
		return nil, nil
	}
	for _, m := range tr.moves {
		verdict.Actions = append(verdict.Actions, m)
	}
	if tr.through != nil {
		return t.judgeEager(v, tr, now, verdict)
	}
	t.found(tr, now)
	less := now.delivered < tr.before.delivered*(1-worse)
	if now.offered > tr.before.offered*(1+comparable) || now.offered < tr.before.offered*(1-comparable) && !(less && t.crowded(o, tr)) {
		verdict.Unknown, verdict.Text = true, fmt.Sprintf("cannot be told: %.0f kbit/s arrive now, %.0f did before", now.offered/125, tr.before.offered/125)
		return nil, []Verdict{verdict} // another load: says nothing about the moves
	}
	busiest := newPlan(o.CPUs, v.base, v.open, slices.Clone(v.items)).worst()
	verdict.Text = fmt.Sprintf("the busiest CPU with SAs has %s to do, %s before; %.0f of %.0f kbit/s get through, %.0f of %.0f before",
		percent(busiest), percent(tr.busiest), now.delivered/125, now.offered/125, tr.before.delivered/125, tr.before.offered/125)
	verdict.Helped = busiest < tr.busiest-0.01 || now.delivered > tr.before.delivered*(1+worse)
	if !less || now.delivered >= now.offered*(1-worse/2) && !t.crowded(o, tr) {
		return nil, []Verdict{verdict}
	}
	verdict.Helped = false
	t.foundWorse(v, tr, now)
	return t.takeBack(o, tr, madeWorse(tr, now)), []Verdict{verdict}
}

// crowded tells whether a CPU that got an SA has no time left: where senders wait for
// answers, less comes then, rather than that more is lost.
func (t *Tuner) crowded(o Observation, tr *trial) bool {
	return slices.ContainsFunc(o.CPUs, func(c CPU) bool {
		return c.Busy > saturated && slices.ContainsFunc(tr.moves, func(m Move) bool { return m.To == c.ID })
	})
}

// made tells whether an SA is where a move was to take it.
func made(o Observation, m Move) bool {
	return slices.ContainsFunc(o.SAs, func(s SA) bool { return s.ID == m.SA && s.CPU == m.To })
}

// madeWorse is why moves are taken back.
func madeWorse(tr *trial, now outcome) string {
	return fmt.Sprintf("made things worse: %.0f of %.0f kbit/s got through after it, %.0f of %.0f before",
		now.delivered/125, now.offered/125, tr.before.delivered/125, tr.before.offered/125)
}

// takeBack undoes a round's moves, as far as they can be.
func (t *Tuner) takeBack(o Observation, tr *trial, why string) (out []Planned) {
	t.patient = t.round + judgeAfter
	at := map[SAID]int{}
	online := map[int]bool{NoCPU: true}
	for _, s := range o.SAs {
		at[s.ID] = s.CPU
	}
	for _, c := range o.CPUs {
		online[c.ID] = c.Online
	}
	for _, m := range tr.moves {
		if cpu, there := at[m.SA]; !there || cpu != m.To || !online[m.From] {
			continue
		}
		t.ban(m)
		if sa := t.sas[m.SA]; sa != nil { // its CPU may have gone
			sa.moved, sa.to = t.round, m.From
		}
		back := m
		back.From, back.To = m.To, m.From
		out = append(out, Planned{Action: back, Reason: Reason{Text: why}})
	}
	return out
}

func (t *Tuner) ban(m Move) {
	key := m
	key.Name, key.From = "", 0
	b := t.banned[key]
	b.times++
	b.until = t.round + banRounds<<min(b.times-1, 5)
	t.banned[key] = b
}

// forgetBans lets bans go that ended so long ago that another one begins with the least time.
func (t *Tuner) forgetBans() {
	for k, b := range t.banned {
		if b.until+banRounds < t.round {
			delete(t.banned, k)
		}
	}
}

// isBanned tells whether an item's move to a CPU was taken back lately.
func (t *Tuner) isBanned(p *plan, i, to int) bool {
	it := &p.items[i]
	if len(t.banned) == 0 || to == it.start {
		return false
	}
	b, known := t.banned[Move{SA: it.sa.ID, Clear: it.sa.Clear, SPI: it.sa.SPI, To: p.id(to)}]
	return known && t.round < b.until && p.open[it.start]
}
