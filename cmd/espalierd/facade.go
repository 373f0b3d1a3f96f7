package main

import (
	"context"
	"errors"

	"espalier/ike/engine"
	"espalier/ike/vici"
)

// facade is the engine as the control server wants it.
type facade struct{ *engine.Engine }

var _ vici.Engine = facade{}

func (f facade) Initiate(ctx context.Context, conn, child string, noWait bool) error {
	return notFound(f.Engine.Initiate(ctx, conn, child, noWait))
}

func (f facade) Terminate(ctx context.Context, t vici.Target, noWait bool) error {
	return notFound(f.Engine.Terminate(ctx, engine.Target{IKE: t.IKE, Child: t.Child, Force: t.Force}, noWait))
}

func (f facade) Rekey(ctx context.Context, t vici.Target) error {
	return notFound(f.Engine.Rekey(ctx, engine.Target{IKE: t.IKE, Child: t.Child}))
}

func (f facade) Redirect(ctx context.Context, t vici.Target, gateway string) error {
	return notFound(f.Engine.Redirect(ctx, engine.Target{IKE: t.IKE}, gateway))
}

func (f facade) Reauthenticate(ctx context.Context, ike uint64) error {
	return notFound(f.Engine.Reauthenticate(ctx, ike))
}

func (f facade) Stats() vici.Stats {
	s := f.Engine.Stats()
	return vici.Stats{
		Started: s.Started, IKESAs: s.Sessions, HalfOpen: s.HalfOpen,
		Workers: s.Workers, Idle: s.Idle, QueuedJobs: s.Queued, Timers: s.Timers,
	}
}

// notFound makes the engine's error the control server's.
func notFound(err error) error {
	if errors.Is(err, engine.ErrNotFound) {
		return vici.ErrNotFound
	}
	return err
}
