package tune

import (
	"fmt"
	"slices"
)

const (
	// full is the share of a CPU's time from which on an SA fills it.
	full = 0.85
	// fits is the share that an SA may show on a CPU without time left and still be
	// taken to have room on another one: it may want more than it shows.
	fits = 0.7
	// hotRounds is how long an SA must fill a CPU before another is asked for.
	hotRounds = 3
	// room is the share of its time that a CPU must have left for a part of an SA.
	room = 0.2
	// relieved is what may be left of an SA's load for another beside it to have helped.
	relieved = 0.8
	// grown is how much more its group must get through for that: a peer may fill the SA
	// of each of its CPUs.
	grown = 1.2
	// spareRounds is for how long an SA of one CPU must have had no packets before it
	// is let go.
	spareRounds = 60
	// answerRounds is how long IKE gets for one that was asked for, doubled for each
	// time that it was of no use; showRounds is until one that came shows in the loads.
	answerRounds, showRounds = 20, 4
)

// splits asks for SAs of single CPUs (RFC 9611) where one SA needs more than a CPU
// has left, which no move can help, says so where that cannot be, and lets those go
// that have nothing to do. Others than those of groups in which it has asked for some
// are left to their inactivity: the peer sends on them when it has something to send.
func (t *Tuner) splits(v *view) (out []Planned, verdicts []Verdict) {
	for i := range v.items {
		it := &v.items[i]
		m := it.mem
		if m.pending != nil {
			if verdict := t.answered(v, it); verdict != nil {
				verdicts = append(verdicts, *verdict)
			}
		}
		if v.fills(it) && m.moved != t.round {
			m.hot++
		} else {
			m.hot = 0
		}
		if it.sa.Fixed && it.sa.Packets == 0 {
			m.spare++
		} else {
			m.spare = 0
		}
		switch {
		case m.hot >= hotRounds && t.mayAsk(m):
			if p := t.relieve(v, it, &out); p != nil {
				m.asked, m.hot = t.round, 0
				out = append(out, *p)
			}
		case m.spare >= spareRounds && t.limits.Splits >= 0 && t.split[it.sa.Group]:
			m.spare = 0
			t.unused(v, it.sa.Group)
			out = append(out, Planned{Action: Join{SA: it.sa.ID, SPI: it.sa.SPI, Name: it.sa.Name},
				Reason: Reason{Text: fmt.Sprintf("it had no packets for %d rounds: the peer does not send on it", spareRounds)}})
		}
	}
	return out, verdicts
}

// fills tells whether an SA fills its CPU, and would fill any other as well: moving
// cannot help it.
func (v *view) fills(it *item) bool {
	own := it.start
	if it.load <= full*v.left(own) || v.onlineCPUs() < 2 {
		return false
	}
	if it.sa.Fixed {
		return it.load > v.left(own)
	}
	part := full
	if v.o.CPUs[own].Busy > saturated {
		part = fits
	}
	for c := range v.open {
		if c != own && v.open[c] && it.load <= part*v.left(c) {
			return false
		}
	}
	return true
}

// left is what others than SAs leave of a CPU.
func (v *view) left(c int) float64 { return 1 - min(v.base[c], 0.9) }

// relieve decides what becomes of an SA that fills a CPU; nil: nothing more in this
// round. before are the round's actions up to now.
func (t *Tuner) relieve(v *view, it *item, before *[]Planned) *Planned {
	sa, m := it.sa, it.mem
	asks := fmt.Sprintf("it asks for %s of a CPU by itself, and an SA cannot be spread over CPUs without losing its order", percent(it.load))
	leave := func(why string) *Planned {
		m.declined++
		return &Planned{Action: Leave{SA: sa.ID, Clear: sa.Clear, SPI: sa.SPI, Name: sa.Name}, Reason: Reason{Text: asks + why}}
	}
	if sa.Clear {
		asks = fmt.Sprintf("its connections, or one of them, ask for %s of a CPU, and a connection cannot be spread over CPUs without losing its order", percent(it.load))
		return leave("")
	}
	if sa.Fixed {
		return leave("; it is one CPU's already (RFC 9611), and how much it sends on which of those is the peer's choice")
	}
	if !sa.CanSplit {
		return leave("") // the runner knows why
	}
	parts := v.parts(sa.Group)
	cpu := v.roomiest(it, parts)
	switch {
	case t.limits.Splits < 0:
		return leave("; no SAs of single CPUs may be asked for (tune_splits)")
	case cpu < 0:
		return leave("; no CPU without an SA of its own beside it has room for a part of that")
	case splitsIn(*before) >= t.limits.Splits:
		return nil
	}
	t.split[sa.Group] = true
	s := Split{SA: sa.ID, SPI: sa.SPI, Name: sa.Name, CPU: v.o.CPUs[cpu].ID}
	m.pending, m.parts, m.before, m.carried = &s, len(parts), it.load, v.carried(sa)
	return &Planned{Action: s, Reason: Reason{Before: v.total[it.start], After: v.total[it.start] - it.load/2,
		Text: asks + fmt.Sprintf("; another one beside it can, and CPU %d has room", s.CPU)}}
}

