package engine

import (
	"context"
	"time"

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
		e.networkChanged()
		select {
		case <-ctx.Done():
			return
		case <-time.After(networkPause):
		}
	}
}

func (e *Engine) networkChanged() {
	e.counters.netChanges.Add(1)
	e.readdress()
	e.hurryStarts()
	for _, s := range e.shards {
		s.inbox.call(func(s *shard) {
			spis := make([]wire.SPI, 0, len(s.byID))
			for _, x := range s.byID {
				spis = append(spis, x.spi)
			}
			s.tellNetworkChanged(spis)
		})
	}
}

// tellNetworkChanged tells some sessions and leaves the rest to the next turn.
func (s *shard) tellNetworkChanged(spis []wire.SPI) {
	n := min(len(spis), checksPerTurn)
	for _, spi := range spis[:n] {
		if x := s.sessions[spi]; x != nil {
			s.step(x, sa.NetworkChanged{})
		}
	}
	if rest := spis[n:]; len(rest) > 0 {
		s.inbox.call(func(s *shard) { s.tellNetworkChanged(rest) })
	}
}
