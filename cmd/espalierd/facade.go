package main

import (
	"context"
	"errors"

	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/sa"
	"espalier/ike/vici"
)

// facade is the engine, with the configuration, as the control server wants it.
type facade struct {
	*engine.Engine
	force  *inForce
	reload func() error  // the main loop's
	tasks  chan<- func() // for the main loop
}

var _ vici.Engine = facade{}

func (f facade) Initiate(ctx context.Context, conn, child string, noWait bool) error {
	return notFound(f.Engine.Initiate(ctx, conn, child, noWait))
}

func (f facade) InitiateIKE(ctx context.Context, conn string, noWait bool) error {
	return notFound(f.Engine.InitiateIKE(ctx, conn, noWait))
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

func (f facade) Authorities() []vici.Authority {
	var out []vici.Authority
	for _, a := range f.force.running.Load().Authorities {
		out = append(out, vici.Authority{Name: a.Name, Origin: a.Origin, CACert: a.CACert})
	}
	return out
}

func (f facade) Policies() []vici.Policy {
	var out []vici.Policy
	for _, p := range f.InstalledPolicies() {
		out = append(out, vici.Policy(p))
	}
	return out
}

func (f facade) Counters(conn string) (vici.Counters, bool) {
	t, ok := f.Tally(conn)
	return vici.Counters{
		IKERekeyInit: t.IKERekeysOurs, IKERekeyResp: t.IKERekeysPeer, ChildRekey: t.ChildRekeys,
		Invalid: t.Invalid, InvalidSPI: t.InvalidSPI,
		Init: vici.MessageCounters(t.Messages[sa.CountedInit]), Auth: vici.MessageCounters(t.Messages[sa.CountedAuth]),
		CreateChild: vici.MessageCounters(t.Messages[sa.CountedCreateChild]), Info: vici.MessageCounters(t.Messages[sa.CountedInformational]),
	}, ok
}

func (f facade) CountedConnections() []string { return f.Tallied() }

func (f facade) ResetCounters(conn string) { f.ResetTally(conn) }

func (f facade) Reload(ctx context.Context) error { return f.inMainLoop(ctx, f.reload) }

func (f facade) ChangeLoaded(ctx context.Context, make func(*config.Loaded, *config.Settings) (*config.Loaded, error)) error {
	return f.inMainLoop(ctx, func() error { return f.force.change(make) })
}

func (f facade) Loaded() *config.Loaded { return f.force.running.Load().Loaded() }

func (f facade) Install(ctx context.Context, conn, child string) error {
	return notFound(f.Engine.Install(ctx, conn, child))
}

func (f facade) Uninstall(conn, child string) error { return notFound(f.Engine.Uninstall(conn, child)) }

// inMainLoop has the main loop, which owns the configuration, do something. Once it
// has begun it ends, whatever becomes of ctx.
func (f facade) inMainLoop(ctx context.Context, do func() error) error {
	answer := make(chan error, 1)
	select {
	case f.tasks <- func() { answer <- do() }:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// notFound makes the engine's error the control server's.
func notFound(err error) error {
	if errors.Is(err, engine.ErrNotFound) {
		return vici.ErrNotFound
	}
	return err
}
