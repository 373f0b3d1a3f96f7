package sa

import "net/netip"

// Lease are the virtual addresses that go with a session: those that we gave
// the peer from a pool, or those that the peer gave us (RFC 7296 2.19).
type Lease struct {
	Addrs []netip.Addr
}

func (c *coder) lease(l *Lease) {
	list(c, &l.Addrs, addr)
}
