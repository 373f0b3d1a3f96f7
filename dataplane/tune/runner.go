package tune

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// Settings are those of the box; host.Settings is one. It remembers across a crash
// what each was before.
type Settings interface {
	// Get reads one. Errors: the box has none of the name.
	Get(name string) (string, error)
	Set(name, value string) error
	// Changed are those that differ, with the values that Restore gives back.
	Changed() map[string]string
	Restore() error
}

// IKE knows the CHILD SAs, by their inbound SPIs, and negotiates what the tuner
// wants of the peers. It returns as soon as a wish is noted; what comes of that
// shows in later observations.
type IKE interface {
	// Know fills in what the fast path does not know of SAs: Group, CanSplit.
	Know([]SA)
	// Whole says why there can be no SAs of single CPUs beside one.
	Whole(spi uint32) string
	// Split asks the peer for an SA of a CPU. Errors: there cannot be one, or it has
	// just gone.
	Split(ctx context.Context, spi uint32, cpu int) error
	// Join ends an SA of one CPU. Errors: it is still sent on, or has just gone.
	Join(ctx context.Context, spi uint32) error
}

// Config is what a Runner needs.
type Config struct {
	Box      Box
	Settings Settings // nil: none are changed
	IKE      IKE      // nil: nothing can be asked of the peers
	Renewer  Renewer  // nil: no SA can be replaced
	// Tell adds to an observation what the box cannot see, Paths and MSS; nil: nothing.
	Tell   func(*Observation)
	Mode   Mode
	Limits Limits
	Log    zerolog.Logger
	// Name says what an inbound SA is called, connection and child; nil: nothing.
	Name func(spi uint32) string
	Now  func() time.Time
}

// Runner observes, decides, acts and remembers why. Its methods are safe for
// concurrent use.
type Runner struct {
	cfg  Config
	wake chan struct{}

	work  sync.Mutex // held for a round
	tuner *Tuner
	last  Observation // of the last round; none while the mode is Off
	links linkSettings

	mu      sync.Mutex // guards what follows, and is never held for long
	mode    Mode
	limits  Limits
	journal journal
	loads   []Load
	seen    time.Time // when
	blind   string    // why nothing can be observed; empty: it can
}

// NewRunner makes a runner; Run starts it. What an earlier run of the daemon left
// changed is restored first.
func NewRunner(cfg Config) (*Runner, error) {
	if err := cfg.Mode.check(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Runner{cfg: cfg, mode: cfg.Mode, limits: cfg.Limits, tuner: New(cfg.Limits), wake: make(chan struct{}, 1)}
	return r, r.restore()
}

func (m Mode) check() error {
	switch m {
	case Off, Advise, On:
		return nil
	}
	return fmt.Errorf("tuner mode %q: expected off, advise or on", string(m))
}

// Run works until ctx ends, then restores every setting that it changed. SAs stay
// where they are.
func (r *Runner) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			r.work.Lock()
			defer r.work.Unlock()
			return r.restore()
		case <-r.wake:
			timer.Stop()
		case <-timer.C:
		}
		wait = r.round(ctx)
	}
}

// blindWait is the time until a box that cannot be observed is looked at again.
const blindWait = 10 * time.Second

// round does one round and returns the time until the next.
func (r *Runner) round(ctx context.Context) time.Duration {
	r.work.Lock()
	defer r.work.Unlock()
	r.mu.Lock()
	mode := r.mode
	r.mu.Unlock()
	if mode == Off {
		return time.Hour // SetMode wakes
	}
	o, err := r.cfg.Box.Observe()
	if err != nil {
		r.cfg.Log.Warn().Err(err).Msg("tuner cannot observe")
		r.mu.Lock()
		r.blind = err.Error()
		r.mu.Unlock()
		return blindWait
	}
	if o.Interval <= 0 {
		return r.tuner.limits.MinRound // nothing to compare with yet
	}
	o.System.Settings = r.settings(&o)
	r.know(&o)
	r.last = o
	d := r.tuner.Decide(o)
	r.mu.Lock()
	r.loads, r.seen, r.blind = d.Loads, r.cfg.Now(), ""
	for i := range d.Verdicts {
		r.journal.judge(&d.Verdicts[i])
	}
	r.mu.Unlock()
	r.act(ctx, mode, &d)
	return d.Next
}

// settings reads those that the tuner knows and the box has.
func (r *Runner) settings(o *Observation) map[Setting]string {
	out := map[Setting]string{}
	if r.cfg.Settings == nil {
		return out
	}
	for _, s := range Known {
		if v, err := r.cfg.Settings.Get(string(s)); err == nil {
			out[s] = v
		}
	}
	r.links.read(r.cfg.Settings, r.cfg.Now(), o, out)
	o.System.Refused, r.links.refused = r.links.refused, nil
	return out
}

