package tune

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// fakeBox is a model with settings.
type fakeBox struct {
	m        *model
	settings map[Setting]string
	last     time.Time
	moves    int
	fail     error
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
	o.System = System{Settings: maps.Clone(b.settings), Dropped: uint64(1000 * interval.Seconds())}
	return o, b.fail
}

func (b *fakeBox) Move(sa SAID, to int) error {
	b.moves++
	b.m.perform(Decision{Actions: []Planned{{Action: Move{SA: sa, To: to}}}})
	return nil
}

func (b *fakeBox) Set(s Setting, v string) error {
	if v == "" {
		return errors.New("empty value")
	}
	b.settings[s] = v
	return nil
}

// memoryKeep keeps what a crash leaves.
type memoryKeep map[Setting]string

func (k memoryKeep) Load() (map[Setting]string, error) { return maps.Clone(k), nil }
func (k memoryKeep) Save(m map[Setting]string) error {
	clear(k)
	maps.Copy(k, m)
	return nil
}

func newBox() *fakeBox {
	m := randomModel(4)
	for range 6 {
		m.add(0.25).cpu = 0
	}
	return &fakeBox{m: m, settings: box()}
}

func TestRunnerActsAndRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, keep := newBox(), memoryKeep{}
		r, err := NewRunner(Config{Box: b, Mode: On, Log: zerolog.Nop(), Keep: keep})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(30 * time.Second)
		if b.moves == 0 || b.settings[MaxBacklog] == "1000" {
			t.Errorf("%d moves, backlog %s; want both changed", b.moves, b.settings[MaxBacklog])
		}
		if keep[MaxBacklog] != "1000" {
			t.Errorf("kept for a crash: %v; want the backlog as it was", keep)
		}
		if st := r.Status(); len(st.Loads) != len(b.m.cpus) || st.Changed[ReceiveMax] != "212992" || st.Entries != len(r.History()) {
			t.Errorf("status %+v", st)
		}
		for _, e := range r.History() {
			if e.Planned.Reason.Text == "" || e.Error != "" || e.At.IsZero() {
				t.Errorf("entry %+v; want time, reason and success", e)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !maps.Equal(b.settings, box()) || len(keep) > 0 {
			t.Errorf("after the stop: %v, kept %v; want everything as it was", b.settings, keep)
		}
	})
}

func TestRunnerAdvises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox()
		r, _ := NewRunner(Config{Box: b, Mode: Advise, Log: zerolog.Nop()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(10 * time.Second)
		if b.moves > 0 || !maps.Equal(b.settings, box()) {
			t.Error("advising changed something")
		}
		if h := r.History(); len(h) == 0 || !h[0].Advised {
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

// What a run that crashed left changed comes back with the next start.
func TestRunnerAfterACrash(t *testing.T) {
	b := newBox()
	b.settings[MaxBacklog] = "32768"
	keep := memoryKeep{MaxBacklog: "1000"}
	if _, err := NewRunner(Config{Box: b, Mode: Off, Log: zerolog.Nop(), Keep: keep}); err != nil {
		t.Fatal(err)
	}
	if b.settings[MaxBacklog] != "1000" || len(keep) > 0 {
		t.Errorf("backlog %s, kept %v; want it restored and forgotten", b.settings[MaxBacklog], keep)
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
}
