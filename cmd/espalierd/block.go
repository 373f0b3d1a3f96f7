package main

import (
	"errors"

	"github.com/rs/zerolog"

	"espalier/dataplane/xfrm"
	"espalier/ike/config"
	"espalier/ike/engine"
)

// block installs the policies of leak = block while no daemon runs: before the
// network is up, from a unit of its own. The next start takes them over.
func block(f flags, log zerolog.Logger) (err error) {
	cfg, err := load(f, f.whenRunning(nil), log)
	if err != nil {
		return err
	}
	if !cfg.Settings.BlockLeaks {
		log.Info().Msg("leak = pass: nothing to block")
		return nil
	}
	dp, err := openKernel(f, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	n, err := engine.Guard(dp, cfg.Connections, cfg.Pools, guardSettings(cfg), log)
	if err != nil {
		return err
	}
	log.Info().Int("policies", n).Msg("traffic of the tunnels is blocked until they are up")
	return nil
}

// unblock removes all that runs which have ended left in the kernel. It works
// without a sound configuration: who needs it may have none.
func unblock(f flags, log zerolog.Logger) (err error) {
	cfg, err := config.LoadWith(f.Config, f.options())
	if err != nil {
		cfg = &config.Config{Settings: config.Settings{RunDir: config.DefaultRunDir}}
		log.Warn().Str("config", f.Config).Str("run_dir", cfg.Settings.RunDir).Msg("the configuration cannot be read, its run_dir is taken to be the default")
	}
	dp, err := openKernel(f, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	left, err := dp.Leftovers()
	if err != nil {
		return err
	}
	if err := dp.RemoveLeftovers(); err != nil {
		return err
	}
	log.Info().Int("policies", len(left.Policies)).Int("sas", len(left.SAs)).Msg("nothing is blocked any more")
	return nil
}

// openKernel opens the kernel's XFRM; while a daemon runs it fails, for the
// journal is the daemon's.
func openKernel(f flags, cfg *config.Config, log zerolog.Logger) (*xfrm.XFRM, error) {
	dir := f.RunDir
	if dir == "" {
		dir = cfg.Settings.RunDir
	}
	return xfrm.Open(xfrm.Options{JournalDir: dir, Log: log})
}

// guardSettings are those that Guard reads. Interfaces need not be there yet.
func guardSettings(cfg *config.Config) engine.Settings {
	return engine.Settings{Settings: cfg.Settings.SA, BlockLeaks: cfg.Settings.BlockLeaks}
}
