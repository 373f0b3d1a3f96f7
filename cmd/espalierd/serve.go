package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/dataplane/host"
	"espalier/dataplane/route"
	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/engine/sockets"
	"espalier/ike/vici"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, f flags, log zerolog.Logger) (err error) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // from now on: a SIGHUP during the start must not kill
	defer signal.Stop(hup)
	inherited, err := sockets.FromSystemd(os.Getenv, os.Getpid())
	if err != nil {
		return err
	}
	notify := newNotifier(os.Getenv("NOTIFY_SOCKET"), log)
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"} {
		os.Unsetenv(v) // not for children
	}
	cfg, err := load(f, f.whenRunning(nil), log)
	if err != nil {
		return err
	}
	levels := levelsOf(f, cfg)
	log = levels.log(log, "default")
	tellStrongSwan(cfg, log)
	runDir := f.RunDir
	if runDir == "" {
		runDir = cfg.Settings.RunDir
	}
	if err := (host.Local{}).LoadModules(); err != nil {
		log.Warn().Err(err).Msg("not every kernel module of a gateway could be loaded (espctl host show)")
	}
	dp, err := openKernel(f, cfg, levels.log(log, "knl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	if _, err := engine.Guard(dp, cfg.Connections, cfg.Pools, guardSettings(cfg), log); err != nil {
		log.Error().Err(err).Msg("leak = block: not everything could be blocked")
	}
	fast, plane, err := withFastPath(dp, cfg, runDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeFastPath(fast, plane)) }()
	routes, err := route.Open(route.Options{JournalDir: runDir, VirtualIP: cfg.Settings.VirtualIP, On: cfg.Settings.VirtualIPOn,
		Table: cfg.Settings.RoutingTable, Priority: cfg.Settings.RoutingPrio, Log: levels.log(log, "knl")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, routes.Close()) }()
	if fast != nil {
		fast.Routes(routes.Fit)
	}
	settings, err := settingsOf(cfg)
	if err != nil {
		return err
	}
	network, err := sockets.WatchNetwork(cfg.Settings.RoutingTable)
	if err != nil {
		return err
	}
	defer network.Close()
	stateDir := f.StateDir
	if stateDir == "" {
		stateDir = cfg.Settings.StateDir
	}
	bus, sightings := new(event.Bus), new(event.Bus)
	if fast != nil {
		fast.Follow(bus)
	}
	tuner := newTuner(fast, cfg, runDir, bus, log)
	defer func() { err = errors.Join(err, tuner.close()) }()
	stopFirewall := startFirewall(cfg, log)
	defer func() { err = errors.Join(err, stopFirewall()) }()
	scripts := newScripts(cfg, bus, levels.log(log, "chd"))
	defer scripts.Close() // after the engine, whose CHILD SAs go at the end
	eng, err := engine.New(engine.Options{
		DataPlane: plane, Network: routes, Conns: cfg.Connections, Creds: cfg.Credentials, Settings: settings, Bus: bus, Sightings: sightings,
		Log: levels.log(log, engineGroups...), Quiet: levels.quiet,
		SocketOptions: sockets.Options{Inherited: inherited, Keeper: notify}, NetworkChanges: network.Changes(), LinkMTU: linkMTU,
		CrashSecret: crashSecret(stateDir, log), Updown: scripts, PacketGuard: packetGuard(fast),
	})
	if err != nil {
		return err
	}
	// The engine has taken over what must not have a gap; no session outlives the
	// daemon yet, so the rest of a former run goes.
	if err := dp.RemoveLeftovers(); err != nil {
		log.Warn().Err(err).Msg("what a former run left in the kernel could not all be removed")
	}
	eng.SetPools(cfg.Pools)
	force := newInForce(f, cfg, eng, levels.log(log, "cfg"))
	again := func() error {
		notify.reloading()
		old := force.file
		err := force.reload()
		reloadFastPath(fast, old, force.file)
		tuner.reload(old, force.file)
		notify.send("READY=1")
		return err
	}
	tasks := make(chan func())
	control := facade{eng, force, again, tasks}
	more := tuner.commands()
	if more == nil {
		more = map[string]vici.Command{}
	}
	more["plan"] = control.planCommand
	server := vici.NewServer(vici.Config{Engine: control, Events: bus, Sightings: sightings, Version: daemonVersion(), Log: log, More: more})
	listeners, err := listen(runDir, cfg.Settings.SwanctlOn, log)
	if err != nil {
		return errors.Join(err, eng.Close())
	}
	defer server.Close()

	ended := make(chan error, 1)
	go func() { ended <- eng.Run(ctx) }()
	<-eng.Begun()
	serveControl(server, listeners, log)
	log.Info().Str("version", version()).Str("config", cfg.Path).Int("connections", len(cfg.Connections)).Msg("espalierd started")
	notify.send("READY=1")
	if fast != nil {
		// After IKE: the kernel verifies programs for up to half a minute.
		go loadFastPath(fast, runDir, log)
	}
	tuner.run(eng)
	for {
		select {
		case <-hup:
			_ = again() // it has logged what went wrong
		case task := <-tasks:
			task()
		case <-ctx.Done():
			notify.send("STOPPING=1")
			err := <-ended
			log.Info().Msg("espalierd stopped")
			return err
		case err := <-ended:
			notify.send("STOPPING=1")
			return err
		}
	}
}

