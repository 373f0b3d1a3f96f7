package main

import (
	"errors"
	"path/filepath"
	"reflect"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/ike/config"
	"espalier/ike/engine"
)

// withFastPath opens the fast path, if there is one, and makes the data plane keep
// it in step; otherwise the data plane is the kernel's alone. Its programs come
// later: see loadFastPath.
func withFastPath(dp dataplane.DataPlane, cfg *config.Config, runDir string, log zerolog.Logger) (*flow.Flow, dataplane.DataPlane, error) {
	f := openFastPath(cfg, runDir, log)
	if f == nil {
		return nil, dp, nil
	}
	plane, err := f.Wrap(dp)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, plane, nil
}

// closeFastPath ends both: first who writes the maps, then the maps.
func closeFastPath(f *flow.Flow, plane dataplane.DataPlane) error {
	if f == nil {
		return nil
	}
	return errors.Join(plane.Close(), f.Close())
}

// packetGuard is the fast path as the engine wants it.
func packetGuard(f *flow.Flow) engine.PacketGuard {
	if f == nil {
		return nil
	}
	return f
}

// fastPathOptions say where it leaves word.
func fastPathOptions(runDir string, log zerolog.Logger) flow.Options {
	return flow.Options{State: filepath.Join(runDir, filepath.Base(flow.DefaultState)), Log: log}
}

// openFastPath makes what BPF programs and daemon share, or takes down what a former
// run left of it; nil: the daemon runs without. What is missing is told here and to
// readers.
func openFastPath(cfg *config.Config, runDir string, log zerolog.Logger) *flow.Flow {
	o := fastPathOptions(runDir, log)
	if !cfg.Settings.FastPath.On {
		if err := flow.TakeDown(o); err != nil {
			log.Warn().Err(err).Msg("BPF programs of a former run could not all be taken down")
		}
		return nil
	}
	o.Settings = flowSettings(cfg)
	f, err := flow.Open(o)
	if err != nil {
		noFastPath(o, err)
		return nil
	}
	return f
}

func noFastPath(o flow.Options, err error) {
	o.Log.Warn().Err(err).Msg("no fast path: packets are not counted by SPI, guarded, steered or fitted")
	flow.Unavailable(o, err)
}

// loadFastPath loads and attaches the programs. Closing the fast path ends it.
func loadFastPath(f *flow.Flow, runDir string, log zerolog.Logger) {
	began := time.Now()
	switch err := f.Load(); {
	case err == nil:
		log.Info().Dur("after", time.Since(began)).Msg("fast path loaded")
	case !errors.Is(err, flow.ErrClosed):
		noFastPath(fastPathOptions(runDir, log), err)
	}
}

// flowSettings are the fast path's part of the configuration, which has checked
// the words.
func flowSettings(cfg *config.Config) flow.Settings {
	c := &cfg.Settings.FastPath
	guard, _ := flow.ParseGuardMode(c.Guard)
	steering, _ := flow.ParseSteering(c.Steering)
	return flow.Settings{
		Outside: c.Outside, Inside: c.Inside, MaxSPIs: c.MaxSPIs, Guard: guard, Steering: steering, MSS: c.MSS,
		InitRate: c.InitRate, InitBurst: c.InitBurst, Prefix4: c.InitPrefix4, Prefix6: c.InitPrefix6,
		IKEPort: cfg.Settings.SA.Port, NATTPort: cfg.Settings.SA.NATTPort,
	}
}

// reloadFastPath takes changed settings over; what espctl has set stays unless
// they have changed.
func reloadFastPath(f *flow.Flow, old, next *config.Config) {
	if f != nil && !reflect.DeepEqual(old.Settings.FastPath, next.Settings.FastPath) {
		f.Set(flowSettings(next))
	}
}
