package tune

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// splitScene is a gateway of CPUs with one SA that asks for a share of a CPU and
// can have others beside it.
func splitScene(cpus int, share float64, senders ...float64) *model {
	m := randomModel(1)
	m.cpus = make([]modelCPU, cpus)
	s := m.add(share)
	s.canSplit, s.group, s.senders = true, 7, senders
	return m
}

// decided runs rounds of a second and has all actions and verdicts, with the round
// before each.
func decided(m *model, tuner *Tuner, rounds int) (out []string) {
	for round := range rounds {
		d := tuner.Decide(m.observe(time.Second))
		m.perform(d)
		for _, v := range d.Verdicts {
			if _, is := v.Actions[0].(Split); is {
				out = append(out, fmt.Sprintf("%d: helped %v: %s", round, v.Helped, v.Text))
			}
		}
		for _, p := range d.Actions {
			out = append(out, fmt.Sprintf("%d: %s: %s", round, p.Action, p.Reason.Text))
		}
	}
	return out
}

// actions counts those of a kind.
func actions(log []string, kind string) (n int) {
	for _, l := range log {
		if strings.Contains(l, kind) {
			n++
		}
	}
	return n
}

const (
	askFor, leaveOn, goes = "ask for an SA of CPU", "leave SPI", "an SA of one CPU, go"
)

// TestSplit: an SA that no CPU carries gets others beside it until each CPU carries
// its part, within few rounds, and then nothing more happens.
func TestSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		cpus      int
		share     float64
		senders   []float64
		asks      int
		most      int
		wholeBusy float64 // foreign load of CPU 0
	}{
		{"two CPUs, 1.4 to do", 2, 1.4, []float64{0.5, 0.5}, 1, 1, 0},
		{"four CPUs, 2 to do", 4, 2, []float64{0.25, 0.25, 0.25, 0.25}, 3, 3, 0},
		{"a busy CPU is not asked for", 3, 1.4, []float64{0.5, 0.5}, 1, 1, 0.95},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, tuner := splitScene(c.cpus, c.share, c.senders...), New(Limits{})
			m.cpus[0].foreign, m.cpus[0].seen = c.wholeBusy, c.wholeBusy
			m.sas[0].cpu = c.cpus - 1
			log := decided(m, tuner, 40)
			t.Log(strings.Join(log, "\n"))
			if n := actions(log, askFor); n < c.asks || n > c.most {
				t.Errorf("asked %d times; expected %d to %d", n, c.asks, c.most)
			}
			if served, all := m.served(), c.share; served < 0.95*all {
				t.Errorf("%.2f of %.2f CPUs' work is done", served, all)
			}
			if c.wholeBusy > 0 && actions(log, askFor+" 0") > 0 {
				t.Error("the busy CPU was asked for")
			}
			if more := decided(m, tuner, 100); len(more) > 0 {
				t.Errorf("under constant load, once all is done: %v", more)
			}
		})
	}
}

// TestSplitWithoutUse: a peer that makes no SA is asked ever less often; one that
// sends all on one of its CPUs gets the SAs that it does not use taken away, and it
// is said that no more can be done.
func TestSplitWithoutUse(t *testing.T) {
	t.Parallel()
	silent := splitScene(2, 1.3)
	log := decided(silent, New(Limits{}), 200)
	if n := actions(log, askFor); n < 2 || n > 5 {
		t.Errorf("asked %d times in 200 rounds without getting one; expected again, but ever less often", n)
	}
	if n := actions(log, "no such SA came"); n < 2 {
		t.Errorf("said %d times that none came", n)
	}
	oneCPU := splitScene(3, 1.3, 0, 1)
	log = decided(oneCPU, New(Limits{}), 300)
	t.Log(strings.Join(log, "\n"))
	if asked, gone := actions(log, askFor), actions(log, goes); asked < 2 || asked > 3 || gone != 1 {
		t.Errorf("asked %d times, let %d go; expected 2 or 3, and one", asked, gone)
	}
	if n := actions(log, "move SPI"); n > 0 {
		t.Errorf("%d moves of an SA whose load was about to change", n)
	}
	if n := actions(log, "the peer's choice"); n < 1 || n > 4 {
		t.Errorf("said %d times that it is the peer's choice", n)
	}
	// A peer that makes them and sends nothing on any.
	log = decided(splitScene(3, 1.3, 0, 0, 0, 1), New(Limits{}), 400)
	t.Log(strings.Join(log, "\n"))
	for cpu := range 3 {
		if n := actions(log[:min(8, len(log))], fmt.Sprint(askFor, " ", cpu, " ")); n > 1 {
			t.Errorf("CPU %d was asked for %d times in a row", cpu, n)
		}
	}
	if asked, gone := actions(log, askFor), actions(log, goes); asked < 3 || asked > 8 || gone < 3 {
		t.Errorf("asked %d times, let %d go; expected 3 and 3, and again, but ever less often", asked, gone)
	}
}

