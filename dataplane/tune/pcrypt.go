package tune

import (
	"fmt"
	"slices"

	"espalier/dataplane/host"
)

// Pcrypt is host.Pcrypt.
const Pcrypt = Setting(host.Pcrypt)

// spreading is what is remembered of pcrypt.
type spreading struct {
	since  int // round in which it was switched on; 0: it is not by us
	ended  int // round in which it was switched off since it made things worse; 0: it was not
	judged bool
	before outcome
	calm   int // rounds in a row in which no SA had much to do
}

const (
	// calmLoad is the load below which one CPU is enough for an SA, calmRounds for how
	// long it must be so for all.
	calmLoad, calmRounds = 0.3, 120
	// showsAfter is when a renewed SA shows what pcrypt does.
	showsAfter = 6
)

// parallel spreads the work of single packets over CPUs (pcrypt) where one SA fills a
// CPU and can neither be moved nor get others beside it. What it costs is more than it
// gives on many machines, so it is judged, and the last resort.
func (t *Tuner) parallel(v *view) (out []Planned, verdicts []Verdict) {
	k, p := &t.knobs, &t.knobs.spread
	now, ok := t.free(v, Pcrypt)
	if _, there := v.o.System.Settings[Pcrypt]; !there || t.limits.Rekeys < 0 {
		return nil, nil
	}
	switch {
	case now == "on" && p.since != 0:
		if end, verdict := t.judgeSpreading(v); verdict != nil {
			verdicts = append(verdicts, *verdict)
			if end != nil {
				return []Planned{*end}, verdicts
			}
		}
		if end := t.calmDown(v); end != nil {
			return []Planned{*end}, verdicts
		}
		return t.respread(v, func(m *saKnob) bool { return m.full >= hotRounds && m.born <= p.since }, "its packets spread over CPUs (pcrypt)",
			"it fills a CPU by itself; its cipher is settled when an SA is made"), verdicts
	case now == "off" && p.ended != 0:
		since := p.since
		return t.respread(v, func(m *saKnob) bool { return m.born > since && m.born <= p.ended }, "its packets on one CPU again",
			"it has pcrypt, which made things worse"), verdicts
	case now == "off" && ok && v.idle():
		for i := range v.items {
			it := &v.items[i]
			if k.sas[it.sa.ID].full >= 2*hotRounds && !it.sa.Fixed && (!it.sa.CanSplit || t.limits.Splits < 0) {
				*p = spreading{since: t.round, before: yield(v.o)}
				return []Planned{{Action: Set{Setting: Pcrypt, From: now, To: "on"}, Reason: Reason{Text: fmt.Sprintf(
					"%s asks for %s of a CPU by itself; it can be neither moved nor get others beside it, and another CPU is idle", saName(it.sa.Name, it.sa.SPI), percent(it.load))}}}, verdicts
			}
		}
	}
	return nil, verdicts
}

// idle tells whether a CPU has more than half of its time left.
func (v *view) idle() bool {
	for i := range v.open {
		if v.open[i] && v.o.CPUs[i].Busy < 0.5 {
			return true
		}
	}
	return false
}

// respread renews SAs that have to get another cipher.
func (t *Tuner) respread(v *view, which func(*saKnob) bool, what, why string) (out []Planned) {
	for i := range v.items {
		s := v.items[i].sa
		if m := t.knobs.sas[s.ID]; !s.Clear && s.Packets > 0 && which(m) && t.mayRenew(m) && len(out) < t.limits.Rekeys {
			out = append(out, t.askRenew(s, m, 0, what, why))
		}
	}
	return out
}

// judgeSpreading says what pcrypt did, once an SA has had it for a while.
func (t *Tuner) judgeSpreading(v *view) (*Planned, *Verdict) {
	p := &t.knobs.spread
	has := func(m *saKnob) bool { return m.born > p.since && t.round-m.born >= showsAfter }
	if p.judged || !slices.ContainsFunc(v.items, func(it item) bool { return !it.sa.Clear && it.sa.Packets > 0 && has(t.knobs.sas[it.sa.ID]) }) {
		return nil, nil
	}
	p.judged = true
	now, was := yield(v.o), p.before
	verdict := &Verdict{Actions: []Action{Set{Setting: Pcrypt, From: "off", To: "on"}},
		Text: fmt.Sprintf("%.0f of %.0f kbit/s get through, %.0f of %.0f before", now.delivered/125, now.offered/125, was.delivered/125, was.offered/125)}
	if now.offered > was.offered*(1+comparable) || now.offered < was.offered*(1-comparable) {
		verdict.Unknown, verdict.Text = true, "cannot be told: "+verdict.Text
		return nil, verdict
	}
	verdict.Helped = now.delivered > was.delivered*(1+worse)
	if now.delivered >= was.delivered*(1-worse) {
		return nil, verdict
	}
	t.banKnob(Pcrypt)
	p.ended = t.round
	return &Planned{Action: Set{Setting: Pcrypt, From: "on", To: "off"}, Reason: Reason{Text: "made things worse: " + verdict.Text}}, verdict
}

// calmDown switches pcrypt off when no SA needs it any more; those that have it keep
// it until their rekey.
func (t *Tuner) calmDown(v *view) *Planned {
	p := &t.knobs.spread
	if p.calm++; slices.ContainsFunc(v.items, func(it item) bool { return it.load > calmLoad }) {
		p.calm = 0
	}
	if p.calm < calmRounds {
		return nil
	}
	t.banKnob(Pcrypt)
	*p = spreading{}
	return &Planned{Action: Set{Setting: Pcrypt, From: "on", To: "off"}, Reason: Reason{Text: fmt.Sprintf(
		"no SA asked for more than %s of a CPU for %d rounds", percent(calmLoad), calmRounds)}}
}
