package engine

import (
	"context"
	"errors"
	"fmt"

	"espalier/ike/sa"
)

// follow sets up the session that a redirect asks for. Names and routes are looked
// up in a goroutine of its own, never in the shard; who waits for the old session
// waits for the new one.
func (s *shard) follow(x *session, a sa.Redirected) {
	waits := x.waits
	if a.Established {
		waits = nil
	} else {
		x.waits = nil
	}
	refuse := func(err error) {
		s.e.log.Warn().Str("conn", x.m.ConnName()).Stringer("gateway", a.To).Err(err).Msg("a redirect is not followed")
		for _, w := range waits {
			w.done <- err // has room for one
		}
	}
	conn := s.e.config.Load().set.ByName(x.m.ConnName())
	st := &s.e.starts
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ctx == nil || conn == nil {
		refuse(ErrStopping)
		return
	}
	ctx := st.ctx
	st.wg.Go(func() {
		c := *conn
		c.RemoteAddrs = []sa.AddrSpec{{Start: a.To.Addr, End: a.To.Addr, Host: a.To.Host}}
		ways, err := s.e.ways(ctx, &c)
		if err != nil {
			refuse(err)
			return
		}
		s.inbox.call(func(s *shard) { s.redirected(x, conn, a, ways[0], waits) })
	})
}

// redirected begins the session that follow has found the way for.
func (s *shard) redirected(x *session, conn *sa.Connection, a sa.Redirected, w way, waits []*wait) {
	if s.e.stopping.Load() || a.Established && (x.gone || !x.m.IsEstablished() || s.replacement(x) != nil) {
		for _, w := range waits {
			w.done <- ErrStopping
		}
		return
	}
	id, spi := s.e.reg.ikeIDs.Add(1), s.newSPI(x.bucket)
	var m *sa.Machine
	if a.Established {
		m = sa.NewReplacement(id, spi, conn, x.m)
	} else {
		m = sa.NewInitiator(id, spi, conn, a.Child, w.local, w.remote)
	}
	m.SetRedirect(a, w.local, w.remote)
	n := &session{m: m, bucket: x.bucket, spi: spi, child: a.Child, waits: waits}
	for _, w := range waits {
		w.failures = 0
	}
	s.add(n)
	s.step(n, sa.Start{})
	for _, name := range a.Children {
		s.step(n, sa.NewChild{Child: name})
	}
}

// ErrCannot: the peer did not say that it can do this.
var ErrCannot = errors.New("the peer does not support it")

// Redirect asks a client to go to another gateway (RFC 5685): an address or a
// host name. It returns when that is on its way; the client deletes its IKE SA
// with us when it has the new one. Errors: ErrNotFound, ErrCannot, ErrStopping, or
// what gateway lacks.
func (e *Engine) Redirect(ctx context.Context, t Target, gateway string) error {
	g, err := sa.ParseGateway(gateway)
	if err != nil {
		return err
	}
	for _, s := range e.shards {
		found := false
		var refused error
		err := s.ask(ctx, func(s *shard) {
			x := s.byID[t.IKE]
			if x == nil || !x.m.IsEstablished() {
				return
			}
			if found = true; !x.m.CanRedirect() {
				refused = fmt.Errorf("IKE SA %d: redirect: %w", t.IKE, ErrCannot)
				return
			}
			s.step(x, sa.SendRedirect{Gateway: g})
		})
		if err != nil || found {
			return errors.Join(err, refused)
		}
	}
	return fmt.Errorf("IKE SA %d: %w", t.IKE, ErrNotFound)
}