func splitsIn(plans []Planned) (n int) {
	for _, p := range plans {
		if _, is := p.Action.(Split); is {
			n++
		}
	}
	return n
}

// parts are the CPUs of the SAs of single CPUs in a group.
func (v *view) parts(group uint32) (cpus []int) {
	for i := range v.items {
		if s := v.items[i].sa; s.Fixed && group != 0 && s.Group == group {
			cpus = append(cpus, s.CPU)
		}
	}
	return cpus
}

// roomiest is the index of the CPU without a part that has most room for one, -1
// when none has. The SA's own comes last: a part there leaves the load where it is,
// but may be the one that the peer's CPU needs.
func (v *view) roomiest(it *item, parts []int) int {
	best, most := -1, room
	for c := range v.open {
		if !v.open[c] || slices.Contains(parts, v.o.CPUs[c].ID) || c == it.start {
			continue
		}
		if left := 1 - v.total[c]; left > most {
			best, most = c, left
		}
	}
	if own := v.o.CPUs[it.start]; best < 0 && v.open[it.start] && len(parts) > 0 && !slices.Contains(parts, own.ID) {
		return it.start
	}
	return best
}

// answered is what came of an SA that was asked for; nil: not known yet.
func (t *Tuner) answered(v *view, it *item) *Verdict {
	m := it.mem
	s := *m.pending
	parts := len(v.parts(it.sa.Group))
	if parts > m.parts && m.came == 0 {
		m.came = t.round
	}
	switch {
	case m.came == 0 && t.round-m.asked <= answerRounds, m.came != 0 && t.round-m.came < showRounds:
		return nil
	case m.came == 0:
		m.pending = nil
		m.declined++
		return &Verdict{Actions: []Action{s}, Text: fmt.Sprintf("no such SA came within %d rounds", answerRounds)}
	}
	m.pending, m.came, m.asked, m.hot = nil, 0, t.round, 0
	m.load = m.now // what it had to do before counts no more
	carried := v.carried(it.sa)
	return &Verdict{Actions: []Action{s}, Helped: m.load < relieved*m.before || carried > grown*m.carried,
		Text: fmt.Sprintf("%s beside it; it asks for %s of a CPU, %s before, and all of them get %.0f kbit/s through, %.0f before",
			count(parts, "SA of one CPU stands", "SAs of one CPU stand"), percent(m.load), percent(m.before), carried/125, m.carried/125)}
}

// carried is what an SA and those that it stands beside get through, in octets per second.
func (v *view) carried(sa *SA) (sum float64) {
	for i := range v.o.SAs {
		if s := &v.o.SAs[i]; s.ID == sa.ID || sa.Group != 0 && s.Group == sa.Group {
			sum += float64(s.Bytes) * s.delivered()
		}
	}
	return sum / v.o.Interval.Seconds()
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}

// mayAsk tells whether it is time to ask for, or to say, something about an SA again.
func (t *Tuner) mayAsk(m *memory) bool {
	if m.pending != nil {
		return false
	}
	return m.asked == 0 || m.declined == 0 || t.round-m.asked > answerRounds<<min(m.declined, 6)
}

// unused notes that an SA which had been asked for was of no use.
func (t *Tuner) unused(v *view, group uint32) {
	for i := range v.items {
		if it := &v.items[i]; group != 0 && it.sa.Group == group && !it.sa.Fixed {
			it.mem.declined++
			it.mem.asked = t.round
		}
	}
}

func (v *view) onlineCPUs() int {
	n := 0
	for _, open := range v.open {
		if open {
			n++
		}
	}
	return n
}
