package tune

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Mode is what the tuner may do.
type Mode string

// Modes.
const (
	Off    Mode = "off"    // looks at nothing and changes nothing
	Advise Mode = "advise" // says what it would do
	On     Mode = "on"
)

// Box is what the tuner looks at and changes. Methods may block and are called by
// one goroutine at a time.
type Box interface {
	// Observe counts from the call before; the first one counts from the start.
	Observe() (Observation, error)
	Move(sa SAID, to int) error
	Set(s Setting, value string) error
}

// IKE negotiates what the tuner wants of the peers. Both return as soon as the
// wish is noted; what comes of it shows in later observations.
type IKE interface {
	Split(SAID) error
	Join(SAID) error
}

// Config is what a Runner needs.
type Config struct {
	Box    Box
	IKE    IKE // nil: nothing can be asked of the peers
	Mode   Mode
	Limits Limits
	Log    zerolog.Logger
	// Keep holds what settings were before the tuner changed them, across a crash;
	// nil keeps them in memory only.
	Keep Keep
	Now  func() time.Time
}

// Keep is where the values that are to be restored lie. Save replaces them all.
type Keep interface {
	Load() (map[Setting]string, error)
	Save(map[Setting]string) error
}

// Runner observes, decides, acts and remembers why.
type Runner struct {
	cfg     Config
	mu      sync.Mutex
	mode    Mode
	tuner   *Tuner
	journal journal
	loads   []Load
	before  map[Setting]string // values to restore
	wake    chan struct{}
}

// NewRunner makes a runner; Run starts it. What an earlier run of the daemon left
// changed is restored first.
func NewRunner(cfg Config) (*Runner, error) {
	switch cfg.Mode {
	case Off, Advise, On:
	default:
		return nil, fmt.Errorf("tuner mode %q: expected off, advise or on", cfg.Mode)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Runner{cfg: cfg, mode: cfg.Mode, tuner: New(cfg.Limits), before: map[Setting]string{}, wake: make(chan struct{}, 1)}
	if cfg.Keep != nil {
		left, err := cfg.Keep.Load()
		if err != nil {
			return nil, fmt.Errorf("settings that an earlier run changed: %w", err)
		}
		r.before = left
	}
	return r, r.restore()
}

// Run works until ctx ends, then restores every setting that it changed.
func (r *Runner) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.restore()
		case <-r.wake:
			timer.Stop()
		case <-timer.C:
		}
		wait = r.round()
	}
}

// round does one round and returns the time until the next.
func (r *Runner) round() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == Off {
		return time.Hour // SetMode wakes
	}
	o, err := r.cfg.Box.Observe()
	if err != nil {
		r.cfg.Log.Warn().Err(err).Msg("tuner cannot observe")
		return 10 * time.Second
	}
	if o.Interval <= 0 {
		return r.tuner.limits.MinRound // nothing to compare with yet
	}
	d := r.tuner.Decide(o)
	r.loads = d.Loads
	for _, p := range d.Actions {
		e := Entry{At: r.cfg.Now(), Planned: p, Advised: r.mode == Advise}
		if !e.Advised {
			if err := r.perform(p.Action); err != nil {
				e.Error = err.Error()
			}
		}
		r.journal.add(e)
		log := r.cfg.Log.Info().Stringer("action", p.Action).Str("reason", p.Reason.Text).Bool("advised", e.Advised)
		if e.Error != "" {
			log = log.Str("error", e.Error)
		}
		log.Msg("tuner decided")
	}
	return d.Next
}

var errNoIKE = errors.New("no IKE engine to ask it of")

func (r *Runner) perform(a Action) error {
	switch a := a.(type) {
	case Move:
		return r.cfg.Box.Move(a.SA, a.To)
	case Set:
		return r.set(a)
	case Split:
		if r.cfg.IKE == nil {
			return errNoIKE
		}
		return r.cfg.IKE.Split(a.SA)
	case Join:
		if r.cfg.IKE == nil {
			return errNoIKE
		}
		return r.cfg.IKE.Join(a.SA)
	}
	return fmt.Errorf("action %T: not known", a)
}

// set changes a setting; what it was is on disk before.
func (r *Runner) set(a Set) error {
	if _, changed := r.before[a.Setting]; !changed {
		r.before[a.Setting] = a.From
		if err := r.save(); err != nil {
			delete(r.before, a.Setting)
			return fmt.Errorf("remember %s before changing it: %w", a.Setting, err)
		}
	}
	return r.cfg.Box.Set(a.Setting, a.To)
}

func (r *Runner) save() error {
	if r.cfg.Keep == nil {
		return nil
	}
	return r.cfg.Keep.Save(r.before)
}

// restore gives all settings back; one that cannot be is kept for the next try.
func (r *Runner) restore() error {
	if len(r.before) == 0 {
		return nil
	}
	var failed []error
	for s, v := range r.before {
		if err := r.cfg.Box.Set(s, v); err != nil {
			failed = append(failed, fmt.Errorf("restore %s to %s: %w", s, v, err))
			continue
		}
		delete(r.before, s)
	}
	return errors.Join(append(failed, r.save())...)
}

// SetMode changes what the tuner may do, from the next round on. Off restores the
// settings; SAs stay where they are.
func (r *Runner) SetMode(m Mode) error {
	switch m {
	case Off, Advise, On:
	default:
		return fmt.Errorf("tuner mode %q: expected off, advise or on", m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = m
	select {
	case r.wake <- struct{}{}:
	default:
	}
	if m == On {
		return nil
	}
	return r.restore()
}

// Status is the tuner at this moment.
type Status struct {
	Mode    Mode
	Loads   []Load             // as of the last round
	Changed map[Setting]string // settings that differ, with the value that comes back
	Entries int                // in the journal
}

// Status reads it.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := make(map[Setting]string, len(r.before))
	for k, v := range r.before {
		changed[k] = v
	}
	return Status{Mode: r.mode, Loads: append([]Load(nil), r.loads...), Changed: changed, Entries: len(r.journal.entries())}
}

// History is the journal, the oldest entry first.
func (r *Runner) History() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.journal.entries()
}
