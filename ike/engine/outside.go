package engine

import (
	"net/netip"
	"slices"

	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
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

// sources are the addresses that packets for a trap come from, where its child
// says "dynamic": the outer one. Who is to get a virtual address has to do with
// another one until then, which may be any of the box's of the same family.
func (e *Engine) sources(c *sa.Connection, outer netip.Addr) []netip.Addr {
	if len(c.VIPs) == 0 {
		return []netip.Addr{outer}
	}
	out := []netip.Addr{outer}
	if own := e.addrs.Load(); own != nil {
		out = append(out, *own...)
	}
	slices.SortFunc(out, netip.Addr.Compare) // the trap is compared with the one before
	return slices.DeleteFunc(slices.Compact(out), func(a netip.Addr) bool {
		return !slices.ContainsFunc(c.VIPs, func(v netip.Addr) bool { return v.Is4() == a.Is4() })
	})
}
