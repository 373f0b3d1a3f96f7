package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/sa"
	"espalier/ike/vici"
)

// plan says what a reload would change, and which sessions it would disturb, without
// doing it.
type plan struct {
	diff     config.Changes
	sessions engine.Changes
	next     *config.Config
}

// plan reads the file as reload does. Errors: what is wrong with it.
func (f *inForce) plan() (plan, error) {
	file, err := config.LoadWith(f.from.Config, f.from.whenRunning(f.file))
	if err != nil {
		return plan{}, err
	}
	if _, err := settingsOf(file); err != nil {
		return plan{}, err
	}
	old := f.running.Load()
	next, err := config.Join(file, f.loaded, old)
	if err != nil {
		return plan{}, err
	}
	diff := config.Diff(old, next)
	return plan{diff, changesOf(old, next, diff), next}, nil
}

// message is the answer to the command plan. Lists that are empty are left out.
func (p *plan) message(sessions func(conn string) []sa.Info) (m vici.Message) {
	m.PutFlag("differs", !p.diff.None())
	list := func(m *vici.Message, name string, items []string) {
		if len(items) > 0 {
			m.PutList(name, items)
		}
	}
	list(&m, "added", p.diff.Added)
	list(&m, "removed", p.diff.Removed)
	if len(p.diff.Changed) > 0 {
		var changed vici.Message
		for _, c := range p.diff.Changed {
			var one vici.Message
			one.PutFlag("ike", c.IKE)
			list(&one, "added", c.Added)
			list(&one, "removed", c.Removed)
			list(&one, "changed", c.Changed)
			changed.PutSection(c.Name, one)
		}
		m.PutSection("changed", changed)
	}
	m.PutInt("unchanged", int64(len(p.diff.Unchanged)))
	m.PutFlag("credentials", p.diff.Credentials)
	m.PutFlag("pools", p.diff.Pools)
	list(&m, "settings", p.diff.Settings)
	var restart []string
	for _, key := range p.diff.Settings {
		if needsRestart(key) {
			restart = append(restart, key)
		}
	}
	list(&m, "restart", restart)
	list(&m, "started", p.started(sessions))
	if ended := p.ended(sessions); len(ended) > 0 {
		m.PutSection("ended", ended)
	}
	return m
}

// started are the children that would be initiated: those with start_action = start
// that are not up.
func (p *plan) started(sessions func(string) []sa.Info) (out []string) {
	for _, n := range p.sessions.Start {
		ch := p.next.Connection(n.Conn).Child(n.Child)
		if ch == nil || !ch.Start {
			continue
		}
		up := false
		for _, s := range sessions(n.Conn) {
			for i := range s.Children {
				up = up || s.Children[i].Name == n.Child && s.Children[i].State.InKernel()
			}
		}
		if !up {
			out = append(out, n.Conn+"/"+n.Child)
		}
	}
	return out
}

// ended are the sessions that would end, or lose CHILD SAs, by their unique ids.
func (p *plan) ended(sessions func(string) []sa.Info) (m vici.Message) {
	add := func(s *sa.Info, children []string) {
		var one vici.Message
		one.Put("ike", s.Conn)
		one.Put("remote-host", s.Remote.Addr().Unmap().String())
		one.Put("remote-id", s.RemoteID)
		if children != nil {
			one.PutList("children", children)
		}
		m.PutSection(fmt.Sprint(s.UniqueID), one)
	}
	for _, conn := range p.sessions.RemovedConns {
		for _, s := range sessions(conn) {
			add(&s, nil)
		}
	}
	gone := map[string]map[string]bool{}
	var order []string
	for _, n := range p.sessions.RemovedChildren {
		if gone[n.Conn] == nil {
			gone[n.Conn] = map[string]bool{}
			order = append(order, n.Conn)
		}
		gone[n.Conn][n.Child] = true
	}
	for _, conn := range order {
		for _, s := range sessions(conn) {
			var children []string
			for i := range s.Children {
				if ch := &s.Children[i]; gone[conn][ch.Name] {
					children = append(children, fmt.Sprintf("%s#%d", ch.Name, ch.UniqueID))
				}
			}
			if children != nil {
				add(&s, children)
			}
		}
	}
	return m
}

// planCommand is the command plan of the control socket.
func (f facade) planCommand(ctx context.Context, _ vici.Message) (vici.Message, error) {
	var p plan
	err := f.inMainLoop(ctx, func() (err error) {
		p, err = f.force.plan()
		return err
	})
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return p.message(func(conn string) (out []sa.Info) {
		f.SessionsOf(conn, 0, func(s sa.Info) bool {
			out = append(out, s)
			return true
		})
		return out
	}), nil
}
