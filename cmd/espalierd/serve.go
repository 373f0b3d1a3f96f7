package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/dataplane/host"
	"espalier/dataplane/route"
	"espalier/dataplane/xfrm"
	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/engine/sockets"
	"espalier/ike/pki"
	"espalier/ike/pki/fetch"
	"espalier/ike/updown"
	"espalier/ike/vici"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// gateway is the running program: its parts in the order in which they are made.
// close ends them the other way round.
type gateway struct {
	flags
	log       zerolog.Logger
	levels    levels
	cfg       *config.Config // as it was at the start
	runDir    string
	stateDir  string
	notify    notifier
	inherited []*os.File

	kernel         *xfrm.XFRM
	fast           *flow.Flow          // nil: none
	plane          dataplane.DataPlane // the kernel, kept in step with the fast path
	windows        dataplane.Windows   // of replay, of the plane's SAs
	routes         *route.Keeper
	network        *sockets.Network
	bus, sightings *event.Bus
	tuner          *tuner
	scripts        *updown.Scripts
	engine         *engine.Engine
	force          *inForce
	tasks          chan func() // for the main loop
	control        *vici.Server
	listeners      []net.Listener

	closers []func() error
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, f flags, log zerolog.Logger) (err error) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // from now on: a SIGHUP during the start must not kill
	defer signal.Stop(hup)
	g := &gateway{flags: f, log: log, bus: new(event.Bus), sightings: new(event.Bus), tasks: make(chan func())}
	defer func() { err = errors.Join(err, g.close()) }()
	for _, step := range []func() error{g.begin, g.openKernel, g.openNetwork, g.openObservers, g.openEngine, g.openControl} {
		if err := step(); err != nil {
			return err
		}
	}
	return g.run(ctx, hup)
}

// atEnd adds what close has to do.
func (g *gateway) atEnd(f func() error) { g.closers = append(g.closers, f) }

