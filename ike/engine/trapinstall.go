package engine

import (
	"context"
	"fmt"
	"reflect"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// How traps come into the data plane and go out of it.

// installTrap installs a trap, or makes an installed one follow the
// configuration and the addresses. It waits for resolver and kernel.
func (e *Engine) installTrap(ctx context.Context, n ChildName) error {
	t := &e.traps
	done, err := t.turns.take(ctx, n.Conn+"\x00"+n.Child)
	if err != nil {
		return err
	}
	defer done()
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	cfg := e.config.Load()
	c := cfg.set.ByName(n.Conn)
	if c == nil || c.Child(n.Child) == nil {
		return fmt.Errorf("connection %q child %q: %w", n.Conn, n.Child, ErrNotFound)
	}
	ch := c.Child(n.Child)
	if !ch.Policies {
		return fmt.Errorf("connection %s child %s: expected policies = yes for a trap, got no", n.Conn, n.Child)
	}
	local, remote, err := e.ends(ctx, c)
	if err != nil {
		return err
	}
	made, err := sa.NewTrap(n.Conn, ch, local.Addr(), remote.Addr(), e.sources(c, local.Addr()), cfg.settings.MaxSelectors)
	if err != nil {
		return fmt.Errorf("connection %s child %s: %w", n.Conn, n.Child, err)
	}
	return e.replaceTrap(n, made, cfg.trapSource(c))
}

// replaceTrap puts a trap in the place of the one that the child had.
func (e *Engine) replaceTrap(n ChildName, made *sa.Trap, from trapSource) error {
	t := &e.traps
	wanted := from.conn.Child(n.Child).Trap
	t.mu.Lock()
	old := t.byName[n]
	if old != nil && old.t.Ask == made.Ask && reflect.DeepEqual(old.policies, made.Policies(old.grant.ids)) {
		old.wanted, old.from = wanted, from
		t.mu.Unlock()
		e.routeTrap(old, from.routes) // the way to the peer may be another
		return nil
	}
	t.mu.Unlock()
	ids, err := e.child(made.Ask)
	if err != nil {
		return fmt.Errorf("connection %s child %s: %w", n.Conn, n.Child, err)
	}
	x := &trap{name: n, t: made, from: from, grant: ids, wanted: wanted}
	x.policies = made.Policies(x.grant.ids)
	// A packet may meet it as soon as it stands.
	t.mu.Lock()
	if t.ctx == nil {
		t.mu.Unlock()
		e.reg.release(x.grant)
		return ErrStopping
	}
	t.enter(x)
	t.mu.Unlock()
	ops := make([]dataplane.Op, len(x.policies))
	for i := range x.policies {
		ops[i] = dataplane.InstallPolicy{Policy: x.policies[i]}
	}
	if err := e.dp.Apply(ops); err != nil {
		t.mu.Lock()
		t.leave(x)
		if old != nil {
			t.byName[n] = old
		}
		t.mu.Unlock()
		e.reg.release(x.grant)
		return err
	}
	e.routeTrap(x, from.routes)
	if old != nil {
		t.mu.Lock()
		t.leave(old)
		t.byName[n] = x
		t.mu.Unlock()
		if err := e.removeTrap(old); err != nil {
			return err
		}
	} else {
		// What a former run's policies reported while nobody knew of the trap would keep its packets waiting.
		e.dropLarval(x)
	}
	e.log.Info().Str("conn", n.Conn).Str("child", n.Child).Uint32("reqid", x.grant.ids.ReqID).
		Stringer("local", made.Local).Stringer("remote", made.Remote).Stringer("selectors", made).Msg("trap installed")
	return nil
}

// uninstallTrap removes the child's trap. Errors: ErrNotFound.
func (e *Engine) uninstallTrap(n ChildName) error {
	t := &e.traps
	done, err := t.turns.take(context.Background(), n.Conn+"\x00"+n.Child)
	if err != nil {
		return err
	}
	defer done()
	t.mu.Lock()
	x := t.byName[n]
	if x == nil {
		t.mu.Unlock()
		return fmt.Errorf("trap of connection %q child %q: %w", n.Conn, n.Child, ErrNotFound)
	}
	t.leave(x)
	t.mu.Unlock()
	if err := e.removeTrap(x); err != nil {
		return err
	}
	e.log.Info().Str("conn", n.Conn).Str("child", n.Child).Msg("trap removed")
	return nil
}

// removeTrap takes a trap's policies out of the data plane, and the record of a
// packet that waits for its SA.
func (e *Engine) removeTrap(x *trap) error {
	ops := make([]dataplane.Op, len(x.policies))
	for i := range x.policies {
		ops[i] = dataplane.DeletePolicy{Key: x.policies[i].PolicyKey, Owner: x.policies[i].Owner}
	}
	err := e.dp.Apply(ops)
	e.routeTrap(x, false)
	e.dropLarval(x)
	e.reg.release(x.grant)
	return err
}

// routeTrap has the box's own traffic find the trap, or takes its routes away. The
// trap works for others' traffic without.
func (e *Engine) routeTrap(x *trap, want bool) {
	if e.opts.Network == nil {
		return
	}
	var w dataplane.Wish
	// One for a virtual address is for packets from all addresses of the box.
	if want && len(x.from.conn.VIPs) == 0 {
		w = x.t.Wish()
	}
	if err := e.opts.Network.Want(trapRoutes|x.grant.ids.UniqueID, w); err != nil {
		e.log.Warn().Str("conn", x.name.Conn).Str("child", x.name.Child).Err(err).Msg("routes to the trap could not all be installed")
	}
}

// dropLarval removes the kernel's record of a packet that waits for the trap's
// SA, so that the next packet is reported.
func (e *Engine) dropLarval(x *trap) {
	if err := dataplane.ForgetAcquire(e.dp, x.t.Larval(x.grant.ids)); err != nil {
		e.log.Warn().Str("conn", x.name.Conn).Str("child", x.name.Child).Err(err).Msg("the kernel keeps waiting for an SA that does not come")
	}
}
