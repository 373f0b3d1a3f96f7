package vicitest

import (
	"context"
	"errors"
	"maps"
	"slices"

	"espalier/ike/auth"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/vici"
)

// Config is what the engine says is configured. Tests fill it before they begin.
type Config struct {
	Conns       []*sa.Connection
	Creds       *auth.Credentials
	Authorities []vici.Authority
	Pools       []lease.Status
	Policies    []vici.Policy
	Counted     map[string]vici.Counters // by connection; "": of all
	Reloaded    func() error             // nil: reloading fails
}

// Connections are those of Config.
func (e *Engine) Connections() []*sa.Connection { return e.Config.Conns }

// Credentials are those of Config, or none.
func (e *Engine) Credentials() *auth.Credentials {
	if e.Config.Creds == nil {
		return auth.NewBuilder().Build()
	}
	return e.Config.Creds
}

// Authorities are those of Config.
func (e *Engine) Authorities() []vici.Authority { return e.Config.Authorities }

// Pools are those of Config.
func (e *Engine) Pools() []lease.Status { return e.Config.Pools }

// Policies are those of Config.
func (e *Engine) Policies() []vici.Policy { return e.Config.Policies }

// Counters are those of Config.
func (e *Engine) Counters(conn string) (vici.Counters, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.Config.Counted[conn]
	return n, ok
}

// CountedConnections are those of Config, sorted.
func (e *Engine) CountedConnections() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(e.Config.Counted)), func(name string) bool { return name == "" })
}

// ResetCounters takes them out of Config.
func (e *Engine) ResetCounters(conn string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.Config.Counted, conn)
}

// Reload does what Config says.
func (e *Engine) Reload(context.Context) error {
	if e.Config.Reloaded == nil {
		return errors.New("no configuration")
	}
	return e.Config.Reloaded()
}
