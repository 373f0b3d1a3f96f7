package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"espalier/ike/vici"
)

type planCmd struct {
	Show planShowCmd `cmd:"" aliases:"list" help:"Say what a reload of the configuration would change, without doing it."`
}

type planShowCmd struct{}

type planResult struct {
	Schema      int          `json:"version"`
	Differs     bool         `json:"differs"`
	Added       []string     `json:"added"`       // connections
	Removed     []string     `json:"removed"`     // connections
	Changed     []planConn   `json:"changed"`     // connections
	Unchanged   json.Number  `json:"unchanged"`   // how many connections
	Credentials bool         `json:"credentials"` // keys, certificates or shared secrets differ
	Pools       bool         `json:"pools"`
	Settings    []string     `json:"settings"` // keys of section espalier
	Restart     []string     `json:"restart"`  // those of them that take effect with the next start
	Started     []string     `json:"started"`  // CONNECTION/CHILD that would be initiated
	Ended       []planEnding `json:"ended"`    // live sessions that would end, or lose CHILD SAs
}

type planConn struct {
	Name    string   `json:"name"`
	IKE     bool     `json:"ike"` // something outside its children
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed"`
}

type planEnding struct {
	UniqueID   json.Number `json:"unique_id"`
	Name       string      `json:"name"` // connection
	RemoteHost string      `json:"remote_host"`
	RemoteID   string      `json:"remote_id"`
	Children   []string    `json:"children"` // NAME#ID of the CHILD SAs; empty: the whole IKE SA
}

// Run asks the daemon, which reads its configuration file.
func (planShowCmd) Run(e *env) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := c.Call(e.ctx, "plan", nil)
	if err != nil {
		return e.explain(err)
	}
	r := decodePlan(m)
	if e.format != plain {
		return e.print(r)
	}
	_, err = fmt.Fprint(e.stdout, r.text())
	return err
}

// listOf is a list that is never null in JSON.
func listOf(m vici.Message, name string) []string { return append([]string{}, m.List(name)...) }

func decodePlan(m vici.Message) planResult {
	r := planResult{
		Schema: schema, Differs: m.Text("differs") == "yes", Added: listOf(m, "added"), Removed: listOf(m, "removed"), Changed: []planConn{}, Unchanged: json.Number(m.Text("unchanged")),
		Credentials: m.Text("credentials") == "yes", Pools: m.Text("pools") == "yes", Settings: listOf(m, "settings"), Restart: listOf(m, "restart"),
		Started: listOf(m, "started"), Ended: []planEnding{},
	}
	for _, s := range m.Section("changed").Sections() {
		r.Changed = append(r.Changed, planConn{s.Name, s.Body.Text("ike") == "yes", listOf(s.Body, "added"), listOf(s.Body, "removed"), listOf(s.Body, "changed")})
	}
	for _, s := range m.Section("ended").Sections() {
		r.Ended = append(r.Ended, planEnding{json.Number(s.Name), s.Body.Text("ike"), s.Body.Text("remote-host"), s.Body.Text("remote-id"), listOf(s.Body, "children")})
	}
	return r
}

func (r *planResult) text() string {
	if !r.Differs {
		return "nothing differs\n"
	}
	var b strings.Builder
	line := func(what string, items []string) {
		if len(items) > 0 {
			fmt.Fprintf(&b, "%-12s %s\n", what, printable(strings.Join(items, " ")))
		}
	}
	line("added", r.Added)
	line("removed", r.Removed)
	for _, c := range r.Changed {
		var parts []string
		if c.IKE {
			parts = append(parts, "outside its children")
		}
		for _, p := range []struct {
			what string
			list []string
		}{{"added", c.Added}, {"removed", c.Removed}, {"changed", c.Changed}} {
			if len(p.list) > 0 {
				parts = append(parts, p.what+" "+strings.Join(p.list, " "))
			}
		}
		line("changed", []string{c.Name + ": " + strings.Join(parts, ", ")})
	}
	if r.Credentials {
		line("credentials", []string{"differ"})
	}
	if r.Pools {
		line("pools", []string{"differ"})
	}
	line("settings", r.Settings)
	line("next start", r.Restart)
	line("started", r.Started)
	for _, s := range r.Ended {
		what := "the IKE SA and all its children"
		if len(s.Children) > 0 {
			what = strings.Join(s.Children, " ")
		}
		line("ended", []string{fmt.Sprintf("%s #%s with %s %s: %s", s.Name, s.UniqueID, s.RemoteHost, s.RemoteID, what)})
	}
	if len(r.Ended) == 0 {
		line("ended", []string{"no live tunnel"})
	}
	return b.String()
}
