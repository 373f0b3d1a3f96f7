package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/dataplane/host"
	"espalier/dataplane/tune"
	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/vici"
	"espalier/internal/event"
)

// tuner is the tuner with what the daemon does for it.
type tuner struct {
	*tune.Runner
	sas  *childSAs
	stop context.CancelFunc
	done sync.WaitGroup
	err  error
}

// newTuner makes it; run starts it. What a former run changed of the box is given
// back first. An error is no reason for a gateway not to start: the tuner is nil.
func newTuner(fast *flow.Flow, windows *dataplane.Windows, cfg *config.Config, runDir string, bus *event.Bus, log zerolog.Logger) *tuner {
	settings, err := host.OpenSettings(filepath.Join(runDir, filepath.Base(host.DefaultSettings)), host.Local{})
	if err != nil {
		log.Error().Err(err).Msg("no tuner")
		return nil
	}
	var paths tune.Paths = noPaths{}
	if fast != nil {
		paths = fast
	}
	t := &tuner{sas: followChildren(bus)}
	t.sas.windows = windows
	t.sas.mss.Store(fast != nil && cfg.Settings.FastPath.MSS)
	t.Runner, err = tune.NewRunner(tune.Config{Box: tune.NewBox(paths), Renewer: t.sas, Tell: t.sas.tell, Settings: settings, Mode: tune.Mode(cfg.Settings.Tuner.Mode),
		Limits: tunerLimits(cfg), Log: log, IKE: t.sas, Name: t.sas.name})
	if t.Runner == nil {
		t.sas.close()
		log.Error().Err(err).Msg("no tuner")
		return nil
	}
	if err != nil {
		log.Warn().Err(err).Msg("not every setting that a former run changed could be given back")
	}
	return t
}

// run starts it; e is asked for what it wants of the peers.
func (t *tuner) run(e *engine.Engine) {
	if t == nil {
		return
	}
	t.sas.engine.Store(e)
	var ctx context.Context
	ctx, t.stop = context.WithCancel(context.Background())
	t.done.Go(func() { t.err = t.Run(ctx) })
}

// close ends it: settings are given back, SAs stay where they are.
func (t *tuner) close() error {
	if t == nil {
		return nil
	}
	if t.stop != nil {
		t.stop()
		t.done.Wait()
	}
	t.sas.close()
	return t.err
}

// reload takes a changed configuration over; what espctl has set stays unless it has
// changed.
func (t *tuner) reload(old, next *config.Config) {
	if t == nil {
		return
	}
	t.sas.mss.Store(next.Settings.FastPath.On && next.Settings.FastPath.MSS)
	if old.Settings.Tuner == next.Settings.Tuner {
		return
	}
	t.SetLimits(tunerLimits(next))
	_ = t.SetMode(tune.Mode(next.Settings.Tuner.Mode)) // what is not given back now is at the end
}

// tunerLimits are the configuration's.
func tunerLimits(cfg *config.Config) tune.Limits {
	none := func(n int) int {
		if n == 0 {
			return -1
		}
		return n
	}
	c := &cfg.Settings.Tuner
	return tune.Limits{Moves: none(c.Moves), Splits: none(c.Splits), Settings: none(c.Settings),
		Queues: none(c.Queues), Offloads: none(c.Offloads), Rekeys: none(c.Rekeys)}
}

// Commands of the control socket: their answers have JSON in a list, a part an
// element.
const (
	tuneShow    = "tune-show"
	tuneHistory = "tune-history" // of entries after the one with the id "after"; "more" when there are further ones
	tuneAdvise  = "tune-advise"  // entries of what would be done now
	tuneSet     = "tune-set"     // "mode"; answers as tuneShow
)

// historyPage is how many entries an answer has at most; one is less than 4 KiB.
const historyPage = 100

// commands are what clients of the control socket can ask of it.
func (t *tuner) commands() map[string]vici.Command {
	if t == nil {
		return nil
	}
	return map[string]vici.Command{
		tuneShow: func(context.Context, vici.Message) (vici.Message, error) { return t.show() },
		tuneSet: func(_ context.Context, req vici.Message) (vici.Message, error) {
			if err := t.SetMode(tune.Mode(req.Text("mode"))); err != nil {
				return nil, err
			}
			return t.show()
		},
		tuneAdvise:  func(ctx context.Context, _ vici.Message) (vici.Message, error) { return t.advise(ctx) },
		tuneHistory: func(_ context.Context, req vici.Message) (vici.Message, error) { return t.history(req) },
	}
}

func (t *tuner) show() (vici.Message, error) {
	status := t.Status()
	return jsonList(status.Report())
}

func (t *tuner) advise(ctx context.Context) (vici.Message, error) {
	entries, err := t.Advice(ctx)
	if err != nil {
		return nil, err
	}
	var parts []any
	for _, e := range entries[:min(len(entries), historyPage)] {
		parts = append(parts, e.Report())
	}
	return jsonList(parts...)
}

func (t *tuner) history(req vici.Message) (vici.Message, error) {
	after := uint64(0)
	if s := req.Text("after"); s != "" {
		var err error
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, fmt.Errorf("after %q: expected the number of an entry", s)
		}
	}
	var page []any
	more := false
	for _, e := range t.History() {
		switch {
		case e.ID <= after:
		case len(page) == historyPage:
			more = true
		default:
			page = append(page, e.Report())
		}
	}
	m, err := jsonList(page...)
	m.PutFlag("more", more)
	return m, err
}

func jsonList(parts ...any) (m vici.Message, err error) {
	var list []string
	for _, p := range parts {
		b, jsonErr := json.Marshal(p)
		err = errors.Join(err, jsonErr)
		list = append(list, string(b))
	}
	m.PutList("json", list)
	return m, err
}

// noPaths is where no fast path is: there are no SAs to move.
type noPaths struct{}

func (noPaths) Traffic() iter.Seq[*flow.Traffic]                          { return func(func(*flow.Traffic) bool) {} }
func (noPaths) SteerCPUs() []int                                          { return nil }
func (noPaths) Shift(context.Context, []flow.Shift) (none []flow.Shifted) { return none }
func (noPaths) Taken(int) uint64                                          { return 0 }
func (noPaths) Queue() int                                                { return 0 }