// TestSplitVerdict: another SA has helped when the first one has less to do, and when
// that has as much as before but all together get more through: the peer's CPU could
// not send more.
func TestSplitVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		change  func(*modelSA)
		verdict string
	}{
		{"the first one has less", func(s *modelSA) { s.senders = []float64{0.5, 0.5} }, "helped true"},
		{"the first one has nothing", func(s *modelSA) { s.senders = []float64{1} }, "asks for 0 %"},
		{"all get more through", func(s *modelSA) { s.senders, s.limited = []float64{}, true }, "helped true"},
		{"the peer does not send on it", func(s *modelSA) { s.senders = []float64{0, 1} }, "helped false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := splitScene(3, 0.93)
			m.receive, m.hand = 0, 0
			c.change(&m.sas[0])
			log := decided(m, New(Limits{}), 12)
			for _, l := range log {
				if strings.Contains(l, "stands beside it") {
					if !strings.Contains(l, c.verdict) || !strings.Contains(l, "kbit/s through") {
						t.Errorf("%s; expected %s, and what all get through", l, c.verdict)
					}
					return
				}
			}
			t.Errorf("no verdict:\n%s", strings.Join(log, "\n"))
		})
	}
}

// TestPeersPartsStay: SAs of single CPUs that the peer has asked for are not let go
// while it does not send on them.
func TestPeersPartsStay(t *testing.T) {
	t.Parallel()
	m, tuner := splitScene(3, 0.2), New(Limits{})
	m.sas[0].cpu = 0
	part := m.sas[0]
	part.id, part.cpu, part.bound, part.rate = 2, 1, true, 0
	m.sas = append(m.sas, part)
	if log := decided(m, tuner, 300); len(log) > 0 {
		t.Errorf("expected nothing:\n%s", strings.Join(log, "\n"))
	}
}

// TestCannotSplit: what cannot be helped is said, ever less often, and nothing done.
func TestCannotSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, says string
		limits     Limits
		change     func(*model)
	}{
		{"the peer takes none", leaveOn, Limits{}, func(m *model) { m.sas[0].canSplit = false }},
		{"none allowed", "tune_splits", Limits{Splits: -1}, func(*model) {}},
		{"no CPU has room", "no CPU without", Limits{}, func(m *model) { m.cpus[1].foreign, m.cpus[1].seen = 0.95, 0.95 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := splitScene(2, 1.4, 0.5, 0.5)
			m.sas[0].cpu = 0
			c.change(m)
			tuner := New(c.limits)
			log := decided(m, tuner, 200)
			for range 100 {
				if d := tuner.Decide(m.observe(time.Second)); d.Next <= tuner.limits.MinRound {
					t.Errorf("the next round after %v, though nothing is done: %v", d.Next, d.Actions)
				}
			}
			if n := actions(log, c.says); n < 2 || n > 5 || n != len(log) {
				t.Errorf("said %d times; expected few, and nothing else:\n%s", n, strings.Join(log, "\n"))
			}
		})
	}
	one := splitScene(1, 1.4, 0.5, 0.5)
	if log := decided(one, New(Limits{}), 50); len(log) > 0 {
		t.Errorf("one CPU: %v", log)
	}
}

// TestMoveBeforeSplit: what a move can help is moved, not split.
func TestMoveBeforeSplit(t *testing.T) {
	t.Parallel()
	m := splitScene(2, 0.6, 0.5, 0.5)
	m.cpus[0].foreign, m.cpus[0].seen = 0.6, 0.6
	m.sas[0].cpu = 0
	log := decided(m, New(Limits{}), 40)
	if actions(log, askFor) > 0 || actions(log, "move SPI") != 1 {
		t.Errorf("expected one move:\n%s", strings.Join(log, "\n"))
	}
}
