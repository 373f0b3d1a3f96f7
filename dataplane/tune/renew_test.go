package tune

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// late is an SA whose packets overtake each other by as many as depth says.
type late struct {
	id            uint32
	window, depth uint32
	packets       uint64
}

func (l *late) observe() SA {
	s := SA{ID: SAID{l.id, 1}, SPI: 0x1000 + l.id, CPU: 0, Packets: l.packets, Bytes: 1000 * l.packets, Window: l.window}
	if l.window > 0 && l.depth > l.window {
		s.Late = l.packets * uint64(l.depth-l.window) / uint64(l.depth) / 10
	}
	return s
}

// TestReplayWindows: windows that are too narrow grow until they are not, by rekeys
// that come one a round at most; others stay, and nothing is asked for for ever.
func TestReplayWindows(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var sas []*late
		for i := range 8 {
			sas = append(sas, &late{id: uint32(i + 1), window: []uint32{0, 32, 128, 4096}[rng.IntN(4)], depth: uint32(rng.IntN(3000)), packets: 1000 + uint64(rng.IntN(50000))})
		}
		deaf := rng.IntN(8) // its peer does not rekey
		next, asked := uint32(100), map[int]int{}
		tuner := New(Limits{})
		for round := range 400 {
			o := Observation{Interval: time.Second, CPUs: []CPU{{ID: 0, Online: true, Busy: 0.4}, {ID: 1, Online: true}}}
			for i, l := range sas {
				if s := l.observe(); i < 6 {
					o.SAs = append(o.SAs, s)
				} else if s.ID = (SAID{}); s.Late > 0 {
					o.Losing = append(o.Losing, s)
				}
			}
			n := 0
			for _, p := range tuner.Decide(o).Actions {
				a, is := p.Action.(Renew)
				if !is {
					continue
				}
				n++
				for i, l := range sas {
					if 0x1000+l.id != a.SPI {
						continue
					}
					if asked[i]++; a.Window <= l.window || a.Window > 4096 || l.depth <= l.window || p.Reason.Text == "" {
						t.Fatalf("seed %d, round %d: %v for a window of %d, depth %d", seed, round, a, l.window, l.depth)
					}
					if i != deaf {
						l.id, l.window = next, a.Window
						next++
					}
				}
			}
			if n > 1 {
				t.Fatalf("seed %d, round %d: %d SAs renewed at once", seed, round, n)
			}
		}
		for i, l := range sas {
			if i != deaf && l.observe().Late > 0 {
				t.Errorf("seed %d: a window of %d is left with packets %d late", seed, l.window, l.depth)
			}
			if asked[i] > 5 {
				t.Errorf("seed %d: SA %d asked for %d times", seed, i, asked[i])
			}
		}
	}
}

// TestReplayWindowLimits: none are renewed when none may be.
func TestReplayWindowLimits(t *testing.T) {
	t.Parallel()
	tuner := New(Limits{Rekeys: -1})
	for range 20 {
		l := late{1, 32, 900, 1000}
		o := Observation{Interval: time.Second, CPUs: []CPU{{ID: 0, Online: true, Busy: 0.4}}, SAs: []SA{l.observe()}}
		if d := tuner.Decide(o); len(d.Actions) > 0 {
			t.Fatalf("%v", d.Actions)
		}
	}
}

// parallelBox is one SA that asks for more than a CPU; what pcrypt makes of that is gain.
type parallelBox struct {
	gain, load float64
	id         uint32
	on, has    bool
	sets       map[string]int
	renewed    int
}

func (b *parallelBox) step(t *testing.T, tuner *Tuner) Decision {
	t.Helper()
	const unit = 50_000 // packets a second that one CPU does
	done := min(b.load, 1)
	if b.has {
		done = min(b.load, b.gain)
	}
	n := uint64(b.load * unit)
	o := Observation{Interval: time.Second, CPUs: []CPU{{ID: 0, Online: true, Busy: min(b.load, 1)}, {ID: 1, Online: true, Busy: 0.02}},
		SAs: []SA{{ID: SAID{b.id, 1}, SPI: b.id, CPU: 0, Packets: n, Bytes: 1400 * n, Lost: uint64(float64(n) * (1 - done/b.load))}}}
	o.System.Settings = map[Setting]string{Pcrypt: map[bool]string{true: "on", false: "off"}[b.on]}
	d := tuner.Decide(o)
	for _, p := range d.Actions {
		switch a := p.Action.(type) {
		case Set:
			if a.Setting != Pcrypt || p.Reason.Text == "" || p.Reason.Before > 0 && p.Reason.After == 0 || (a.To == "on") == b.on {
				t.Errorf("%v, %+v, it is on: %v", a, p.Reason, b.on)
			}
			b.on = a.To == "on"
			b.sets[a.To]++
		case Renew:
			b.renewed++
			b.id, b.has = b.id+1, b.on
		}
	}
	return d
}

