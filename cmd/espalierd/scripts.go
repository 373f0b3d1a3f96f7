package main

import (
	"context"
	"net/netip"
	"os"

	"github.com/rs/zerolog"

	"espalier/dataplane/host"
	"espalier/ike/config"
	"espalier/ike/updown"
	"espalier/internal/event"
)

// defaultPath is the PATH of updown scripts when the daemon has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// newScripts follows CHILD SAs with updown scripts.
func newScripts(cfg *config.Config, bus *event.Bus, log zerolog.Logger) *updown.Scripts {
	path := os.Getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	o := updown.Options{
		Run: func(ctx context.Context, s updown.Script, line func(string)) error {
			return host.Local{}.RunScript(ctx, s.Command, s.Env, line)
		},
		Interface: func(local, remote netip.Addr) string {
			way, err := host.WayTo(local, remote)
			if err != nil {
				log.Warn().Stringer("remote", remote).Err(err).Msg("no network interface for an updown script")
				return ""
			}
			return way.Link
		},
		Limit: cfg.Settings.UpdownLimit, Path: path, Bus: bus, Log: log,
	}
	if cfg.Settings.Firewall {
		o.Firewall = func(p updown.Pass, up bool) error {
			if !up {
				return host.Local{}.RevokeTunnel(p.ReqID)
			}
			skipped, err := host.Local{}.AdmitTunnel(host.Pass(p))
			if len(skipped) > 0 {
				log.Warn().Strs("chains", skipped).Msg("chains of iptables are left alone, an updown script can change them")
			}
			return err
		}
	}
	return updown.New(o)
}

// startFirewall prepares the packet filter, if it is to follow the tunnels. The
// result ends that again.
func startFirewall(cfg *config.Config, log zerolog.Logger) (stop func() error) {
	if !cfg.Settings.Firewall {
		return func() error { return nil }
	}
	if err := (host.Local{}).StartFirewall(); err != nil {
		log.Error().Err(err).Msg("firewall = yes: the box's packet filter cannot be changed")
	}
	return host.Local{}.StopFirewall
}
