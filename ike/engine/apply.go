package engine

import (
	"context"
	"maps"
	"slices"

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
	// Ended are the children whose CHILD SAs are terminated, and with the last one
	// of a session the session.
	Ended []ChildName
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
	goneConns, started := setOf(ch.RemovedConns), setOf(ch.Start)
	set := e.config.Load().set
	e.starts.stopAll(func(n ChildName) bool {
		c := set.ByName(n.Conn)
		return c == nil || c.Child(n.Child) == nil
	})
	e.standing.forget(set)
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
		s.endChildren(ch.Ended)
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

// endChildren terminates the CHILD SAs of the children, and sessions that have no others.
func (s *shard) endChildren(list []ChildName) {
	ended := setOf(list)
	for conn := range connsOf(list) {
		for x := range s.byConn.of(conn) {
			others, own := false, map[string]bool{}
			for _, ch := range x.m.Info().Children {
				if ended[ChildName{conn, ch.Name}] {
					own[ch.Name] = true
				} else {
					others = true
				}
			}
			switch {
			case len(own) > 0 && !others:
				s.step(x, sa.Terminate{})
			default:
				for _, name := range slices.Sorted(maps.Keys(own)) {
					s.step(x, sa.Terminate{Child: name})
				}
			}
		}
	}
}

func connsOf(list []ChildName) map[string]bool {
	set := map[string]bool{}
	for _, n := range list {
		set[n.Conn] = true
	}
	return set
}

// setOf is for lists that are looked through for each connection or child.
func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}
