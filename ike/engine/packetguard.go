package engine

import (
	"net/netip"
	"slices"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// PacketGuard stands before the sockets and tells the packets of peers from
// those of nobody. Its methods must not wait.
type PacketGuard interface {
	// OwnIKE: an own IKE SPI is in use, or not any more. Shards call it, before a
	// message with the SPI is sent.
	OwnIKE(spi uint64, used bool)
	// Peers is every address that may begin an IKE SA, when each connection names
	// its peers by address; known is false when one does not, and anybody may.
	Peers(prefixes []netip.Prefix, known bool)
}

// own makes the session the one of an own SPI.
func (s *shard) own(spi wire.SPI, x *session) {
	s.sessions[spi] = x
	if g := s.e.opts.PacketGuard; g != nil {
		g.OwnIKE(uint64(spi), true)
	}
}

// disown ends that.
func (s *shard) disown(spi wire.SPI) {
	delete(s.sessions, spi)
	if g := s.e.opts.PacketGuard; g != nil {
		g.OwnIKE(uint64(spi), false)
	}
}

// maxPeerPrefixes bounds the list that a guard gets; a configuration that needs
// more has ranges that do not tell friend from foe.
const maxPeerPrefixes = 1 << 16

// tellPeers gives the guard the peers of the connections.
func (e *Engine) tellPeers(conns []*sa.Connection) {
	g := e.opts.PacketGuard
	if g == nil {
		return
	}
	var list []netip.Prefix
	for _, c := range conns {
		if len(c.RemoteAddrs) == 0 {
			g.Peers(nil, false)
			return
		}
		for _, a := range c.RemoteAddrs {
			if !a.Start.IsValid() || len(list) > maxPeerPrefixes { // any, or a name: its addresses change
				g.Peers(nil, false)
				return
			}
			list = append(list, dataplane.Prefixes(a.Start, a.End)...)
		}
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	g.Peers(slices.Compact(list), true)
}
