package engine

import (
	"net/netip"
	"slices"

	"espalier/ike/engine/sockets"
)

// outside is Options.Route where that is not given: what the kernel says, but
// never a virtual address, for a tunnel that began at one would end with the
// tunnel that the address is from.
func (e *Engine) outside(remote netip.Addr) (netip.Addr, error) {
	local, err := sockets.Route(remote)
	if err == nil && e.isVirtual(local) {
		return e.opts.Network.Outside(remote)
	}
	return local, err
}

// isVirtual reports whether the box has the address from a peer.
func (e *Engine) isVirtual(a netip.Addr) bool {
	return e.opts.Network != nil && slices.Contains(e.opts.Network.Addrs(), a)
}
