package main

import (
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

// reload reads the configuration again and applies what differs. It returns the
// configuration that is in force then: after any error, which is logged, the old one.
func reload(old *config.Config, path string, to applier, log zerolog.Logger) (*config.Config, error) {
	log.Info().Str("config", path).Msg("reloading the configuration")
	next, err := load(path, log)
	if err != nil {
		log.Error().Err(err).Msg("reload refused, the running configuration stays")
		return old, err
	}
	settings, err := settingsOf(next)
	if err != nil {
		log.Error().Err(err).Msg("reload refused, the running configuration stays")
		return old, err
	}
	diff := config.Diff(old, next)
	if diff.None() {
		log.Info().Msg("nothing differs")
		return next, nil
	}
	if diff.Pools {
		to.SetPools(next.Pools)
	}
	if err := to.Apply(next.Connections, next.Credentials, settings, changesOf(next, diff)); err != nil {
		log.Error().Err(err).Msg("reload failed")
		return old, err
	}
	for _, key := range diff.Settings {
		if needsRestart(key) {
			log.Warn().Str("key", key).Msg("this setting takes effect with the next start")
		}
	}
	log.Info().Strs("added", diff.Added).Strs("removed", diff.Removed).Int("changed", len(diff.Changed)).
		Int("unchanged", len(diff.Unchanged)).Bool("credentials", diff.Credentials).Bool("pools", diff.Pools).Strs("settings", diff.Settings).
		Msg("configuration reloaded")
	return next, nil
}

// needsRestart reports whether the setting is one that is read once.
func needsRestart(key string) bool {
	switch key {
	case "listen", "interfaces", "port", "port_nat_t", "run_dir", "swanctl_socket", "state_dir",
		"fast_path", "outside", "inside", "max_spis",
		"install_virtual_ip", "install_virtual_ip_on", "routing_table", "routing_table_prio":
		return true
	}
	return false
}

// changesOf says what the difference does to sessions.
func changesOf(next *config.Config, d config.Changes) engine.Changes {
	ch := engine.Changes{RemovedConns: d.Removed}
	for _, name := range d.Added {
		for _, child := range next.Connection(name).Children {
			ch.Start = append(ch.Start, engine.ChildName{Conn: name, Child: child.Name})
		}
	}
	for _, c := range d.Changed {
		for _, child := range c.Removed {
			ch.RemovedChildren = append(ch.RemovedChildren, engine.ChildName{Conn: c.Name, Child: child})
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