// load reads the configuration and logs each mistake on a line of its own.
func load(f flags, o config.Options, log zerolog.Logger) (*config.Config, error) {
	cfg, err := config.LoadWith(f.Config, o)
	if err != nil {
		var mistakes config.Errors
		if !errors.As(err, &mistakes) {
			return nil, err
		}
		for _, m := range mistakes {
			log.Error().Str("file", m.File).Int("line", m.Line).Int("col", m.Col).
				Str("expected", m.Expected).Str("found", m.Found).Str("hint", m.Hint).Msg("mistake in the configuration")
		}
		return nil, fmt.Errorf("%s: mistakes in the configuration: %d", f.Config, len(mistakes))
	}
	for _, w := range cfg.Warnings {
		log.Warn().Str("file", w.File).Int("line", w.Line).Int("col", w.Col).
			Str("expected", w.Expected).Str("found", w.Found).Msg("odd in the configuration")
	}
	return cfg, nil
}

// crashSecret is what the tokens of quick crash detection are made with. It stands
// where a reboot leaves it, for that is what peers are to be told of (RFC 6290 5).
// Without it the daemon works all the same: its peers then need DPD.
func crashSecret(dir string, log zerolog.Logger) secret.Bytes {
	path := filepath.Join(dir, "crash-detection.secret")
	b, replaced, err := secret.Keep(path, 32)
	if replaced != "" {
		log.Warn().Str("file", path).Str("reason", replaced).Msg("the secret of quick crash detection was replaced, peers of the former run find out by DPD")
	}
	if err != nil {
		log.Error().Err(err).Msg("no secret for quick crash detection, peers find out by DPD when this box has crashed")
		return nil
	}
	return b
}

// linkMTU is the MTU of the link by which the box reaches a peer.
func linkMTU(local, remote netip.Addr) (int, error) {
	way, err := host.WayTo(local, remote)
	return way.MTU, err
}

// settingsOf are the configuration's settings as the engine has them.
func settingsOf(cfg *config.Config) (engine.Settings, error) {
	s := engine.DefaultSettings()
	s.Settings = cfg.Settings.SA
	s.CookieThreshold, s.MaxHalfOpen = cfg.Settings.CookieThreshold, cfg.Settings.HalfOpenLimit
	s.MaxHalfOpenPerPrefix, s.HalfOpenPrefix4, s.HalfOpenPrefix6 = cfg.Settings.HalfOpenPerPrefix, cfg.Settings.HalfOpenPrefix4, cfg.Settings.HalfOpenPrefix6
	if s.CookieThreshold == 0 {
		s.CookieThreshold = -1 // always; 0 would be the engine's default
	}
	s.CPUs = cpus()
	s.BlockLeaks, s.BypassLAN = cfg.Settings.BlockLeaks, cfg.Settings.BypassLAN
	s.Listen = cfg.Settings.Listen
	if n := cfg.StrongSwan.Threads; n > 0 {
		s.Workers = n
	}
	if len(cfg.Settings.Interfaces) == 0 {
		return s, nil
	}
	on, err := addressesOf(cfg.Settings.Interfaces)
	if err != nil {
		return s, err
	}
	if len(s.Listen) > 0 {
		return s, fmt.Errorf("espalier.listen and espalier.interfaces: expected one of them, found %v and %s",
			s.Listen, strings.Join(cfg.Settings.Interfaces, ", "))
	}
	s.Listen = on
	return s, nil
}

// cpus is one more than the highest number of a CPU that may send; one, when the
// kernel does not say.
func cpus() int {
	n := uint32(1)
	online, _ := host.OnlineCPUs()
	for _, cpu := range online {
		n = max(n, cpu+1)
	}
	return int(n)
}

// addressesOf lists the addresses that the interfaces have now.
func addressesOf(interfaces []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, name := range interfaces {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("espalier.interfaces: interface %s: %w", name, err)
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			return nil, fmt.Errorf("espalier.interfaces: interface %s: %w", name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				out = append(out, p.Addr().Unmap())
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("espalier.interfaces: expected an address on %s, found none", strings.Join(interfaces, ", "))
	}
	return out, nil
}

func daemonVersion() vici.Version {
	v := vici.Version{Daemon: "espalierd", Version: version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v.SysName, v.Release, v.Machine = unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	}
	return v
}
