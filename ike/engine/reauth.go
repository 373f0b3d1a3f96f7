package engine

import (
	"context"
	"errors"
	"fmt"

	"espalier/ike/sa"
)

// reauthenticate sets up a session in x's place, unless one is under way or the
// engine stops. A replacement lives in its predecessor's bucket, so that the two
// meet in one shard.
func (s *shard) reauthenticate(x *session) {
	s.inbox.call(func(s *shard) {
		conn := s.e.config.Load().set.ByName(x.m.ConnName())
		if conn == nil || x.gone || !x.m.IsEstablished() || s.e.stopping.Load() || s.replacement(x) != nil {
			return
		}
		spi := s.newSPI(x.bucket)
		m := sa.NewReplacement(s.e.reg.ikeIDs.Add(1), spi, conn, x.m)
		n := &session{m: m, bucket: x.bucket, spi: spi}
		s.add(n)
		s.step(n, sa.Start{})
	})
}

// replacement is the session that is to take x's place; nil if there is none.
func (s *shard) replacement(x *session) *session {
	if n := s.replaced[x.m.ID()]; n != nil && n.m.Phase() <= sa.Established {
		return n
	}
	return nil
}

// supersede does the job of that name: the session that x replaces ends, when x
// has all its children; or x ends, when some shard has what the peer set up for
// the same purpose. The shards are asked in turn, none waits.
func (s *shard) supersede(x *session, id uint32, spec sa.Supersede) {
	twin := false
	var ask func(i int)
	ask = func(i int) {
		if i == len(s.e.shards) || twin {
			s.inbox.call(func(s *shard) { s.superseded(x, id, spec, twin) })
			return
		}
		s.e.shards[i].inbox.call(func(o *shard) {
			twin = o.hasTwin(&spec.Twin)
			ask(i + 1)
		})
	}
	ask(0)
}

// hasTwin looks for the twin among the shard's sessions with the peer.
func (s *shard) hasTwin(t *sa.Twin) bool {
	for _, id := range s.e.reg.begunByPeer(pairOfIDs{t.Local, t.Peer}, t.After, s) {
		if y := s.byID[id]; y != nil && t.Is(y.m) {
			return true
		}
	}
	return false
}

func (s *shard) superseded(x *session, id uint32, spec sa.Supersede, twin bool) {
	var missing []string
	old := s.byID[spec.Session]
	switch {
	case twin || old == nil:
	default:
		if missing = x.m.Missing(old.m); len(missing) == 0 {
			s.step(old, sa.Superseded{})
		}
	}
	s.step(x, sa.JobDone{ID: id, Result: missing})
	if twin {
		s.step(x, sa.Terminate{})
	}
}

// Reauthenticate sets up a new IKE SA with the same children in the place of the
// one with the unique id, which goes when that is up. It returns when the
// attempt began. Errors: ErrNotFound, ErrStopping, or that only the peer can do it.
func (e *Engine) Reauthenticate(ctx context.Context, id uint64) error {
	for _, s := range e.shards {
		found := false
		var refused error
		err := s.ask(ctx, func(s *shard) {
			x := s.byID[id]
			switch {
			case x == nil || !x.m.IsEstablished():
			case x.lease != nil:
				refused = fmt.Errorf("IKE SA %d: the peer has virtual addresses from us, so only it can authenticate anew", id)
			default:
				found = true
				s.step(x, sa.ReauthenticateNow{})
			}
		})
		if err = errors.Join(err, refused); err != nil || found {
			return err
		}
	}
	return fmt.Errorf("IKE SA %d: %w", id, ErrNotFound)
}

// handOver has the heirs of a session that ends send with what they have, and
// calls done when they do. The shards are asked in turn, none waits; done runs in
// one of them.
func (s *shard) handOver(heir sa.Heir, done func()) {
	var ask func(i int)
	ask = func(i int) {
		if i == len(s.e.shards) {
			done()
			return
		}
		s.e.shards[i].inbox.call(func(o *shard) { o.takeOver(heir, func() { ask(i + 1) }) })
	}
	ask(0)
}

// takeOver is a shard's part of handOver.
func (s *shard) takeOver(heir sa.Heir, done func()) {
	var found []*session
	for x := range s.holding {
		if heir.Is(x.m) {
			found = append(found, x)
		}
	}
	left := len(found) + 1
	one := func() {
		if left--; left == 0 {
			done()
		}
	}
	for _, x := range found {
		x.heirs = append(x.heirs, one)
		s.step(x, sa.TakeOver{})
	}
	one()
}
