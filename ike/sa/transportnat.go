package sa

import (
	"net/netip"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/wire"
)

// throughNAT gives selectors that the peer names for transport mode the
// addresses that packets have here: ours where a NAT stands before us, and the
// NAT's where it stands before the peer (RFC 7296 2.23.1). local are those of
// our side.
func (m *Machine) throughNAT(local, remote []selector.TS, mode dataplane.Mode) (l, r []selector.TS) {
	k := &m.s.IKE
	if mode != dataplane.Transport {
		return local, remote
	}
	if k.NATLocal {
		local = withHost(local, k.Local.Addr())
	}
	if k.NATRemote {
		remote = withHost(remote, k.Remote.Addr())
	}
	return local, remote
}

// withHost puts a host in the place of each single one; the list is a new one.
func withHost(ts []selector.TS, host netip.Addr) []selector.TS {
	out := append([]selector.TS(nil), ts...)
	for i := range out {
		if t := &out[i]; t.Start == t.End && t.Start.Is4() == host.Is4() {
			t.Start, t.End = host, host
		}
	}
	return out
}

// matchNAT is matchChild that looks through a NAT for transport mode, as long as
// that is what the match ends in.
func (m *Machine) matchNAT(peerLocal, peerRemote []selector.TS, mode dataplane.Mode) (*ChildConfig, []selector.TS, []selector.TS, string) {
	if mode == dataplane.Transport && m.s.IKE.encap() {
		l, r := m.throughNAT(peerLocal, peerRemote, mode)
		if cfg, local, remote, why := m.matchChild(l, r, mode); cfg != nil && cfg.Mode == mode {
			return cfg, local, remote, why
		}
	}
	return m.matchChild(peerLocal, peerRemote, mode)
}

// firstHost is the address of the first selector of TSi (initiator) or TSr, when
// that is one host.
func firstHost(ps []wire.Payload, initiator bool) netip.Addr {
	p, ok := wire.FindTS(ps, initiator)
	if !ok {
		return netip.Addr{}
	}
	for i := range p.Selectors {
		if t := &p.Selectors[i]; t.IsAddrRange() {
			if t.Start == t.End {
				return t.Start
			}
			break
		}
	}
	return netip.Addr{}
}
