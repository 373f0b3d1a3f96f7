package tune

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"espalier/dataplane"
	"espalier/dataplane/host"
)

// Renewer replaces SAs. It returns as soon as a wish is noted; that the new SA is
// there shows in later observations.
type Renewer interface {
	// Renew has the CHILD SA with the inbound SPI rekeyed. Errors: it has just gone.
	Renew(ctx context.Context, spi uint32) error
	// Widen gives the SAs that follow the one with the inbound SPI a replay window of at
	// least so many packets. Errors: it has just gone.
	Widen(spi uint32, window uint32) error
}

// renew carries a Renew out.
func (r *Runner) renew(ctx context.Context, a Renew) error {
	if r.cfg.Renewer == nil {
		return errNoIKE
	}
	if a.Window > 0 {
		if err := r.cfg.Renewer.Widen(a.SPI, a.Window); err != nil {
			return fmt.Errorf("a wider replay window: %w", err)
		}
	}
	return r.cfg.Renewer.Renew(ctx, a.SPI)
}

const (
	// lateShare is the part of an SA's packets that must have come too late for its
	// replay window, fewLate how many at least.
	lateShare, fewLate = 1. / 5000, 5
	// renewRounds is how long IKE gets for a renewal, doubled for each time that an SA
	// was still there afterwards.
	renewRounds = 20
	// leastWindow is what a replay window that was too narrow grows to at least.
	leastWindow = 256
)

// Pcrypt is host.Pcrypt.
const Pcrypt = Setting(host.Pcrypt)

func renewalsIn(plans []Planned) (n int) {
	for _, p := range plans {
		if _, is := p.Action.(Renew); is {
			n++
		}
	}
	return n
}

// mayRenew tells whether an SA may be asked to be renewed now; asked notes that it is.
func (t *Tuner) mayRenew(m *saKnob) bool {
	return m.asked == 0 || t.round-m.asked > renewRounds<<min(m.times, 6)
}

func (t *Tuner) askRenew(s *SA, m *saKnob, window uint32, what, why string) Planned {
	m.asked = t.round
	m.times++
	return Planned{Action: Renew{SA: s.ID, SPI: s.SPI, Name: s.Name, Window: window, For: what}, Reason: Reason{Text: why}}
}

// windows has SAs rekeyed that refuse packets as replays which only came late. A
// window never shrinks: it costs an eighth of an octet a packet.
func (t *Tuner) windows(v *view, planned int) (out []Planned) {
	for i := range v.o.SAs {
		s := &v.o.SAs[i]
		m := t.knobs.sas[s.ID]
		if m == nil || s.Window == 0 || s.Window >= dataplane.MaxReplayWindow || s.Late < fewLate || float64(s.Late) < lateShare*float64(s.Packets) {
			continue
		}
		if planned+len(out) >= t.limits.Rekeys || !t.mayRenew(m) {
			continue
		}
		next := min(max(4*s.Window, leastWindow), dataplane.MaxReplayWindow)
		out = append(out, t.askRenew(s, m, next, fmt.Sprintf("a replay window of %d packets", next), fmt.Sprintf(
			"%d packets came later than its replay window of %d packets allows and were dropped as replays: packets overtake each other on the path, or between CPUs", s.Late, s.Window)))
	}
	return out
}

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
		return t.respread(v, func(m *saKnob) bool { return m.born > since && m.born <= p.ended && t.sasLoad(m) }, "its packets on one CPU again",
			"it has pcrypt, which made things worse"), verdicts
	case now == "off" && ok && v.idle():
		for i := range v.items {
			it := &v.items[i]
			if k.sas[it.sa.ID].full >= 2*hotRounds && !it.sa.Fixed && (!it.sa.CanSplit || t.limits.Splits < 0) {
				*p = spreading{since: t.round, before: yield(v.o)}
				return []Planned{{Action: Set{Setting: Pcrypt, From: now, To: "on"}, Reason: Reason{Before: it.load, Text: fmt.Sprintf(
					"%s asks for %s of a CPU by itself; it can be neither moved nor get others beside it, and another CPU is idle", saName(it.sa.Name, it.sa.SPI), percent(it.load))}}}, verdicts
			}
		}
	}
	return nil, verdicts
}

// sasLoad: any SA is worth it that is still there.
func (t *Tuner) sasLoad(m *saKnob) bool { return m.seen == t.round }

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
		if m := t.knobs.sas[s.ID]; s.Packets > 0 && which(m) && t.mayRenew(m) && len(out) < t.limits.Rekeys {
			out = append(out, t.askRenew(s, m, 0, what, why))
		}
	}
	return out
}

// judgeSpreading says what pcrypt did, once an SA has had it for a while.
func (t *Tuner) judgeSpreading(v *view) (*Planned, *Verdict) {
	p := &t.knobs.spread
	has := func(m *saKnob) bool { return m.born > p.since && t.round-m.born >= showsAfter }
	if p.judged || !slices.ContainsFunc(v.items, func(it item) bool { return it.sa.Packets > 0 && has(t.knobs.sas[it.sa.ID]) }) {
		return nil, nil
	}
	p.judged = true
	now, was := yield(v.o), p.before
	verdict := &Verdict{Actions: []Action{Set{Setting: Pcrypt, From: "off", To: "on"}},
		Text: fmt.Sprintf("%.0f of %.0f kbit/s get through, %.0f of %.0f before", now.delivered/125, now.offered/125, was.delivered/125, was.offered/125)}
	if now.offered > was.offered*(1+comparable) || now.offered < was.offered*(1-comparable) {
		verdict.Text = "cannot be told: " + verdict.Text
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

// tooBigShare is the part of what leaves that must not have fitted.
const tooBigShare, saidRounds = 1. / 100, 900

// sayTooBig says that packets keep coming which do not fit into their way: whoever
// sends them does not hear of it, the sign of a black hole. Who hears sends smaller
// ones at once, so that few come.
func (t *Tuner) sayTooBig(v *view) []Planned {
	k, o := &t.knobs, &v.o
	sent := uint64(0)
	for _, l := range o.Links {
		sent += l.Sent
	}
	n := o.System.TooBig
	if k.tooBig++; perSec(n, o.Interval) <= perSecond || float64(n) < tooBigShare*float64(sent) {
		k.tooBig = 0
	}
	if k.tooBig < shortRounds || k.said != 0 && t.round-k.said < saidRounds {
		return nil
	}
	k.said = t.round
	var paths []string
	for _, p := range o.Paths {
		paths = append(paths, fmt.Sprintf("%s %d", p.Name, p.MTU))
	}
	why := fmt.Sprintf("%d packets a second, of %.0f that leave, do not fit and may not be cut, round after round: their senders do not get or heed the word of it (ICMP)",
		int(perSec(n, o.Interval)), perSec(sent, o.Interval))
	if len(paths) > 0 {
		why += "; path MTUs that IKE found, octets: " + strings.Join(paths[:min(len(paths), 8)], ", ")
	}
	if r := o.System.Retransmitted; r > 0 {
		why += fmt.Sprintf("; %d of %d segments of the box's own TCP were sent again", r, o.System.Segments)
	}
	text := "lower the MTU of the hosts behind the gateway, or let ICMP of too big packets through to them"
	if !o.System.MSS {
		text = "set mss = yes, which fits TCP to the tunnels; for other protocols " + text
	}
	return []Planned{{Action: Say{Text: text}, Reason: Reason{Text: why}}}
}
