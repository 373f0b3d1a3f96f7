package main

import (
	"sync/atomic"

	"github.com/rs/zerolog"

	"espalier/ike/auth"
	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/lease"
	"espalier/ike/sa"
)

// applier is what a reload needs of the engine.
type applier interface {
	SetPools([]*lease.Pool)
	Apply(conns []*sa.Connection, creds *auth.Credentials, s engine.Settings, ch engine.Changes) error
}

// inForce is the configuration in force: what the file says and what clients of the
// control socket loaded. The main loop changes it, others read what is running.
type inForce struct {
	from    flags
	to      applier
	log     zerolog.Logger
	file    *config.Config
	loaded  *config.Loaded
	running atomic.Pointer[config.Config] // both together
	fetch   func(crls []string)           // is told where CRLs are; nil: nobody is
}

// newInForce begins with the file alone, which the engine has already.
func newInForce(from flags, file *config.Config, to applier, log zerolog.Logger) *inForce {
	f := &inForce{from: from, to: to, log: log, file: file, loaded: &config.Loaded{}}
	f.running.Store(file)
	return f
}

// reload reads the file again and applies what differs. After any error, which is
// logged, what was in force stays so.
func (f *inForce) reload() error {
	f.log.Info().Str("config", f.from.Config).Msg("reloading the configuration")
	file, err := load(f.from, f.from.whenRunning(f.file), f.log)
	if err == nil {
		_, err = settingsOf(file)
	}
	if err != nil {
		f.log.Error().Err(err).Msg("reload refused, the running configuration stays")
		return err
	}
	diff, err := f.apply(file, f.loaded)
	switch {
	case err != nil:
		f.log.Error().Err(err).Msg("reload refused, the running configuration stays")
		return err
	case diff.None():
		f.log.Info().Msg("nothing differs")
		return nil
	}
	for _, key := range diff.Settings {
		if needsRestart(key) {
			f.log.Warn().Str("key", key).Msg("this setting takes effect with the next start")
		}
	}
	f.log.Info().Strs("added", diff.Added).Strs("removed", diff.Removed).Int("changed", len(diff.Changed)).
		Int("unchanged", len(diff.Unchanged)).Bool("credentials", diff.Credentials).Bool("pools", diff.Pools).Strs("settings", diff.Settings).
		Msg("configuration reloaded")
	return nil
}

// change puts what make says in the place of what clients have loaded.
func (f *inForce) change(make func(*config.Loaded, *config.Settings) (*config.Loaded, error)) error {
	loaded, err := make(f.loaded, &f.file.Settings)
	if err != nil || loaded == f.loaded {
		return err
	}
	diff, err := f.apply(f.file, loaded)
	if err != nil {
		return err
	}
	f.log.Info().Strs("added", diff.Added).Strs("removed", diff.Removed).Int("changed", len(diff.Changed)).
		Bool("credentials", diff.Credentials).Bool("pools", diff.Pools).Msg("a client changed what is loaded")
	return nil
}

// apply makes the engine follow from what is in force to file and loaded.
func (f *inForce) apply(file *config.Config, loaded *config.Loaded) (config.Changes, error) {
	old := f.running.Load()
	next, err := config.Join(file, loaded, old)
	if err != nil {
		return config.Changes{}, err
	}
	settings, err := settingsOf(next)
	if err != nil {
		return config.Changes{}, err
	}
	diff := config.Diff(old, next)
	if diff.Pools {
		f.to.SetPools(next.Pools)
	}
	if !diff.None() {
		if err := f.to.Apply(next.Connections, next.Credentials, settings, changesOf(old, next, diff)); err != nil {
			return diff, err
		}
	}
	f.file, f.loaded = file, loaded
	f.running.Store(next)
	f.fetchCRLs(next)
	return diff, nil
}

func (f *inForce) fetchCRLs(c *config.Config) {
	if f.fetch != nil {
		f.fetch(c.CRLURIs())
	}
}

// needsRestart reports whether the setting is one that is read once.
func needsRestart(key string) bool {
	switch key {
	case "listen", "interfaces", "port", "port_nat_t", "run_dir", "swanctl_socket", "socket_group", "state_dir", "updown_timeout", "firewall",
		"fast_path", "outside", "inside", "max_spis",
		"install_virtual_ip", "install_virtual_ip_on", "routing_table", "routing_table_prio":
		return true
	}
	return false
}

// changesOf says what the difference does to sessions. Those of a connection that
// the file has no more end. One that a client unloads or changes leaves them as
// they are, as with charon; an unloaded one takes along what it started itself.
func changesOf(old, next *config.Config, d config.Changes) (ch engine.Changes) {
	was := map[string]*sa.Connection{}
	for _, c := range old.Connections {
		was[c.Name] = c
	}
	for _, name := range d.Removed {
		if was[name].Origin != config.OriginVici {
			ch.RemovedConns = append(ch.RemovedConns, name)
			continue
		}
		for _, child := range was[name].Children {
			if child.Start {
				ch.Ended = append(ch.Ended, engine.ChildName{Conn: name, Child: child.Name})
			}
		}
	}
	for _, name := range d.Added {
		for _, child := range next.Connection(name).Children {
			ch.Start = append(ch.Start, engine.ChildName{Conn: name, Child: child.Name})
		}
	}
	for _, c := range d.Changed {
		for _, child := range c.Removed {
			if was[c.Name].Origin != config.OriginVici {
				ch.RemovedChildren = append(ch.RemovedChildren, engine.ChildName{Conn: c.Name, Child: child})
			}
		}
		start := append(append([]string(nil), c.Added...), c.Changed...)
		if c.IKE {
			start = append(start, c.Unchanged...) // down, perhaps, for what has been mended
		}
		for _, child := range start {
			ch.Start = append(ch.Start, engine.ChildName{Conn: c.Name, Child: child})
		}
	}
	return ch
}