// act carries a decision out, or only writes it down.
func (r *Runner) act(ctx context.Context, mode Mode, d *Decision) {
	entries := make([]Entry, len(d.Actions))
	var moves []Move
	var which []int
	for i, p := range d.Actions {
		p = r.worded(p)
		entries[i] = Entry{At: r.cfg.Now(), Loads: d.Loads, Planned: p, Advised: mode == Advise}
		if m, ok := p.Action.(Move); ok {
			moves, which = append(moves, m), append(which, i)
		}
	}
	if mode == On {
		if len(moves) > 0 {
			for i, m := range r.cfg.Box.Move(ctx, moves) {
				entries[which[i]].Note, entries[which[i]].Error = m.Note, text(m.Err)
			}
		}
		for i := range entries {
			if e := &entries[i]; !slices.Contains(which, i) {
				e.Error = text(r.perform(ctx, e.Planned.Action))
			}
		}
	}
	for i := range entries {
		e := &entries[i]
		r.mu.Lock()
		fresh := r.journal.add(*e)
		r.mu.Unlock()
		if !fresh {
			continue
		}
		log := r.cfg.Log.Info().Stringer("action", e.Planned.Action).Str("reason", e.Planned.Reason.Text).Bool("advised", e.Advised)
		if e.Error != "" {
			log = log.Str("error", e.Error)
		}
		log.Msg("tuner decided")
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

var (
	errNoIKE      = errors.New("no IKE engine to ask it of")
	errNoSettings = errors.New("no settings to change")
)

// perform carries out what is no move.
func (r *Runner) perform(ctx context.Context, a Action) error {
	switch a := a.(type) {
	case Set:
		if r.cfg.Settings == nil {
			return errNoSettings
		}
		return r.links.set(r.cfg.Settings, a)
	case Split:
		if r.cfg.IKE == nil {
			return errNoIKE
		}
		return r.cfg.IKE.Split(ctx, a.SPI, a.CPU)
	case Join:
		if r.cfg.IKE == nil {
			return errNoIKE
		}
		return r.cfg.IKE.Join(ctx, a.SPI)
	case Renew:
		return r.renew(ctx, a)
	case Leave, Say:
		return nil
	}
	return fmt.Errorf("action %T: not known", a)
}

// restore gives all settings back.
func (r *Runner) restore() error {
	if r.cfg.Settings == nil {
		return nil
	}
	if err := r.cfg.Settings.Restore(); err != nil {
		return fmt.Errorf("give settings back: %w", err)
	}
	return nil
}

// SetMode changes what the tuner may do, from the next round on. All but On restore
// the settings; SAs stay where they are.
func (r *Runner) SetMode(m Mode) error {
	if err := m.check(); err != nil {
		return err
	}
	r.work.Lock()
	defer r.work.Unlock()
	r.mu.Lock()
	was := r.mode
	r.mode = m
	r.mu.Unlock()
	if was != On && m == On {
		r.tuner = New(r.tuner.limits) // it waits for what comes of what was only said, or was long ago
	}
	if m == Off {
		r.last = Observation{}
	}
	r.poke()
	if m == On {
		return nil
	}
	return r.restore()
}

// SetLimits changes the limits, from the next round on.
func (r *Runner) SetLimits(l Limits) {
	r.work.Lock()
	defer r.work.Unlock()
	r.tuner.limits = l.withDefaults()
	r.mu.Lock()
	r.limits = l
	r.mu.Unlock()
	r.poke()
}

func (r *Runner) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Status is the tuner at this moment.
type Status struct {
	Mode    Mode
	Limits  Limits            // with the defaults in place
	Loads   []Load            // as of the last round
	Seen    time.Time         // when that was; zero: none yet
	Blind   string            // why nothing can be observed; empty: it can
	Changed map[string]string // settings that differ, with the value that comes back
	Entries int               // in the journal
}

// Status reads it.
func (r *Runner) Status() Status {
	changed := map[string]string{}
	if r.cfg.Settings != nil {
		changed = r.cfg.Settings.Changed()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return Status{Mode: r.mode, Limits: r.limits.withDefaults(), Loads: append([]Load(nil), r.loads...), Seen: r.seen, Blind: r.blind,
		Changed: changed, Entries: len(r.journal.ring)}
}

// adviceTime is how long the box is looked at for advice while the mode is Off.
const adviceTime = time.Second

// Advice says what the tuner would do if the load stayed as it was seen last, and
// does nothing. Errors: the box cannot be observed.
func (r *Runner) Advice(ctx context.Context) ([]Entry, error) {
	r.work.Lock()
	defer r.work.Unlock()
	o := r.last
	if o.Interval <= 0 {
		for again := range 2 {
			if again > 0 {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(adviceTime):
				}
			}
			var err error
			if o, err = r.cfg.Box.Observe(); err != nil {
				return nil, err
			}
		}
		o.System.Settings = r.settings(&o)
		r.know(&o)
	}
	return r.advice(o), nil
}

// advice is what a tuner decides that sees one observation again and again.
func (r *Runner) advice(o Observation) (out []Entry) {
	t := New(r.tuner.limits)
	t.eager = maps.Clone(r.tuner.eager)
	for range max(patience, shortRounds) {
		d := t.Decide(o)
		for _, p := range d.Actions {
			if slices.ContainsFunc(out, func(e Entry) bool { return same(e.Planned.Action, p.Action) }) {
				continue
			}
			p = r.worded(p)
			out = append(out, Entry{At: r.cfg.Now(), Times: 1, Loads: d.Loads, Planned: p, Advised: true})
		}
	}
	return out
}

// know has IKE say what it knows of the observed SAs.
func (r *Runner) know(o *Observation) {
	if r.cfg.IKE != nil {
		r.cfg.IKE.Know(o.SAs)
	}
	if r.cfg.Tell != nil {
		r.cfg.Tell(o)
	}
}

// worded is an action with its SA's name, and with the reason that IKE has for it.
func (r *Runner) worded(p Planned) Planned {
	spi := spiOf(p.Action)
	if spi != 0 && r.cfg.Name != nil {
		p.Action = withName(p.Action, r.cfg.Name(spi))
	}
	if _, leave := p.Action.(Leave); leave && spi != 0 && r.cfg.IKE != nil {
		if why := r.cfg.IKE.Whole(spi); why != "" {
			p.Reason.Text += "; there can be none of single CPUs beside it (RFC 9611): " + why
		}
	}
	return p
}

// History is the journal, the oldest entry first.
func (r *Runner) History() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.journal.entries()
}
