package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
)

// Initiate brings up a child of a connection, with an empty child the first, or
// the IKE SA alone of a connection without children. It returns when that is up, when it
// failed, or when ctx ends; ending ctx does not stop the attempt. A child that
// is up already is success; one that is being set up is waited for. With noWait
// it returns as soon as the attempt began.
// Errors: ErrNotFound, ErrStopping; else why it failed, in a sentence.
func (e *Engine) Initiate(ctx context.Context, conn, child string, noWait bool) error {
	return e.initiate(ctx, conn, child, nil, noWait)
}

// initiate is Initiate for a packet that asks for the child, or for none.
func (e *Engine) initiate(ctx context.Context, conn, child string, packet *sa.Packet, noWait bool) error {
	c := e.config.Load().set.ByName(conn)
	if c != nil && child == "" && len(c.Children) > 0 {
		child = c.Children[0].Name
	}
	if c == nil || child != "" && c.Child(child) == nil {
		return fmt.Errorf("connection %q child %q: %w", conn, child, ErrNotFound)
	}
	if e.started.Load() == nil || e.stopping.Load() {
		return ErrStopping
	}
	w := &wait{up: true, child: child, packet: packet, done: make(chan error, 1)}
	s, err := e.attempt(ctx, c, w, noWait)
	if err != nil || noWait {
		return err
	}
	return e.await(ctx, w, s)
}

// attempt joins or begins a session and returns its shard. Attempts for one
// connection take turns, so that the second finds the first.
func (e *Engine) attempt(ctx context.Context, c *sa.Connection, w *wait, noWait bool) (*shard, error) {
	done, err := e.turns.take(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	defer done()
	if s, err := e.join(ctx, c.Name, w, noWait); s != nil || err != nil {
		return s, err
	}
	local, remote, err := e.ends(ctx, c)
	if err != nil {
		return nil, err
	}
	id := e.reg.ikeIDs.Add(1)
	bucket := uint8(id)
	s := e.bucketShard(bucket)
	stopping := false
	err = s.ask(ctx, func(s *shard) {
		if stopping = e.stopping.Load(); stopping {
			return
		}
		spi := s.newSPI(bucket)
		x := &session{m: sa.NewInitiator(id, spi, c, w.child, local, remote), bucket: bucket, spi: spi, child: w.child}
		if !noWait {
			x.waits = append(x.waits, w)
		}
		s.add(x)
		s.step(x, sa.Start{Packet: w.packet})
	})
	if err == nil && stopping {
		err = ErrStopping
	}
	return s, err
}

// turns lets one goroutine a name through at a time.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // closed when the turn is over
}

