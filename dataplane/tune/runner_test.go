package tune

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// fakeBox is a model.
type fakeBox struct {
	m     *model
	last  time.Time
	moves int
	fail  error
}

func (b *fakeBox) Observe() (Observation, error) {
	now := time.Now()
	interval := now.Sub(b.last)
	b.last = now
	if interval > time.Hour {
		interval = 0
	}
	o := Observation{}
	if interval > 0 {
		o = b.m.observe(interval)
	}
	o.System = System{Dropped: uint64(1000 * interval.Seconds())}
	return o, b.fail
}

func (b *fakeBox) Move(_ context.Context, moves []Move) []Moved {
	out := make([]Moved, len(moves))
	for i, m := range moves {
		b.moves++
		b.m.perform(Decision{Actions: []Planned{{Action: m}}})
		out[i].Note = "at once"
	}
	return out
}

// fakeSettings are those of a box without files.
type fakeSettings struct {
	now, before map[string]string
	missing     bool         // what is not in now is not there; else it is empty
	read        func(string) // nil: nobody wants to know
}

func newSettings() *fakeSettings {
	s := &fakeSettings{now: map[string]string{}, before: map[string]string{}}
	for k, v := range box() {
		s.now[string(k)] = v
	}
	return s
}

func (s *fakeSettings) Get(name string) (string, error) {
	if s.read != nil {
		s.read(name)
	}
	v, there := s.now[name]
	if !there && s.missing {
		return "", fs.ErrNotExist
	}
	return v, nil
}

func (s *fakeSettings) Set(name, v string) error {
	if v == "" {
		return errors.New("empty value")
	}
	if _, changed := s.before[name]; !changed {
		s.before[name] = s.now[name]
	}
	s.now[name] = v
	return nil
}

func (s *fakeSettings) Changed() map[string]string { return maps.Clone(s.before) }

func (s *fakeSettings) Restore() error {
	maps.Copy(s.now, s.before)
	clear(s.before)
	return nil
}

// untouched tells whether they are as they were.
func (s *fakeSettings) untouched() bool { return maps.Equal(s.now, newSettings().now) }

func newFakeBox() *fakeBox {
	m := randomModel(4)
	for range 6 {
		m.add(0.25).cpu = 0
	}
	return &fakeBox{m: m}
}

func TestRunnerActsAndRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newFakeBox(), newSettings()
		r, err := NewRunner(Config{Box: b, Settings: s, Mode: On, Log: zerolog.Nop(), Name: func(uint32) string { return "home" }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(30 * time.Second)
		if b.moves == 0 || s.now[string(MaxBacklog)] == "1000" {
			t.Errorf("%d moves, backlog %s; want both changed", b.moves, s.now[string(MaxBacklog)])
		}
		if st := r.Status(); len(st.Loads) != len(b.m.cpus) || st.Changed[string(ReceiveMax)] != "212992" || st.Entries != len(r.History()) || st.Seen.IsZero() {
			t.Errorf("status %+v", st)
		}
		judged := 0
		for i, e := range r.History() {
			if e.Planned.Reason.Text == "" || e.Error != "" || e.At.IsZero() || e.ID != uint64(i+1) || len(e.Loads) != len(b.m.cpus) {
				t.Errorf("entry %+v; want number, time, loads, reason and success", e)
			}
			if m, ok := e.Planned.Action.(Move); ok && (m.Name != "home" || e.Note != "at once") {
				t.Errorf("entry %+v; want name and note", e)
			}
			if e.Outcome != "" {
				judged++
			}
		}
		if judged < 2 { // moves, and the backlog
			t.Errorf("%d entries say whether it helped: %+v", judged, r.History())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !s.untouched() || len(s.before) > 0 {
			t.Errorf("after the stop: %v, changed %v; want everything as it was", s.now, s.before)
		}
	})
}

func TestRunnerAdvises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newFakeBox(), newSettings()
		r, _ := NewRunner(Config{Box: b, Settings: s, Mode: Advise, Log: zerolog.Nop()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(10 * time.Second)
		if b.moves > 0 || !s.untouched() {
			t.Error("advising changed something")
		}
		if a, err := r.Advice(ctx); err != nil || len(a) < 3 || !a[0].Advised || a[0].Planned.Reason.Text == "" {
			t.Errorf("advice %+v, error %v; want moves and settings", a, err)
		}
		if h := r.History(); len(h) == 0 || !h[0].Advised || h[0].Outcome != "" {
			t.Errorf("history %v; want advice", h)
		}
		if err := r.SetMode(Off); err != nil {
			t.Error(err)
		}
		before := len(r.History())
		time.Sleep(10 * time.Second)
		if len(r.History()) != before {
			t.Error("still deciding while off")
		}
		if a, err := r.Advice(ctx); err != nil || len(a) < 3 {
			t.Errorf("advice while off %+v, error %v; want moves and settings", a, err)
		}
		if err := r.SetMode(On); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if b.moves == 0 {
			t.Error("not acting after it was switched on")
		}
		if err := r.SetMode("often"); err == nil {
			t.Error("a mode that does not exist was taken")
		}
		cancel()
		<-done
	})
}

