package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"espalier/dataplane/tune"
	"espalier/ike/vici"
)

type tuneCmd struct {
	Show    tuneShowCmd    `cmd:"" aliases:"list" help:"What the tuner may do, how busy the CPUs are, and which settings of the box differ."`
	History tuneHistoryCmd `cmd:"" help:"What it decided, why, and what came of it, the oldest first."`
	Advise  tuneAdviseCmd  `cmd:"" help:"What it would do now, without doing it."`
	Set     tuneSetCmd     `cmd:"" help:"Let it do nothing, only advise, or act, until the daemon reads its configuration again."`
}

type (
	tuneShowCmd    struct{}
	tuneHistoryCmd struct {
		Last int `placeholder:"N" default:"20" help:"Only the last N entries (${default}); 0: all that are kept."`
	}
	tuneAdviseCmd struct{}
	tuneSetCmd    struct {
		Mode string `arg:"" enum:"off,advise,on" help:"off, advise or on."`
	}
)

type (
	tuneResult struct {
		Schema int `json:"version"`
		tune.Report
	}
	tuneEntries struct {
		Schema  int                `json:"version"`
		Entries []tune.EntryReport `json:"entries"`
	}
)

// Run shows the tuner.
func (tuneShowCmd) Run(e *env) error { return e.showTuner("tune-show", nil) }

// Run sets the mode and shows what is true then.
func (cmd *tuneSetCmd) Run(e *env) error {
	var req vici.Message
	req.Put("mode", cmd.Mode)
	return e.showTuner("tune-set", req)
}

func (e *env) showTuner(command string, req vici.Message) error {
	var reports []tune.Report
	err := e.tuner(func(c *vici.Client) error { _, err := callJSON(e, c, command, req, &reports); return err })
	if err != nil {
		return err
	}
	if len(reports) != 1 {
		return fmt.Errorf("the daemon's answer has %d parts: expected one", len(reports))
	}
	res := tuneResult{schema, reports[0]}
	if e.format != plain {
		return e.print(res)
	}
	_, err = e.stdout.Write(res.text())
	return err
}

// Run shows the journal.
func (cmd *tuneHistoryCmd) Run(e *env) error {
	res := tuneEntries{schema, []tune.EntryReport{}}
	err := e.tuner(func(c *vici.Client) error {
		for more := true; more; {
			var req vici.Message
			if n := len(res.Entries); n > 0 {
				req.PutUint("after", res.Entries[n-1].ID)
			}
			var page []tune.EntryReport
			answer, err := callJSON(e, c, "tune-history", req, &page)
			if err != nil {
				return err
			}
			res.Entries = append(res.Entries, page...)
			more = answer.Text("more") == "yes" && len(page) > 0
		}
		return nil
	})
	if err != nil {
		return err
	}
	if cmd.Last > 0 {
		res.Entries = res.Entries[max(0, len(res.Entries)-cmd.Last):]
	}
	return e.showEntries(res, "nothing was decided yet")
}

// Run shows what the tuner would do.
func (tuneAdviseCmd) Run(e *env) error {
	res := tuneEntries{schema, []tune.EntryReport{}}
	err := e.tuner(func(c *vici.Client) error { _, err := callJSON(e, c, "tune-advise", nil, &res.Entries); return err })
	if err != nil {
		return err
	}
	return e.showEntries(res, "nothing to do: no change would be worth it")
}

func (e *env) showEntries(res tuneEntries, none string) error {
	if e.format != plain {
		return e.print(res)
	}
	var b bytes.Buffer
	for i := range res.Entries {
		entryText(&b, &res.Entries[i])
	}
	if len(res.Entries) == 0 {
		fmt.Fprintln(&b, none)
	}
	_, err := e.stdout.Write(b.Bytes())
	return err
}

// tuner asks the daemon's tuner.
func (e *env) tuner(ask func(*vici.Client) error) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return e.explain(ask(c))
}

// callJSON runs a command whose answer has JSON in a list.
func callJSON[T any](e *env, c *vici.Client, command string, req vici.Message, into *[]T) (vici.Message, error) {
	answer, err := c.Call(e.ctx, command, req)
	if err != nil {
		return nil, err
	}
	for _, part := range answer.List("json") {
		var v T
		if err := json.Unmarshal([]byte(part), &v); err != nil {
			return nil, fmt.Errorf("answer to %s: %w", command, err)
		}
		*into = append(*into, v)
	}
	return answer, nil
}

func (r *tuneResult) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "tuner %s\n", r.Mode)
	if r.Blind != "" {
		line(&b, 2, "blind", "it cannot look at the box: "+printable(r.Blind))
	}
	for _, c := range r.CPUs {
		line(&b, 2, fmt.Sprintf("CPU %d", c.CPU), cpuText(c))
	}
	line(&b, 2, "a round", strings.Join([]string{most(r.Limits.Moves, "SA moved", "SAs moved"),
		most(r.Limits.Splits, "per-CPU SA asked for", "per-CPU SAs asked for"), most(r.Limits.Settings, "setting changed", "settings changed"),
		most(r.Limits.Queues, "queue given to other CPUs", "queues given to other CPUs"), most(r.Limits.Offloads, "feature of a card switched", "features of cards switched"),
		most(r.Limits.Rekeys, "SA rekeyed", "SAs rekeyed")}, ", "))
	for _, name := range slices.Sorted(maps.Keys(r.Changed)) {
		line(&b, 2, "changed", fmt.Sprintf("%s; was and will be again: %s", name, r.Changed[name]))
	}
	line(&b, 2, "journal", number(uint64(r.Entries), "entry", "entries")+" (espctl tune history)")
	return b.Bytes()
}

func most(n int, one, many string) string {
	if n == 0 {
		return "no " + many
	}
	return "at most " + number(uint64(n), one, many)
}

func cpuText(c tune.CPUReport) string {
	return fmt.Sprintf("%.0f %% SAs, %.0f %% other work", c.SAs, c.Other)
}

// entryText writes a decision in plain words.
func entryText(b *bytes.Buffer, e *tune.EntryReport) {
	what := printable(e.Action)
	if e.Advised {
		what = "advice: " + what
	}
	fmt.Fprintf(b, "%s  %s\n", e.Time.Format("2006-01-02 15:04:05"), what)
	if e.Times > 1 {
		line(b, 2, "again", fmt.Sprintf("%d times in a row", e.Times))
	}
	var seen []string
	for _, c := range e.Seen {
		seen = append(seen, fmt.Sprintf("CPU %d: %s", c.CPU, cpuText(c)))
	}
	if len(seen) > 0 {
		line(b, 2, "seen", strings.Join(seen, "; "))
	}
	line(b, 2, "why", printable(e.Reason))
	if e.Before != nil && e.After != nil {
		line(b, 2, "expects", fmt.Sprintf("the busiest CPU goes from %.0f %% to %.0f %%", *e.Before, *e.After))
	}
	switch {
	case e.Error != "":
		line(b, 2, "failed", printable(e.Error))
	case e.How != "":
		line(b, 2, "done", printable(e.How))
	}
	switch {
	case e.Helped != nil:
		line(b, 2, "helped", yesNo(*e.Helped)+": "+printable(e.Outcome))
	case e.Outcome != "":
		line(b, 2, "helped", printable(e.Outcome)) // it cannot be told, and why
	}
}