// TestPcrypt: it is the last resort, kept where it gives more, taken back where it
// gives less, and ends when it is not needed.
func TestPcrypt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		gain      float64
		load      float64
		on, has   bool
		on60, off int // at the end of 200 rounds: set on, set off at most
	}{
		{"it helps", 1.8, 1.5, true, true, 1, 0},
		{"it makes things worse", 0.5, 1.5, false, false, 3, 3},
		{"an SA that fits", 1.8, 0.6, false, false, 0, 0},
	} {
		b := &parallelBox{gain: c.gain, load: c.load, id: 1, sets: map[string]int{}}
		tuner := New(Limits{})
		var verdicts []Verdict
		for range 200 {
			verdicts = append(verdicts, b.step(t, tuner).Verdicts...)
		}
		if b.on != c.on || b.has != c.has || b.sets["on"] > c.on60 || b.sets["off"] > c.off || b.sets["off"] < min(c.off, 1) {
			t.Errorf("%s: on %v, the SA has it %v, set %v, renewed %d times", c.name, b.on, b.has, b.sets, b.renewed)
		}
		if c.on60 > 0 && (len(verdicts) == 0 || verdicts[0].Helped != c.on) {
			t.Errorf("%s: verdicts %+v", c.name, verdicts)
		}
		if !c.on {
			continue
		}
		b.load = 0.1
		for range 200 {
			b.step(t, tuner)
		}
		if b.on || b.sets["off"] != 1 {
			t.Errorf("%s: calm again, it is on: %v, set %v", c.name, b.on, b.sets)
		}
	}
}

// TestPcryptIsTheLastResort: not where another SA can be asked for, or none may be renewed.
func TestPcryptIsTheLastResort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		canSplit bool
		limits   Limits
		want     bool
	}{{false, Limits{}, true}, {true, Limits{}, false}, {true, Limits{Splits: -1}, true}, {false, Limits{Rekeys: -1}, false}} {
		tuner, set := New(c.limits), false
		for range 30 {
			o := Observation{Interval: time.Second, CPUs: []CPU{{ID: 0, Online: true, Busy: 1}, {ID: 1, Online: true}},
				SAs: []SA{{ID: SAID{1, 1}, SPI: 1, Packets: 60_000, Bytes: 80_000_000, Lost: 10_000, CanSplit: c.canSplit, Group: 1}}}
			o.System.Settings = map[Setting]string{Pcrypt: "off"}
			for _, p := range tuner.Decide(o).Actions {
				if s, is := p.Action.(Set); is && s.Setting == Pcrypt {
					set = true
				}
			}
		}
		if set != c.want {
			t.Errorf("%+v: pcrypt set %v", c, set)
		}
	}
}

// fakeRenewer notes what is asked of it.
type fakeRenewer struct {
	asked []uint32
	wide  map[uint32]uint32
	fail  error
}

func (f *fakeRenewer) Renew(_ context.Context, spi uint32) error {
	f.asked = append(f.asked, spi)
	return f.fail
}
func (f *fakeRenewer) Widen(spi, window uint32) error { f.wide[spi] = window; return nil }

// lateBox is a box with one SA whose window is too narrow.
type lateBox struct{ at time.Time }

func (b *lateBox) Observe() (Observation, error) {
	o := Observation{Interval: time.Since(b.at), CPUs: []CPU{{ID: 0, Online: true, Busy: 0.3}}, SAs: []SA{(&late{7, 32, 900, 1000}).observe()}}
	if b.at.IsZero() {
		o.Interval = 0
	}
	b.at = time.Now()
	return o, nil
}
func (*lateBox) Move(context.Context, []Move) []Moved { return nil }

// TestRunnerRenews: the new SA's window is settled before the rekey; advising asks for
// nothing; without IKE, and when it refuses, the journal says so.
func TestRunnerRenews(t *testing.T) {
	for _, c := range []struct {
		mode   Mode
		ike    bool
		fail   error
		asked  int
		errHas string
	}{{On, true, nil, 1, ""}, {On, true, errors.New("it has gone"), 1, "it has gone"}, {On, false, nil, 0, "no IKE"}, {Advise, true, nil, 0, ""}} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeRenewer{wide: map[uint32]uint32{}, fail: c.fail}
			cfg := Config{Box: &lateBox{}, Mode: c.mode, Log: zerolog.Nop()}
			if c.ike {
				cfg.Renewer = f
			}
			r, err := NewRunner(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			time.Sleep(3 * time.Second)
			cancel()
			<-done
			if len(f.asked) != c.asked || c.asked > 0 && (f.asked[0] != 0x1007 || f.wide[0x1007] != 256) {
				t.Errorf("%+v: asked %v, windows %v", c, f.asked, f.wide)
			}
			h := r.History()
			if len(h) == 0 {
				t.Fatal("the journal is empty")
			}
			if e := h[0].Report(); e.Kind != "renew" || !strings.Contains(e.Action, "a replay window of 256 packets") || !strings.Contains(e.Reason, "dropped as replays") ||
				!strings.Contains(e.Error, c.errHas) || (e.Error == "") != (c.errHas == "") || e.Advised != (c.mode == Advise) {
				t.Errorf("%+v: %+v", c, e)
			}
		})
	}
}