// Actions of a class whose limit is none are not decided.
func TestRunnerLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newFakeBox(), newSettings()
		r, _ := NewRunner(Config{Box: b, Settings: s, Mode: On, Limits: Limits{Moves: -1, Settings: -1}, Log: zerolog.Nop()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(10 * time.Second)
		if b.moves > 0 || !s.untouched() || len(r.History()) > 0 {
			t.Errorf("%d moves, settings %v, history %v; want nothing", b.moves, s.now, r.History())
		}
		r.SetLimits(Limits{Settings: -1})
		time.Sleep(10 * time.Second)
		if b.moves == 0 || !s.untouched() {
			t.Errorf("%d moves, settings %v; want moves alone", b.moves, s.now)
		}
		cancel()
		<-done
	})
}

// A box that cannot be observed is tried again, and the reason is told.
func TestRunnerIsBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox()
		b.fail = errors.New("no eyes")
		r, _ := NewRunner(Config{Box: b, Mode: On, Log: zerolog.Nop()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Second)
		if st := r.Status(); st.Blind != "no eyes" {
			t.Errorf("status %+v; want the reason", st)
		}
		b.fail = nil
		time.Sleep(time.Minute)
		if st := r.Status(); st.Blind != "" || b.moves == 0 {
			t.Errorf("status %+v, %d moves; want it to see and act", st, b.moves)
		}
		cancel()
		<-done
	})
}

// What a run that crashed left changed comes back with the next start.
func TestRunnerAfterACrash(t *testing.T) {
	s := newSettings()
	if err := s.Set(string(MaxBacklog), "32768"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRunner(Config{Box: newFakeBox(), Settings: s, Mode: Off, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	if !s.untouched() {
		t.Errorf("settings %v; want them restored", s.now)
	}
}

// The same advice again and again is one entry, others are not lost for it.
func TestJournalOfAdvice(t *testing.T) {
	var j journal
	move := func(spi uint32) Planned { return Planned{Action: Move{SPI: spi, To: 1}} }
	for i := range 10 {
		for spi := range uint32(3) {
			if fresh := j.add(Entry{Planned: move(spi + 1), Advised: true}); fresh != (i == 0) {
				t.Errorf("round %d: fresh %v", i, fresh)
			}
		}
	}
	j.add(Entry{Planned: move(1)})
	e := j.entries()
	if len(e) != 4 || e[0].Times != 10 || e[3].Times != 1 || e[3].ID != 4 {
		t.Errorf("%+v; want three pieces of advice, ten times each, and a move", e)
	}
	j.judge(&Verdict{Actions: []Action{Move{SPI: 1, To: 1, Name: "x"}}, Helped: true, Text: "it did"})
	if e = j.entries(); e[0].Outcome != "" || e[3].Outcome != "it did" || !e[3].Helped {
		t.Errorf("%+v; want the verdict with the move that was made", e)
	}
}

func TestJournalIsBounded(t *testing.T) {
	var j journal
	for i := range journalSize + 10 {
		j.add(Entry{At: time.Unix(int64(i), 0)})
	}
	e := j.entries()
	if len(e) != journalSize || e[0].At.Unix() != 10 || e[len(e)-1].At.Unix() != journalSize+9 {
		t.Errorf("%d entries from %v to %v", len(e), e[0].At, e[len(e)-1].At)
	}
	if l := j.find(func(*Entry) bool { return true }, 1); l.At.Unix() != journalSize+9 {
		t.Errorf("the latest is of %v", l.At)
	}
}

// cardBox is a box of a model of a card's queues.
type cardBox struct {
	c    *card
	last time.Time
}

func (b *cardBox) Observe() (Observation, error) {
	now := time.Now()
	d := now.Sub(b.last)
	b.last = now
	if d > time.Hour {
		return Observation{}, nil
	}
	return b.c.observe(d), nil
}

func (b *cardBox) Move(context.Context, []Move) []Moved { return nil }

// TestRunnerDoesWhatItAdvised: what was only said is done as soon as it may be, not when
// it would be tried again.
func TestRunnerDoesWhatItAdvised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCard(1, 2, 2)
		c.work = []float64{0.5, 0.6}
		c.device(0)
		s := &fakeSettings{now: map[string]string{}, before: map[string]string{}, missing: true}
		for k, v := range c.settings {
			s.now[string(k)] = v
		}
		r, err := NewRunner(Config{Box: &cardBox{c: c}, Settings: s, Mode: Advise, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(20 * time.Second)
		if h := r.History(); len(h) == 0 || s.now["irq/30"] != "0" {
			t.Errorf("irq/30 is %s, and it advised %+v", s.now["irq/30"], h)
		}
		if err := r.SetMode(On); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s.now["irq/30"] != "1" {
			t.Errorf("irq/30 is %s, expected 1, as was advised: %+v", s.now["irq/30"], r.History())
		}
		cancel()
		if err := <-done; err != nil || s.now["irq/30"] != "0" {
			t.Errorf("%v, irq/30 is %s after the end", err, s.now["irq/30"])
		}
	})
}
