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

// Changes of addresses and routes come in bursts.
const (
	// networkSettle is how long a change waits for those that belong to it.
	networkSettle = 20 * time.Millisecond
	// networkPause is the least time between two rounds in which all sessions check
	// their paths.
	networkPause = time.Second
	// strandedRounds bounds the rounds between two of those, beyond one for each
	// change of the addresses, for the sessions whose address is gone.
	strandedRounds = 5
)

// checksPerTurn is how many sessions of a shard are told in one turn, so that
// messages need not wait for thousands of checks.
const checksPerTurn = 64

// watchNetwork tells the sessions of the changes of the box's network. A session
// whose address is gone has nothing to lose and moves at once; a check of all paths
// is a message for every session, so there is a pause between two.
func (e *Engine) watchNetwork(ctx context.Context) {
	var (
		last time.Time        // of the last round for all
		due  <-chan time.Time // of the next; nil: none is asked for
		few  int              // rounds since, for some
	)
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
			e.lookAround()
		case <-e.opts.NetworkChanges:
			if !e.settle(ctx) {
				return
			}
			changed := e.lookAround()
			if pause := networkPause - time.Since(last); pause > 0 {
				if changed || few < strandedRounds {
					few++
					e.tellNetwork(ctx, e.stranded())
				}
				if due == nil {
					due = time.After(pause)
				}
				continue
			}
		}
		e.log.Info().Msg("addresses or default routes have changed, checking the paths to the peers")
		e.networkChanged(ctx)
		last, due, few = time.Now(), nil, 0
	}
}

// settle waits for what belongs to a change. It reports whether there is anything
// to do then.
func (e *Engine) settle(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(networkSettle):
	}
	select {
	case <-e.opts.NetworkChanges: // seen in what follows
	default:
	}
	return true
}

func (e *Engine) networkChanged(ctx context.Context) {
	e.counters.netChanges.Add(1)
	e.tellNetwork(ctx, func(*session) bool { return true })
	e.readdress()
	e.hurryStarts()
}

// stranded picks the sessions whose address is not the box's any more.
func (e *Engine) stranded() func(*session) bool {
	here := map[netip.Addr]bool{}
	if addrs := e.addrs.Load(); addrs != nil {
		for _, a := range *addrs {
			here[a] = true
		}
	}
	return func(x *session) bool { return len(here) > 0 && x.m.IsEstablished() && !here[x.m.Local().Addr()] }
}

// tellNetwork tells some sessions of the box's network as it is.
func (e *Engine) tellNetwork(ctx context.Context, which func(*session) bool) {
	routes := e.routes(ctx, which)
	for _, s := range e.shards {
		s.inbox.call(func(s *shard) {
			spis := make([]wire.SPI, 0, len(s.byID))
			for _, x := range s.byID {
				if which(x) {
					spis = append(spis, x.spi)
				}
			}
			s.tellNetworkChanged(spis, routes)
		})
	}
}

// routes are our addresses towards the peers of those of the sessions that choose
// their path.
func (e *Engine) routes(ctx context.Context, which func(*session) bool) map[netip.Addr]netip.Addr {
	routes := map[netip.Addr]netip.Addr{}
	for _, s := range e.shards {
		_ = s.ask(ctx, func(s *shard) { // an engine that stops needs none
			for _, x := range s.byID {
				if !which(x) {
					continue
				}
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

// lookAround reads the box's addresses, of those that it listens on, and reports
// whether they are others than before.
func (e *Engine) lookAround() (changed bool) {
	ask := e.opts.Addrs
	if ask == nil {
		ask = sockets.Addrs
	}
	addrs, err := ask()
	if err != nil {
		e.log.Warn().Err(err).Msg("the box's addresses are not known")
		return false
	}
	// What a peer gave us is no place where another one reaches us.
	addrs = slices.DeleteFunc(addrs, e.isVirtual)
	if listen := e.opts.Settings.Listen; len(listen) > 0 {
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
			return !slices.Contains(listen, a) && !slices.ContainsFunc(listen, func(l netip.Addr) bool { return l.IsUnspecified() && l.Is4() == a.Is4() })
		})
	}
	was := e.addrs.Swap(&addrs)
	return was == nil || !slices.Equal(*was, addrs)
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