// take waits for the turn; done ends it.
func (t *turns) take(ctx context.Context, name string) (done func(), err error) {
	for {
		t.mu.Lock()
		busy := t.taken[name]
		if busy == nil {
			mine := make(chan struct{})
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			t.taken[name] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.taken, name)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ends settles the addresses and ports of an attempt. It waits for resolver and
// kernel, so it runs in the caller's goroutine, never in a shard.
func (e *Engine) ends(ctx context.Context, c *sa.Connection) (local, remote netip.AddrPort, err error) {
	set := &e.config.Load().settings
	lport, rport := c.LocalPort, c.RemotePort
	if rport == 0 {
		rport = set.Port
	}
	if lport == 0 {
		lport = set.Port
		if rport == set.NATTPort {
			lport = set.NATTPort // the peer expects the marker there
		}
	}
	if lport != set.Port && lport != set.NATTPort {
		return local, remote, fmt.Errorf("connection %s: local_port: expected %d or %d, which IKE listens on, got %d", c.Name, set.Port, set.NATTPort, lport)
	}
	remotes, err := e.concrete(ctx, c.RemoteAddrs)
	if err != nil {
		return local, remote, fmt.Errorf("connection %s: remote_addrs: %w", c.Name, err)
	}
	if len(remotes) == 0 {
		return local, remote, fmt.Errorf("connection %s: expected an address to go to in remote_addrs, got none", c.Name)
	}
	locals, err := e.concrete(ctx, c.LocalAddrs)
	if err != nil {
		return local, remote, fmt.Errorf("connection %s: local_addrs: %w", c.Name, err)
	}
	for _, r := range remotes {
		for _, l := range locals {
			if l.Is4() == r.Is4() {
				return netip.AddrPortFrom(l, lport), netip.AddrPortFrom(r, rport), nil
			}
		}
	}
	if len(locals) > 0 {
		return local, remote, fmt.Errorf("connection %s: expected local_addrs and remote_addrs of one family, got %v and %v", c.Name, locals, remotes)
	}
	route := e.opts.Route
	if route == nil {
		route = sockets.Route
	}
	for _, r := range remotes {
		var l netip.Addr
		if l, err = route(r); err == nil {
			return netip.AddrPortFrom(l, lport), netip.AddrPortFrom(r, rport), nil
		}
	}
	return local, remote, fmt.Errorf("connection %s: %w", c.Name, err)
}

// concrete lists the addresses that the entries name, in order.
func (e *Engine) concrete(ctx context.Context, specs []sa.AddrSpec) ([]netip.Addr, error) {
	var out []netip.Addr
	var failed error
	for _, a := range specs {
		if addr, ok := a.Single(); ok {
			out = append(out, addr)
		} else if a.Host != "" {
			addrs, err := e.hosts.resolve(ctx, a.Host)
			if err != nil {
				failed = err
			}
			out = append(out, addrs...)
		}
	}
	if len(out) == 0 {
		return nil, failed
	}
	return out, nil
}

// starts are the attempts that start_action=start asks for. One attempt is a
// whole cycle of retransmissions; when the peer refuses or never answers, that
// was it, as with strongSwan's keyingtries of 1. Only while there is no way to
// the peer (no route, no address for its name) the engine tries on, with pauses
// that double from a second to a minute, for then nothing was tried yet.
type starts struct {
	mu     sync.Mutex
	ctx    context.Context
	slots  chan struct{}
	cancel map[ChildName]context.CancelFunc
	wg     sync.WaitGroup
}

const (
	startsAtOnce  = 16 // attempts that may resolve and begin at the same time
	firstPause    = time.Second
	longestPause  = time.Minute
	lookupTimeout = 10 * time.Second
)

func (st *starts) begin(ctx context.Context) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ctx, st.cancel, st.slots = ctx, map[ChildName]context.CancelFunc{}, make(chan struct{}, startsAtOnce)
}

// end stops all attempts that have not begun, and waits.
func (st *starts) end() {
	st.mu.Lock()
	for _, f := range st.cancel {
		f()
	}
	st.ctx = nil
	st.mu.Unlock()
	st.wg.Wait()
}

// stop ends the tries for a child that is configured no more.
func (st *starts) stop(n ChildName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if f := st.cancel[n]; f != nil {
		f()
	}
}

// startChildren initiates the children of a connection that have Start, of
// those that only allows (nil: all).
func (e *Engine) startChildren(c *sa.Connection, only func(child string) bool) {
	for _, ch := range c.Children {
		if ch.Start && (only == nil || only(ch.Name)) {
			e.start(ChildName{c.Name, ch.Name})
		}
	}
}

func (e *Engine) start(n ChildName) {
	st := &e.starts
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ctx == nil || st.cancel[n] != nil {
		return
	}
	ctx, cancel := context.WithCancel(st.ctx)
	st.cancel[n] = cancel
	st.wg.Go(func() {
		defer func() {
			st.mu.Lock()
			delete(st.cancel, n)
			st.mu.Unlock()
			cancel()
		}()
		e.tryUntilBegun(ctx, n)
	})
}

func (e *Engine) tryUntilBegun(ctx context.Context, n ChildName) {
	pause := firstPause
	for ctx.Err() == nil {
		err := e.tryStart(ctx, n)
		if err == nil || ctx.Err() != nil {
			return
		}
		log := e.log.Warn().Str("conn", n.Conn).Str("child", n.Child).Err(err)
		if !sockets.Unreachable(err) && !errors.Is(err, errLookup) {
			log.Msg("start_action: not initiated")
			return
		}
		log.Dur("again_in", pause).Msg("start_action: no way to the peer now")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
}

// tryStart is one try, with a bound on how many resolve at once.
func (e *Engine) tryStart(ctx context.Context, n ChildName) error {
	select {
	case e.starts.slots <- struct{}{}:
		defer func() { <-e.starts.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return e.Initiate(ctx, n.Conn, n.Child, true)
}
