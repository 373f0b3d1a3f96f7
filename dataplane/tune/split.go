package tune

import "fmt"

const (
	// full is the share of a CPU's time from which on an SA fills it.
	full = 0.85
	// hotRounds is how long an SA must fill a CPU before another is asked for.
	hotRounds = 3
	// spareLoad is the load of an SA with parts that one CPU carries easily.
	spareLoad = 0.3
	// spareRounds is how long that must have been so.
	spareRounds = 60
	// answerRounds is how long IKE gets for a part that was asked for; doubled for
	// each time that none came.
	answerRounds = 20
)

// splits asks for per-CPU SAs where one SA needs more than a CPU has left, which
// no move can help, and lets them go when they are not needed for long.
func (t *Tuner) splits(v *view) []Planned {
	var out []Planned
	for _, it := range v.items {
		m := t.sas[it.sa.ID]
		if !it.sa.CanSplit {
			continue
		}
		t.heat(v, it, m)
		switch {
		case m.hot >= hotRounds && it.sa.Parts+1 < v.onlineCPUs() && t.mayAsk(m) && len(out) < t.limits.Splits:
			if m.asked != 0 {
				m.declined++
			}
			m.asked, m.hot = t.round, 0
			out = append(out, Planned{
				Action: Split{SA: it.sa.ID, SPI: it.sa.SPI, Name: it.sa.Name},
				Reason: Reason{Before: v.total[it.start], Text: fmt.Sprintf(
					"it asks for %s of a CPU by itself, and an SA cannot be spread over CPUs without losing its order; another one beside it can",
					percent(it.load))},
			})
		case m.spare >= spareRounds && it.sa.Parts > 0:
			m.spare = 0
			out = append(out, Planned{
				Action: Join{SA: it.sa.ID, SPI: it.sa.SPI, Name: it.sa.Name},
				Reason: Reason{Before: it.load, After: it.load, Text: fmt.Sprintf("it asked for %s of a CPU for %d rounds: one SA is enough",
					percent(it.load), spareRounds)},
			})
		}
	}
	return out
}

// heat counts for how long an SA has been too much for its CPU, or little.
func (t *Tuner) heat(v *view, it item, m *memory) {
	if it.load > full*(1-min(v.base[it.start], 0.9)) {
		m.hot++
	} else {
		m.hot = 0
	}
	if it.sa.Parts > 0 && it.load < spareLoad {
		m.spare++
	} else {
		m.spare = 0
	}
	if it.sa.Parts > 0 {
		m.declined = 0
	}
}

func (t *Tuner) mayAsk(m *memory) bool {
	return m.asked == 0 || t.round-m.asked > answerRounds<<min(m.declined, 6)
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
