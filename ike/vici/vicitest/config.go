package vicitest

import (
	"context"
	"errors"
	"maps"
	"slices"

	"espalier/ike/auth"
	"espalier/ike/config"
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
	File        *config.Config           // beside which clients load; nil: an empty one
}

// inForce is what clients loaded, and with it what Config says.
func (e *Engine) inForce() *config.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.joined == nil {
		return &config.Config{}
	}
	return e.joined
}

// Connections are those of Config, and those that clients loaded.
func (e *Engine) Connections() []*sa.Connection {
	return append(slices.Clip(e.Config.Conns), e.inForce().Connections...)
}

// Credentials are those of Config, or those that clients loaded, or none.
func (e *Engine) Credentials() *auth.Credentials {
	if e.Config.Creds != nil {
		return e.Config.Creds
	}
	if c := e.inForce().Credentials; c != nil {
		return c
	}
	return auth.NewBuilder().Build()
}

// Authorities are those of Config, and those that clients loaded.
func (e *Engine) Authorities() []vici.Authority {
	out := slices.Clip(e.Config.Authorities)
	for _, a := range e.inForce().Authorities {
		out = append(out, vici.Authority(a))
	}
	return out
}

// Pools are those of Config, and those that clients loaded, without leases.
func (e *Engine) Pools() []lease.Status {
	var loaded lease.Pools
	loaded.Set(e.inForce().Pools)
	return append(slices.Clip(e.Config.Pools), loaded.List()...)
}

// Loaded is what clients loaded.
func (e *Engine) Loaded() *config.Loaded { return e.inForce().Loaded() }

// ChangeLoaded joins what clients loaded with Config.File.
func (e *Engine) ChangeLoaded(_ context.Context, make func(*config.Loaded, *config.Settings) (*config.Loaded, error)) error {
	e.changing.Lock()
	defer e.changing.Unlock()
	file := e.Config.File
	if file == nil {
		file = &config.Config{Settings: config.Settings{SA: sa.DefaultSettings()}}
	}
	was := e.inForce()
	loaded, err := make(was.Loaded(), &file.Settings)
	if err != nil || loaded == was.Loaded() {
		return err
	}
	next, err := config.Join(file, loaded, nil)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.joined, e.Changes = next, e.Changes+1
	return nil
}

// Install refuses children that are called Refused, and has no others.
func (e *Engine) Install(_ context.Context, conn, child string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if child == Refused {
		return errors.New("no way to the peer")
	}
	e.installed[conn+"/"+child] = true
	return nil
}

// Uninstall takes back what Install did.
func (e *Engine) Uninstall(conn, child string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.installed[conn+"/"+child] {
		return vici.ErrNotFound
	}
	delete(e.installed, conn+"/"+child)
	return nil
}

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
