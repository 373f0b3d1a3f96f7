//go:build lab

package fastpath

import (
	"context"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// TestTunerMoves: more comes to one CPU than it gets done, ESP and then clear packets. A tuner that may only advise says what it would do, one that may
// does it: an SA, a group of connections are the other CPU's.
func TestTunerMoves(t *testing.T) {
	t.Run("SAs", func(t *testing.T) {
		s := newSteeredOf(t, tunnels)
		sender := liveFrames(t, s.n, 4096)
		must(t, sender.Ring().Fill(s.generator(), 0))
		must(t, sender.Ring().Replay())
		s.start(" steering = auto\n tune = advise")
		s.known(s.sas...)
		s.expectTuned(t, sender, s.n.Wire, "move SPI 0x1000000")
		moved := false
		for _, sa := range s.sas {
			e := s.entries()[entryOf(&sa)]
			moved = moved || e.CPU != nil && *e.CPU == 1
		}
		if !moved {
			t.Errorf("no SA is CPU 1's: %+v", s.entries())
		}
		must(t, s.esp.Stop())
	})
	t.Run("connections", func(t *testing.T) {
		g, out := newEncrypting(t, " steering = auto\n tune = advise")
		sender := fromInside(t, g.n, 1024)
		must(t, sender.Ring().Fill(newClearFlows(t, g.n, innerSize, 20_000, 20_001, 20_002, 20_003, 20_004, 20_005), 0))
		must(t, sender.Ring().Replay())
		s := &steered{gateway: g, all: func() []dataplane.SAKey { return []dataplane.SAKey{out.SAKey} }}
		s.expectTuned(t, sender, g.n.Client1, "move group ")
		if given := g.totals().of("flow-redirected"); given == 0 {
			t.Errorf("no packet was given to the other CPU: %+v", g.totals())
		}
		must(t, g.esp.Stop())
	})
}

// expectTuned sends until the tuner, which may only advise, says that it would move something, and then, allowed to, does; packets go through after it.
func (s *steered) expectTuned(t *testing.T, sender esp.Sender, from *topo.Host, action string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan esp.Report, 1)
	go func() {
		defer close(sent)
		err := from.Do(func() error {
			r, err := esp.Send(ctx, sender, esp.Pace{Batch: 64, CPU: 0})
			sent <- r
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}()
	defer func() { cancel(); t.Log(<-sent) }()
	entry := func(what string, ok func(e tuneEntry) bool) {
		t.Helper()
		for last := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) { // looking costs what the tuner sees as other work
			h := s.history()
			for _, e := range h.Entries {
				if strings.HasPrefix(e.Action, action) && ok(e) {
					t.Logf("%s: %+v", what, e)
					return
				}
			}
			if time.Now().After(last) {
				show, _ := s.esp.Espctl(s.Context(), "tune", "show")
				t.Fatalf("nothing %s: %+v\n%s\n%s", what, h, show, s.esp.Log())
			}
		}
	}
	entry("advised", func(e tuneEntry) bool { return e.Advised })
	if out, err := s.esp.Espctl(t.Context(), "tune", "set", "on"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	entry("moved", func(e tuneEntry) bool { return !e.Advised && e.Error == "" })
	before := s.decrypted()
	until(t, "packets after it", func() (bool, string) { return s.decrypted() > before+100, "none come through" })
}
