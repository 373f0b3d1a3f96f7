//go:build lab

package fastpath

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/dataplane/flow"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// tunerLoad is how long the load changes: make soak has half an hour, make fast-test 100 s, other runs no time.
var tunerLoad = flag.Duration("tuner-load", 0, "how long TestTunerChangingLoad changes the load, and TestMovesKeepOrder moves for a fifth of it; 0 skips both")

// spin keeps a CPU busy until the context ends.
func spin(ctx context.Context, cpu int) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	for ctx.Err() == nil {
		for range 1 << 12 {
			runtime.KeepAlive(cpu)
		}
	}
	return nil
}

// tuneHistory is what espctl prints, as far as the test needs it.
type tuneHistory struct{ Entries []tuneEntry }

type tuneEntry struct {
	Kind, Action, Reason, Error, How, Outcome string
	Helped                                    *bool
	Advised                                   bool
}

// settingsOf reads settings of the gateway's box; those that it has not are missing.
func settingsOf(h *topo.Host) map[string]string {
	out := map[string]string{}
	for _, name := range []string{"netdev_max_backlog", "netdev_budget", "netdev_budget_usecs", "rmem_max", "wmem_max", "optmem_max"} {
		if v, err := h.Run(context.Background(), "cat", "/proc/sys/net/core/"+name); err == nil {
			out[name] = strings.TrimSpace(v)
		}
	}
	return out
}

// TestTunerChangingLoad: another program keeps one CPU busy, then the other, then none, while numbered packets of six SAs come and the tuner
// does what it thinks is right. It moves SAs, and not one packet is late or dropped for it; what it changed of the box comes back. What a CPU
// has no time for, since another program has it, may be lost all the same.
func TestTunerChangingLoad(t *testing.T) {
	if *tunerLoad == 0 {
		t.Skip("takes as long as -tuner-load says")
	}
	const count, rate, size, piece = 6, 3_000, 1200, 4 * time.Second
	g := networkOnly(t)
	sink := newOrderSink(t, g.n)
	// Of the settings that the tuner raises, the one that each network namespace has: less than it wants.
	need[string](t)(g.n.GW1.Run(t.Context(), "sh", "-c", "echo 20480 > /proc/sys/net/core/optmem_max"))
	before := settingsOf(g.n.GW1)
	sas, gen := numberedSAs(g, count, size)
	g.start(" steering = auto\n tune = on")
	g.known(sas...)
	r := reader(t, g.n.GW1, g.esp)
	s := packetSocket(t, g.n, 4096)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() { _ = s.Ring().Keep(ctx, gen) })
	others.Go(func() { changeLoad(ctx, t) })
	// A slow or busy machine gets more time until the tuner has found something to do.
	for began := time.Now(); time.Since(began) < *tunerLoad || g.moves() < 2 && time.Since(began) < *tunerLoad+patience; {
		t.Log(send(t, g.n, s, esp.Pace{Count: uint64(rate * piece.Seconds()), Rate: rate, Batch: 16, CPU: 0}))
	}
	cancel()
	others.Wait()
	o := sink.settled(t)
	t.Logf("%d packets at the client, %d skipped", o.got, o.missing-o.late)
	if o.late > 0 || o.got == 0 {
		t.Errorf("%d of %d packets late: expected each in its turn", o.late, o.got)
	}
	g.expectMoves(r)
	if changed := settingsOf(g.n.GW1); fmt.Sprint(changed) == fmt.Sprint(before) {
		t.Errorf("settings %v: expected that the tuner has raised some", changed)
	}
	must(t, g.esp.Stop())
	if after := settingsOf(g.n.GW1); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("settings after the stop: %v; expected those from before, %v", after, before)
	}
}

// changeLoad keeps CPUs busy in turn.
func changeLoad(ctx context.Context, t *testing.T) {
	for turn := 0; ctx.Err() == nil; turn++ {
		phase, end := context.WithTimeout(ctx, 4*time.Second)
		if cpu := turn % 3; cpu < 2 {
			if err := spin(phase, cpu); err != nil {
				t.Error(err)
			}
		}
		<-phase.Done()
		end()
	}
}

// patience is how long the load goes on changing until SAs were moved.
const patience = time.Minute

// moves counts them in the tuner's journal.
func (g *gateway) moves() (n int) {
	g.Helper()
	for _, e := range g.history().Entries {
		if e.Kind == "move" && e.Error == "" {
			n++
		}
	}
	return n
}

func (g *gateway) history() (h tuneHistory) {
	g.Helper()
	g.espctl(&h, "tune", "history", "--last", "0")
	return h
}

// expectMoves looks into the journal: there are moves, and none that dropped packets.
func (g *gateway) expectMoves(r *flow.Reader) {
	g.Helper()
	h := g.history()
	text, _ := json.MarshalIndent(h, "", " ")
	g.Logf("%s", text)
	if n := g.moves(); n < 2 {
		g.Errorf("%d moves; expected at least 2", n)
	}
	for _, e := range h.Entries {
		if e.Reason == "" {
			g.Errorf("an entry without a reason: %+v", e)
		}
	}
	for _, total := range need[[]flow.TotalCount](g)(r.Totals()) {
		if total.Total.String() == "shed" && total.Count > 0 {
			g.Errorf("%d packets were dropped for moves", total.Count)
		}
	}
}
