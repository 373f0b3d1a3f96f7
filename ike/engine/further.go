package engine

import (
	"context"

	"espalier/ike/sa"
)

// A connection's children share one IKE SA: who wants a further one asks the
// session that is there for it (CREATE_CHILD_SA).

// joining is what a wait finds in a session.
type joining uint8

const (
	joinNothing joining = iota
	joinChild           // the child is up, or the session sets it up first
	joinSession         // the session can make the child
)

// suits says what a session of a connection is to somebody who wants a child.
// A session that the peer is opening counts for nothing: nobody knows yet what
// it will be.
func (x *session) suits(child string) joining {
	m := x.m
	switch {
	case m.Phase() > sa.Established:
		return joinNothing
	case !m.IsEstablished() && !m.Initiator():
		return joinNothing
	case child == "":
		return joinChild
	case !m.IsEstablished() && child == x.child:
		return joinChild
	case x.has(child):
		return joinChild
	}
	return joinSession
}

// join finds a session of the connection that has or gets the child, or else one
// that can make it, and waits for it there; nil when there is none.
func (e *Engine) join(ctx context.Context, conn string, w *wait) (*shard, error) {
	for _, level := range []joining{joinChild, joinSession} {
		found, any := false, false
		for _, s := range e.shards {
			err := s.ask(ctx, func(s *shard) {
				any = any || s.byConn[conn] != nil
				if x := s.joinable(conn, w.child, level); x != nil {
					found = true
					s.joined(x, w, level)
				}
			})
			if err != nil || found {
				return s, err
			}
		}
		if !any {
			break
		}
	}
	return nil, nil
}

// joinable is the session of that level, of several the newest, for an older one
// may be about to be replaced by it.
func (s *shard) joinable(conn, child string, level joining) (best *session) {
	for x := range s.byConn.of(conn) {
		if x.suits(child) == level && (best == nil || x.m.ID() > best.m.ID()) {
			best = x
		}
	}
	return best
}

func (s *shard) joined(x *session, w *wait, level joining) {
	w.failures = x.failures
	x.waits = append(x.waits, w)
	if level == joinSession {
		s.step(x, sa.NewChild{Child: w.child, Packet: w.packet})
		return
	}
	s.answerWaits(x)
}
