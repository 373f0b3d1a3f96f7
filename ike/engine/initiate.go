package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"espalier/ike/sa"
)

// Initiate brings up a child of a connection, with an empty child the first, or
// the IKE SA alone of a connection without children. It returns when that is up, when it
// failed, or when ctx ends; ending ctx does not stop the attempt. A child that
// is up already is success; one that is being set up is waited for. A peer with
// several addresses is tried at each, and all that as often as the connection's
// KeyingTries say. With noWait it returns as soon as the first attempt began.
// Errors: ErrNotFound, ErrStopping; else why it failed, in a sentence.
func (e *Engine) Initiate(ctx context.Context, conn, child string, noWait bool) error {
	if c := e.config.Load().set.ByName(conn); c != nil && child == "" && len(c.Children) > 0 {
		child = c.Children[0].Name
	}
	return e.initiate(ctx, conn, child, nil, noWait)
}

// InitiateIKE is Initiate for the IKE SA alone, whatever children the connection has
// (RFC 6023); one that is up is success.
func (e *Engine) InitiateIKE(ctx context.Context, conn string, noWait bool) error {
	return e.initiate(ctx, conn, "", nil, noWait)
}

// initiate is Initiate for a packet that asks for the child, or for none; an empty
// child means the IKE SA alone.
func (e *Engine) initiate(ctx context.Context, conn, child string, packet *sa.Packet, noWait bool) error {
	c := e.config.Load().set.ByName(conn)
	if c == nil || c.OnlyShunts() || child != "" && c.Child(child) == nil {
		return fmt.Errorf("connection %q child %q: %w", conn, child, ErrNotFound)
	}
	if e.started.Load() == nil || e.stopping.Load() {
		return ErrStopping
	}
	if noWait {
		return e.startNow(ctx, ChildName{conn, child})
	}
	way, pause := 0, firstPause
	for round := 1; ; {
		w := &wait{up: true, child: child, packet: packet, done: make(chan error, 1)}
		ways := 1
		s, err := e.attempt(ctx, c, w, func(n int) int {
			ways = n
			return way
		})
		if err != nil {
			return err // nothing was tried
		}
		err = e.await(ctx, w, s)
		if err == nil || ctx.Err() != nil || e.stopping.Load() {
			return err
		}
		if way++; way < ways {
			continue
		}
		if way = 0; round == c.KeyingTries || packet != nil {
			return err
		}
		round++
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause = min(2*pause, longestPause)
		if c = e.config.Load().set.ByName(conn); c == nil || child != "" && c.Child(child) == nil {
			return err
		}
	}
}

// attempt joins or begins a session and returns its shard, with w waiting for
// it. Attempts for one connection take turns, so that the second finds the
// first. pick chooses among the ways to the peer.
func (e *Engine) attempt(ctx context.Context, c *sa.Connection, w *wait, pick func(ways int) int) (*shard, error) {
	done, err := e.turns.take(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	defer done()
	if s, err := e.join(ctx, c.Name, w); s != nil || err != nil {
		return s, err
	}
	ways, err := e.ways(ctx, c)
	if err != nil {
		return nil, err
	}
	way := ways[min(pick(len(ways)), len(ways)-1)]
	id := e.reg.ikeIDs.Add(1)
	bucket := uint8(id)
	s := e.bucketShard(bucket)
	stopping := false
	err = s.ask(ctx, func(s *shard) {
		if stopping = e.stopping.Load(); stopping {
			return
		}
		spi := s.newSPI(bucket)
		x := &session{m: sa.NewInitiator(id, spi, c, w.child, way.local, way.remote), bucket: bucket, spi: spi, child: w.child}
		x.waits = append(x.waits, w)
		s.add(x)
		s.step(x, sa.Start{Packet: w.packet, Alone: w.child == ""})
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

// way is where an attempt starts from and goes to.
type way struct{ local, remote netip.AddrPort }

// ways settles the addresses and ports of attempts, the peer's in the order of
// the configuration; at least one, or an error. Names are looked up afresh. It
// waits for resolver and kernel, so it runs in the caller's goroutine, never in
// a shard.
func (e *Engine) ways(ctx context.Context, c *sa.Connection) ([]way, error) {
	lport, rport, err := e.ports(c)
	if err != nil {
		return nil, err
	}
	remotes, err := e.concrete(ctx, c.RemoteAddrs)
	if err != nil {
		return nil, fmt.Errorf("connection %s: remote_addrs: %w", c.Name, err)
	}
	if len(remotes) == 0 {
		return nil, fmt.Errorf("connection %s: expected an address to go to in remote_addrs, got none", c.Name)
	}
	locals, err := e.concrete(ctx, c.LocalAddrs)
	if err != nil {
		return nil, fmt.Errorf("connection %s: local_addrs: %w", c.Name, err)
	}
	var out []way
	for _, r := range remotes[:min(len(remotes), maxWays)] {
		var l netip.Addr
		if len(locals) == 0 {
			if l, err = e.route(r); err != nil {
				continue
			}
		} else if i := slices.IndexFunc(locals, func(l netip.Addr) bool { return l.Is4() == r.Is4() }); i >= 0 {
			l = locals[i]
		} else {
			err = fmt.Errorf("expected local_addrs and remote_addrs of one family, got %v and %v", locals, remotes)
			continue
		}
		out = append(out, way{netip.AddrPortFrom(l, lport), netip.AddrPortFrom(r, rport)})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("connection %s: %w", c.Name, err)
	}
	return out, nil
}

// ends is the first of the ways to the peer.
func (e *Engine) ends(ctx context.Context, c *sa.Connection) (local, remote netip.AddrPort, err error) {
	ways, err := e.ways(ctx, c)
	if err != nil {
		return local, remote, err
	}
	return ways[0].local, ways[0].remote, nil
}

// maxWays bounds how many addresses of a peer are tried: its name may have any
// number.
const maxWays = 16

// ports are where an attempt's first message goes from and to.
func (e *Engine) ports(c *sa.Connection) (local, remote uint16, err error) {
	set := &e.config.Load().settings
	local, remote = c.LocalPort, c.RemotePort
	if remote == 0 {
		remote = set.Port
	}
	if local == 0 {
		local = set.Port
		if remote == set.NATTPort {
			local = set.NATTPort // the peer expects the marker there
		}
	}
	if local != set.Port && local != set.NATTPort {
		err = fmt.Errorf("connection %s: local_port: expected %d or %d, which IKE listens on, got %d", c.Name, set.Port, set.NATTPort, local)
	}
	return local, remote, err
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
