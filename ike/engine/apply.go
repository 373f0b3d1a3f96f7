package engine

import (
	"context"

	"espalier/ike/auth"
	"espalier/ike/sa"
)

// ChildName names a child of a connection in Changes.
type ChildName struct{ Conn, Child string }

// Changes says what a new configuration does to the sessions; what it does not
// name is left alone.
type Changes struct {
	// RemovedConns are the connections whose sessions are terminated.
	RemovedConns []string
	// RemovedChildren are the children whose CHILD SAs are terminated.
	RemovedChildren []ChildName
	// Start are the children, new or changed, that are initiated if they have
	// Start and are not up. A changed child that is up lives on as it is.
	Start []ChildName
}

// Apply replaces the configuration while the engine runs. Sessions see the new
// one from their next step on. Settings that New reads once keep their values.
// It returns when the removed sessions' end has begun.
func (e *Engine) Apply(conns []*sa.Connection, creds *auth.Credentials, s Settings, ch Changes) error {
	e.applying.Lock()
	defer e.applying.Unlock()
	running := &e.config.Load().settings
	s.Port, s.NATTPort = running.Port, running.NATTPort // the sockets stay
	e.setConfig(conns, creds, s)
	e.hosts.want(conns)
	goneConns, goneChildren, started := setOf(ch.RemovedConns), setOf(ch.RemovedChildren), setOf(ch.Start)
	e.starts.stopAll(func(n ChildName) bool { return goneChildren[n] || goneConns[n.Conn] })
	e.standing.forget(e.config.Load().set)
	e.logIf(e.applyStanding(), "policies could not all be brought in line with the configuration")
	e.applyTraps(conns)
	err := e.askAll(context.Background(), func(s *shard) {
		for _, name := range ch.RemovedConns {
			for x := range s.byConn.of(name) {
				s.step(x, sa.Terminate{})
			}
		}
		for _, c := range ch.RemovedChildren {
			if goneConns[c.Conn] {
				continue
			}
			for x := range s.byConn.of(c.Conn) {
				s.step(x, sa.Terminate{Child: c.Child})
			}
		}
	})
	if err != nil {
		return err
	}
	for _, c := range conns {
		e.startChildren(c, func(child string) bool {
			return started[ChildName{c.Name, child}]
		})
	}
	return nil
}

// setOf is for lists that are looked through for each connection or child.
func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}