func (g *gateway) close() (err error) {
	for _, f := range slices.Backward(g.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// begin takes what systemd gives and reads the configuration.
func (g *gateway) begin() (err error) {
	if g.inherited, err = sockets.FromSystemd(os.Getenv, os.Getpid()); err != nil {
		return err
	}
	g.notify = newNotifier(os.Getenv("NOTIFY_SOCKET"), g.log)
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"} {
		os.Unsetenv(v) // not for children
	}
	g.crls = &pki.CRLCache{}
	if g.cfg, err = load(g.flags, g.whenRunning(nil), g.log); err != nil {
		return err
	}
	g.levels = levelsOf(g.flags, g.cfg)
	g.log = g.levels.log(g.log, "default")
	tellStrongSwan(g.cfg, g.log)
	g.runDir, g.stateDir = cmp.Or(g.RunDir, g.cfg.Settings.RunDir), cmp.Or(g.StateDir, g.cfg.Settings.StateDir)
	return nil
}

// openKernel opens XFRM, with nothing let out in clear from now on, and beside it the
// maps of the fast path, whose programs come later.
func (g *gateway) openKernel() (err error) {
	if err := (host.Local{}).LoadModules(); err != nil {
		g.log.Warn().Err(err).Msg("not every kernel module of a gateway could be loaded (espctl host show)")
	}
	if g.kernel, err = openKernel(g.flags, g.cfg, g.levels.log(g.log, "knl")); err != nil {
		return err
	}
	g.atEnd(g.kernel.Close)
	if _, err := engine.Guard(g.kernel, g.cfg.Connections, g.cfg.Pools, guardSettings(g.cfg), g.log); err != nil {
		g.log.Error().Err(err).Msg("leak = block: not everything could be blocked")
	}
	if g.fast, g.plane, err = withFastPath(g.kernel, g.cfg, g.runDir, g.log); err != nil {
		return err
	}
	g.plane = g.windows.Wrap(g.plane)
	g.atEnd(func() error { return closeFastPath(g.fast, g.plane) })
	return nil
}

// openNetwork opens the box's routes and addresses.
func (g *gateway) openNetwork() (err error) {
	s := &g.cfg.Settings
	g.routes, err = route.Open(route.Options{JournalDir: g.runDir, VirtualIP: s.VirtualIP, On: s.VirtualIPOn,
		Table: s.RoutingTable, Priority: s.RoutingPrio, Log: g.levels.log(g.log, "knl")})
	if err != nil {
		return err
	}
	g.atEnd(g.routes.Close)
	if g.fast != nil {
		g.fast.Routes(g.routes.Fit)
	}
	if g.network, err = sockets.WatchNetwork(s.RoutingTable); err != nil {
		return err
	}
	g.atEnd(func() error { g.network.Close(); return nil })
	return nil
}

// openObservers makes what follows the engine's events, so that they miss none.
func (g *gateway) openObservers() error {
	if g.fast != nil {
		g.fast.Follow(g.bus)
	}
	g.tuner = newTuner(g.fast, &g.windows, g.cfg, g.runDir, g.bus, g.log)
	g.atEnd(g.tuner.close)
	g.atEnd(startFirewall(g.cfg, g.log))
	g.scripts = newScripts(g.cfg, g.bus, g.levels.log(g.log, "chd"))
	g.atEnd(func() error { g.scripts.Close(); return nil }) // after the engine, whose CHILD SAs go at the end
	return nil
}

// openEngine makes the engine, which takes over what must not have a gap, and
// removes what else a former run left.
func (g *gateway) openEngine() error {
	settings, err := settingsOf(g.cfg)
	if err != nil {
		return err
	}
	g.engine, err = engine.New(engine.Options{
		DataPlane: g.plane, Network: g.routes, Conns: g.cfg.Connections, Creds: g.cfg.Credentials, Settings: settings, Bus: g.bus, Sightings: g.sightings,
		Log: g.levels.log(g.log, engineGroups...), Quiet: g.levels.quiet,
		SocketOptions: sockets.Options{Inherited: g.inherited, Keeper: g.notify}, NetworkChanges: g.network.Changes(), LinkMTU: linkMTU,
		CrashSecret: crashSecret(g.stateDir, g.log), Updown: g.scripts, PacketGuard: packetGuard(g.fast),
	})
	if err != nil {
		return err
	}
	// No session outlives the daemon yet, so the rest of a former run goes.
	if err := g.kernel.RemoveLeftovers(); err != nil {
		g.log.Warn().Err(err).Msg("what a former run left in the kernel could not all be removed")
	}
	g.engine.SetPools(g.cfg.Pools)
	g.force = newInForce(g.flags, g.cfg, g.engine, g.levels.log(g.log, "cfg"))
	crls := fetch.New(g.crls, g.levels.log(g.log, "cfg"))
	g.atEnd(crls.Close)
	g.force.fetch = crls.Set
	g.force.fetchCRLs(g.cfg)
	return nil
}

// openControl makes the control socket; nobody is served yet.
func (g *gateway) openControl() (err error) {
	facade := facade{g.engine, g.force, g.reload, g.tasks}
	more := g.tuner.commands()
	if more == nil {
		more = map[string]vici.Command{}
	}
	more["plan"] = facade.planCommand
	g.control = vici.NewServer(vici.Config{Engine: facade, Events: g.bus, Sightings: g.sightings, Version: daemonVersion(),
		Names: vici.ReadNames("/etc/protocols", "/etc/services"), Release: (&installedSwanctl{log: g.log}).get, Log: g.log, More: more})
	if g.listeners, err = listen(g.runDir, &g.cfg.Settings, g.log); err != nil {
		return errors.Join(err, g.engine.Close())
	}
	g.atEnd(func() error { g.control.Close(); return nil })
	return nil
}

// reload reads the configuration again and makes all parts follow.
func (g *gateway) reload() error {
	g.notify.reloading()
	old := g.force.file
	err := g.force.reload()
	reloadFastPath(g.fast, old, g.force.file)
	g.tuner.reload(old, g.force.file)
	g.notify.send("READY=1")
	return err
}

// run is the main loop.
func (g *gateway) run(ctx context.Context, hup <-chan os.Signal) error {
	ended := make(chan error, 1)
	go func() { ended <- g.engine.Run(ctx) }()
	<-g.engine.Begun()
	serveControl(g.control, g.listeners, g.log)
	g.log.Info().Str("version", version()).Str("config", g.cfg.Path).Int("connections", len(g.cfg.Connections)).Msg("espalierd started")
	g.notify.send("READY=1")
	if g.fast != nil {
		// After IKE: the kernel verifies programs for up to half a minute.
		go loadFastPath(g.fast, g.runDir, g.log)
	}
	g.tuner.run(g.engine)
	for {
		select {
		case <-hup:
			_ = g.reload() // it has logged what went wrong
		case task := <-g.tasks:
			task()
		case <-ctx.Done():
			g.notify.send("STOPPING=1")
			err := <-ended
			g.log.Info().Msg("espalierd stopped")
			return err
		case err := <-ended:
			g.notify.send("STOPPING=1")
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
