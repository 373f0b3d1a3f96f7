package main

import (
	"errors"
	"path/filepath"
	"reflect"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/ike/config"
	"espalier/ike/engine"
)

// withFastPath opens the fast path, if there is one, and makes the data plane keep
// it in step; otherwise the data plane is the kernel's alone.
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

// openFastPath loads the BPF programs, or takes down what a former run left of
// them; nil: the daemon runs without. What is missing is told here and to readers.
func openFastPath(cfg *config.Config, runDir string, log zerolog.Logger) *flow.Flow {
	o := flow.Options{State: filepath.Join(runDir, filepath.Base(flow.DefaultState)), Log: log}
	if !cfg.Settings.FastPath.On {
		if err := flow.TakeDown(o); err != nil {
			log.Warn().Err(err).Msg("BPF programs of a former run could not all be taken down")
		}
		return nil
	}
	o.Settings = flowSettings(cfg)
	f, err := flow.Open(o)
	if err != nil {
		log.Warn().Err(err).Msg("no fast path: packets are not counted by SPI, guarded, steered or fitted")
		flow.Unavailable(o, err)
		return nil
	}
	return f
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
