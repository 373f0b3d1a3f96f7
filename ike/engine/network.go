package engine

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// networkPause is the least time between two rounds of path checks: changes of
// addresses and routes come in bursts.
const networkPause = time.Second

// checksPerTurn is how many sessions of a shard are told in one turn, so that
// messages need not wait for thousands of checks.
const checksPerTurn = 64

// watchNetwork tells the sessions of each change of the box's network.
func (e *Engine) watchNetwork(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.opts.NetworkChanges:
		}
		e.log.Info().Msg("addresses or default routes have changed, checking the paths to the peers")
		e.networkChanged(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(networkPause):
		}
	}
}

func (e *Engine) networkChanged(ctx context.Context) {
	e.counters.netChanges.Add(1)
	e.lookAround()
	routes := e.routes(ctx)
	e.readdress()
	e.hurryStarts()
	for _, s := range e.shards {
		s.inbox.call(func(s *shard) {
			spis := make([]wire.SPI, 0, len(s.byID))
			for _, x := range s.byID {
				spis = append(spis, x.spi)
			}
			s.tellNetworkChanged(spis, routes)
		})
	}
}

// routes are our addresses towards all peers whose sessions choose their path.
func (e *Engine) routes(ctx context.Context) map[netip.Addr]netip.Addr {
	routes := map[netip.Addr]netip.Addr{}
	for _, s := range e.shards {
		_ = s.ask(ctx, func(s *shard) { // an engine that stops needs none
			for _, x := range s.byID {
				for _, a := range x.m.PeerAddrs() {
					routes[a] = netip.Addr{}
				}
			}
		})
	}
	for remote := range routes {
		if local, err := e.route(remote); err == nil {
			routes[remote] = local
		}
	}
	return routes
}

// paths are the ways from here to the peer's addresses, in their order.
func paths(m *sa.Machine, routes map[netip.Addr]netip.Addr) (out []sa.Ends) {
	for _, a := range m.PeerAddrs() {
		if local := routes[a]; local.IsValid() {
			out = append(out, sa.Ends{Local: local, Remote: a})
		}
	}
	return out
}

// route is Options.Route, or the kernel's.
func (e *Engine) route(remote netip.Addr) (netip.Addr, error) {
	if e.opts.Route != nil {
		return e.opts.Route(remote)
	}
	return sockets.Route(remote)
}

// lookAround reads the box's addresses, of those that it listens on.
func (e *Engine) lookAround() {
	ask := e.opts.Addrs
	if ask == nil {
		ask = sockets.Addrs
	}
	addrs, err := ask()
	if err != nil {
		e.log.Warn().Err(err).Msg("the box's addresses are not known")
		return
	}
	// What a peer gave us is no place where another one reaches us.
	addrs = slices.DeleteFunc(addrs, e.isVirtual)
	if listen := e.opts.Settings.Listen; len(listen) > 0 {
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
			return !slices.Contains(listen, a) && !slices.ContainsFunc(listen, func(l netip.Addr) bool { return l.IsUnspecified() && l.Is4() == a.Is4() })
		})
	}
	e.addrs.Store(&addrs)
}

// tellNetworkChanged tells some sessions and leaves the rest to the next turn.
func (s *shard) tellNetworkChanged(spis []wire.SPI, routes map[netip.Addr]netip.Addr) {
	n := min(len(spis), checksPerTurn)
	for _, spi := range spis[:n] {
		if x := s.sessions[spi]; x != nil {
			s.step(x, sa.NetworkChanged{Paths: paths(x.m, routes)})
		}
	}
	if rest := spis[n:]; len(rest) > 0 {
		s.inbox.call(func(s *shard) { s.tellNetworkChanged(rest, routes) })
	}
}
