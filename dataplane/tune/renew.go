package tune

import (
	"context"
	"fmt"
	"slices"

	"espalier/dataplane"
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
	for _, s := range slices.Concat(v.o.SAs, v.o.Losing) {
		if s.Window == 0 || s.Window >= dataplane.MaxReplayWindow || s.Late < fewLate || float64(s.Late) < lateShare*float64(s.Packets) {
			continue
		}
		m := t.knobs.late[s.SPI]
		if m == nil {
			m = &saKnob{}
			t.knobs.late[s.SPI] = m
		}
		m.seen = t.round
		if planned+len(out) >= t.limits.Rekeys || !t.mayRenew(m) {
			continue
		}
		next := min(max(4*s.Window, leastWindow), dataplane.MaxReplayWindow)
		out = append(out, t.askRenew(&s, m, next, fmt.Sprintf("a replay window of %d packets", next), fmt.Sprintf(
			"%d packets came later than its replay window of %d packets allows and were dropped as replays: packets overtake each other on the path, or between CPUs", s.Late, s.Window)))
	}
	return out
}
