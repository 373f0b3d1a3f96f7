package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// Target names what Terminate ends.
type Target struct {
	IKE   uint64 // unique id of the IKE SA, always set
	Child uint64 // unique id of the CHILD SA; 0: the IKE SA with all its children
	Force bool   // the IKE SA: do not wait for the peer's answer
}

// wait is somebody who waits for a session to get somewhere.
type wait struct {
	up    bool   // until the child is installed; else until the SA is gone
	child string // up: the child's name; empty: the IKE SA alone
	id    uint64 // down: the CHILD SA; 0: the IKE SA
	// up: how many failures the session had before; only later ones count
	failures int
	packet   *sa.Packet // up: that asked for the child; nil: none did
	done     chan error
	then     func(error) // in place of done; it does not wait
}

// answer ends the wait.
func (w *wait) answer(err error) {
	if w.then != nil {
		w.then(err)
		return
	}
	w.done <- err // has room for one
}

// answerWaits tells those whose wait is over.
func (s *shard) answerWaits(x *session) {
	x.waits = slices.DeleteFunc(x.waits, func(w *wait) bool {
		over, err := s.over(x, w)
		if over {
			w.answer(err)
		}
		return over
	})
}

func (s *shard) over(x *session, w *wait) (bool, error) {
	ended := x.gone || x.m.Phase() >= sa.Lingering
	switch {
	case w.up && (ended || x.m.Phase() > sa.Established):
		if x.failure == "" {
			return true, errors.New("the session ended before it was up")
		}
		return true, errors.New(x.failure)
	case w.up && !x.m.IsEstablished():
		return false, nil
	case w.up && (w.child == "" || x.has(w.child)):
		return true, nil
	case w.up && x.failures > w.failures && (x.failedChild == "" || x.failedChild == w.child):
		return true, errors.New(x.failure)
	case w.up:
		return false, nil
	case w.id != 0:
		return ended || !hasChild(x, func(c *sa.ChildInfo) bool { return c.UniqueID == w.id }), nil
	}
	return ended, nil
}

// has reports whether a CHILD SA of that name is in the kernel.
func (x *session) has(child string) bool {
	_, up := x.m.InKernel(child)
	return up
}

func hasChild(x *session, f func(*sa.ChildInfo) bool) bool {
	cs := x.m.Info().Children
	return slices.ContainsFunc(cs, func(c sa.ChildInfo) bool { return f(&c) })
}

// await waits for the shard's answer.
func (e *Engine) await(ctx context.Context, w *wait, s *shard) error {
	select {
	case err := <-w.done:
		return err
	case <-s.done:
		return ErrStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Terminate ends what the target names with a DELETE to the peer. It returns
// when that is gone, when ctx ends, or with noWait as soon as the delete began;
// ending ctx does not stop it. Errors: ErrNotFound, ErrStopping.
func (e *Engine) Terminate(ctx context.Context, t Target, noWait bool) error {
	for _, s := range e.shards {
		w := &wait{id: t.Child, done: make(chan error, 1)}
		found := false
		err := s.ask(ctx, func(s *shard) {
			x := s.byID[t.IKE]
			if x == nil || t.Child != 0 && !hasChild(x, func(c *sa.ChildInfo) bool { return c.UniqueID == t.Child }) {
				return
			}
			found = true
			if !noWait {
				x.waits = append(x.waits, w)
			}
			s.unwanted(x, t.Child)
			s.step(x, sa.Terminate{ChildID: t.Child})
			if t.Force && t.Child == 0 {
				s.step(x, sa.Abort{Reason: "terminated without the peer's consent"})
			}
		})
		switch {
		case err != nil:
			return err
		case found && noWait:
			return nil
		case found:
			return e.await(ctx, w, s)
		}
	}
	return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrNotFound)
}

// Rekey replaces what the target names by a new SA, ahead of its time. It
// returns as soon as that has begun, or waits for its turn in the session: how
// it ends is an event. Errors: ErrNotFound, ErrStopping.
func (e *Engine) Rekey(ctx context.Context, t Target) error {
	for _, s := range e.shards {
		found := false
		err := s.ask(ctx, func(s *shard) {
			x := s.byID[t.IKE]
			if x == nil || t.Child != 0 && !hasChild(x, func(c *sa.ChildInfo) bool { return c.UniqueID == t.Child }) {
				return
			}
			found = true
			s.step(x, sa.Rekey{ChildID: t.Child})
		})
		if err != nil || found {
			return err
		}
	}
	return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrNotFound)
}

// sessionsPerAsk keeps a snapshot from holding a shard up.
const sessionsPerAsk = 16

