package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"espalier/dataplane/tune"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
)

// tunerOf answers as the daemon's tuner does, with a made-up journal of three
// decisions in pages of two.
func tunerOf() map[string]vici.Command {
	reply := func(parts ...any) (m vici.Message, err error) {
		var list []string
		for _, p := range parts {
			b, jsonErr := json.Marshal(p)
			err = errors.Join(err, jsonErr)
			list = append(list, string(b))
		}
		m.PutList("json", list)
		return m, err
	}
	status := tune.Status{Mode: tune.On, Seen: vicitest.Now, Loads: []tune.Load{{CPU: 0, SAs: 0.7, Foreign: 0.25}, {CPU: 1, SAs: 0.65}},
		Limits: tune.Limits{Moves: 64, Splits: -1, Settings: 1}, Changed: map[string]string{"net.core.rmem_max": "212992"}, Entries: 3}
	show := func() (vici.Message, error) { return reply(status.Report()) }
	move := tune.Planned{Action: tune.Move{SPI: 0xc0ffee, Name: "gw/net", From: tune.NoCPU, To: 1},
		Reason: tune.Reason{Text: "CPU 0 has 140 % to do, and CPU 1 has room", Before: 1.4, After: 0.7}}
	set := tune.Planned{Action: tune.Set{Setting: tune.MaxBacklog, From: "1000", To: "2000"}, Reason: tune.Reason{Text: "99 packets found the queue to a CPU full in 1s"}}
	entries := []tune.Entry{
		{ID: 1, At: vicitest.Now, Times: 1, Planned: move, Loads: status.Loads, Note: "after 140 µs, at a moment without one of its packets under way",
			Outcome: "the busiest CPU with SAs has 70 % to do, 140 % before", Helped: true},
		{ID: 2, At: vicitest.Now.Add(time.Second), Times: 4, Planned: set, Advised: true},
		{ID: 3, At: vicitest.Now.Add(2 * time.Second), Times: 1, Planned: set, Outcome: "cannot be told: 7 kbit/s arrive now, 9 did before", Unknown: true},
		{ID: 5, At: vicitest.Now.Add(time.Minute), Times: 1, Planned: move, Error: "there was no moment"},
	}
	return map[string]vici.Command{
		"tune-show": func(context.Context, vici.Message) (vici.Message, error) { return show() },
		"tune-set": func(_ context.Context, req vici.Message) (vici.Message, error) {
			status.Mode = tune.Mode(req.Text("mode"))
			return show()
		},
		"tune-advise": func(context.Context, vici.Message) (vici.Message, error) {
			if status.Mode == tune.On {
				return reply()
			}
			return reply(entries[1].Report())
		},
		"tune-history": func(_ context.Context, req vici.Message) (vici.Message, error) {
			after, _ := strconv.ParseUint(req.Text("after"), 10, 64)
			var page []any
			more := false
			for _, e := range entries {
				if e.ID > after && len(page) < 2 {
					page = append(page, e.Report())
				} else {
					more = more || e.ID > after
				}
			}
			m, err := reply(page...)
			m.PutFlag("more", more)
			return m, err
		},
	}
}
