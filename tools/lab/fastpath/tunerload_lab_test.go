//go:build lab

package fastpath

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/dataplane/flow"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// tunerLoad is how long the load changes: make soak has half an hour, make fast-test two minutes, other runs no time.
var tunerLoad = flag.Duration("tuner-load", 0, "how long TestTunerChangingLoad changes the load, and TestMovesKeepOrder moves SAs for a tenth of it, and connections for another; 0 skips both")

// spin has another program keep a CPU busy until the context ends. It is none of this program's goroutines: Go would give it one of its two
// processors, and have what sends and what reads wait for the other.
func spin(ctx context.Context, cpu int) error {
	busy := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var set unix.CPUSet
	set.Set(cpu)
	bound := unix.SchedSetaffinity(busy.Process.Pid, &set)
	if bound != nil {
		_ = busy.Process.Kill() // Wait says what there is to say
	}
	if err := busy.Wait(); bound == nil && ctx.Err() == nil {
		return fmt.Errorf("a program that was to keep CPU %d busy ended: %w", cpu, err)
	}
	return bound
}

// manyRules has what the gateway does with a packet take a while: it looks through a list of routing rules. The tuner moves no SA for less than
// 5 % of a CPU, and without them a fast machine would have to get more packets for that than the test can send and read there.
func manyRules(g *gateway) {
	g.Helper()
	const rules = 2000
	var batch strings.Builder
	for range rules {
		fmt.Fprintln(&batch, "rule add from 192.0.2.1 lookup main") // nobody's address (RFC 5737)
	}
	file := filepath.Join(g.TempDir(), "rules")
	must(g, os.WriteFile(file, []byte(batch.String()), 0o600))
	need[string](g)(g.n.GW1.Run(g.Context(), "ip", "-batch", file))
}

// tuneHistory is what espctl prints, as far as the test needs it.
type tuneHistory struct{ Entries []tuneEntry }

type tuneEntry struct {
	ID                                        uint64
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
// has no time for, since another program has it, may be lost all the same. Packets are sealed before they are sent, so that nothing but the
// gateway and the other program has much to do meanwhile.
func TestTunerChangingLoad(t *testing.T) {
	if *tunerLoad == 0 {
		t.Skip("takes as long as -tuner-load says")
	}
	const count, rate, size, piece = 6, 2_000, 1200, 4 * time.Second
	const packets = int(rate * piece / time.Second)
	g := networkOnly(t)
	sink := newOrderSink(t, g.n)
	// Of the settings that the tuner raises, the one that each network namespace has: less than it wants.
	need[string](t)(g.n.GW1.Run(t.Context(), "sh", "-c", "echo 20480 > /proc/sys/net/core/optmem_max"))
	before := settingsOf(g.n.GW1)
	sas, gen := numberedSAs(g, count, size)
	manyRules(g)
	g.start(" steering = auto\n tune = on")
	g.known(sas...)
	r := reader(t, g.n.GW1, g.esp)
	s := packetSocket(t, g.n, packets)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() { changeLoad(ctx, t) })
	j := journal{}
	// A slow or busy machine gets more time until the tuner has found something to do.
	for began := time.Now(); time.Since(began) < *tunerLoad || len(j.moves()) < 2 && time.Since(began) < *tunerLoad+patience; {
		must(t, s.Ring().Fill(gen, packets))
		t.Log(send(t, g.n, s, esp.Pace{Count: uint64(packets), Rate: rate, Batch: 8, CPU: 0}))
		j.read(g)
	}
	cancel()
	others.Wait()
	o := sink.settled(t)
	t.Logf("%d packets at the client, %d skipped", o.got, o.missing-o.late)
	if o.late > 0 || o.got == 0 {
		t.Errorf("%d of %d packets late: expected each in its turn", o.late, o.got)
	}
	j.read(g)
	expectMoves(g, j)
	expectNothingDropped(g, j, r, o)
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

// journal is what the tuner decided, by number. It forgets the oldest ones itself, so it is read now and then.
type journal map[uint64]tuneEntry

func (j journal) read(g *gateway) {
	g.Helper()
	var h tuneHistory
	g.espctl(&h, "tune", "history", "--last", "256")
	for _, e := range h.Entries {
		j[e.ID] = e
	}
}

// moves are those that were carried out.
func (j journal) moves() (out []tuneEntry) {
	for _, e := range j {
		if e.Kind == "move" && e.Error == "" {
			out = append(out, e)
		}
	}
	return out
}

func (g *gateway) history() (h tuneHistory) {
	g.Helper()
	g.espctl(&h, "tune", "history", "--last", "0")
	return h
}

// expectMoves: there are moves, each with its reason.
func expectMoves(g *gateway, j journal) {
	g.Helper()
	text, _ := json.MarshalIndent(j, "", " ")
	g.Logf("%s", text)
	n := len(j.moves())
	if g.Logf("%d moves", n); n < 2 {
		g.Errorf("%d moves; expected at least 2", n)
	}
	for _, e := range j {
		if e.Reason == "" {
			g.Errorf("an entry without a reason: %+v", e)
		}
	}
}

// shedBy finds how many packets a move says that it dropped.
var shedBy = regexp.MustCompile(`(\d+) (?:packets )?were dropped`)

// expectNothingDropped: no packets were dropped for moves. Where the machine is so slow, or so busy with other things, that the gateway loses
// packets besides, it may drop some of an SA that leaves such a CPU, and says of each move how many.
func expectNothingDropped(g *gateway, j journal, r *flow.Reader, o order) {
	g.Helper()
	said, dropped := uint64(0), uint64(0)
	for _, e := range j {
		if m := shedBy.FindStringSubmatch(e.How + e.Error); m != nil {
			said += need[uint64](g)(strconv.ParseUint(m[1], 10, 64))
		}
	}
	for _, total := range need[[]flow.TotalCount](g)(r.Totals()) {
		if total.Total.String() == "shed" {
			dropped = total.Count
		}
	}
	lost := max(o.missing-o.late-int(dropped), 0)
	g.Logf("%d packets dropped for moves, %d lost besides", dropped, lost)
	if dropped > said || dropped > 0 && lost == 0 {
		g.Errorf("%d packets were dropped for moves, which say that it was %d, and %d were lost besides; expected none, as long as no CPU loses any by itself", dropped, said, lost)
	}
}