// A snapshot of more sessions than unpaced rests after each chunk as long as that took,
// longestRest at most: it has half of a CPU, and the sessions' own work the rest.
const (
	unpaced     = 256
	longestRest = time.Millisecond
)

// Sessions yields every session, ordered by unique id, until yield says false.
// The sessions are copied a few at a time, so the snapshot is not of one
// instant, and a shard is never held up by it, however slow yield is. The
// data plane's counts are part of it.
func (e *Engine) Sessions(yield func(sa.Info) bool) { e.sessions("", 0, 1, yield) }

// SessionsOf is Sessions for those of a connection, unless that is empty, and for
// the one with the unique id, unless that is 0. Others are not looked at. The
// newest come first.
func (e *Engine) SessionsOf(conn string, id uint64, yield func(sa.Info) bool) {
	e.sessions(conn, id, -1, yield)
}

// sessions is SessionsOf in the order of the unique ids, 1: rising, -1: falling.
func (e *Engine) sessions(conn string, id uint64, order int, yield func(sa.Info) bool) {
	ctx := context.Background()
	type ref struct {
		id    uint64
		shard *shard
	}
	var refs []ref
	for _, s := range e.shards {
		if s.ask(ctx, func(s *shard) {
			for x := range s.selected(conn, id) {
				refs = append(refs, ref{x.m.ID(), s})
			}
		}) != nil {
			return
		}
	}
	slices.SortFunc(refs, func(a, b ref) int { return order * cmp.Compare(a.id, b.id) })
	paced := len(refs) > unpaced
	for len(refs) > 0 {
		began := time.Now()
		chunk := refs[:min(sessionsPerAsk, len(refs))]
		refs = refs[len(chunk):]
		infos := make([]sa.Info, len(chunk))
		for _, s := range e.shards {
			if s.ask(ctx, func(s *shard) {
				for i, r := range chunk {
					if x := s.byID[r.id]; r.shard == s && x != nil && x.m.Phase() < sa.Lingering {
						infos[i] = x.m.Info()
					}
				}
			}) != nil {
				return
			}
		}
		for i := range infos {
			if infos[i].UniqueID == 0 {
				continue // gone, or it only answers repetitions
			}
			e.addUsage(&infos[i])
			if !yield(infos[i]) {
				return
			}
		}
		if paced {
			time.Sleep(min(time.Since(began), longestRest))
		}
	}
}

// selected are the shard's sessions that SessionsOf is about.
func (s *shard) selected(conn string, id uint64) iter.Seq[*session] {
	if id == 0 && conn == "" {
		return maps.Values(s.byID)
	}
	if id == 0 {
		return s.byConn.of(conn)
	}
	return func(yield func(*session) bool) {
		if x := s.byID[id]; x != nil && (conn == "" || conn == x.m.ConnName()) {
			yield(x)
		}
	}
}

// addUsage asks the data plane for the counts of a session's CHILD SAs.
func (e *Engine) addUsage(info *sa.Info) {
	for i := range info.Children {
		if c := &info.Children[i]; c.State.InKernel() {
			e.childUsage(c)
		}
	}
}

// childUsage is addUsage for one CHILD SA.
func (e *Engine) childUsage(c *sa.ChildInfo) {
	in := dataplane.SAKey{Dst: c.Local.Addr(), Proto: c.Proto, SPI: c.SPIIn}
	out := dataplane.SAKey{Dst: c.Remote.Addr(), Proto: c.Proto, SPI: c.SPIOut, Mark: c.MarkOut}
	c.In = e.usage(in)
	if c.In == (sa.Usage{}) && c.MarkIn != (dataplane.Mark{}) {
		in.Mark = c.MarkIn // whether the inbound SA has the mark is the configuration's choice
		c.In = e.usage(in)
	}
	c.Out = e.usage(out)
}

func (e *Engine) usage(k dataplane.SAKey) sa.Usage {
	st, err := e.dp.QuerySA(k)
	if err != nil {
		return sa.Usage{} // gone meanwhile
	}
	return sa.Usage{Bytes: st.Bytes, Packets: st.Packets, LastUse: st.LastUsed}
}

// FindChild resolves names of the configuration: the first connection that has
// a child of that name, only connection ike unless that is empty. With an
// empty child it looks for the connection alone.
func (e *Engine) FindChild(ike, child string) (conn string, found bool) {
	set := e.config.Load().set
	if ike != "" {
		c := set.ByName(ike)
		if c == nil || child != "" && c.Child(child) == nil {
			return "", false
		}
		return ike, true
	}
	for _, c := range set.All() {
		if child == "" || c.Child(child) != nil {
			return c.Name, true
		}
	}
	return "", false
}
