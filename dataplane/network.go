package dataplane

import (
	"fmt"
	"net/netip"
)

// Network is where the box's own virtual addresses and its routes into tunnels
// go. Its methods may block on the kernel and are safe for concurrent use.
type Network interface {
	// Want makes the addresses and routes of an owner those of the wish: what is
	// new is added, what is not wished any more goes, unless another owner wishes
	// it, too. The zero Wish takes everything away. Errors: what could not be
	// done; the rest was.
	Want(owner uint64, w Wish) error
	// Spare keeps the routes off these networks, whatever is wished: what the box
	// sends there goes as if there were none. It replaces an earlier list.
	Spare(nets []netip.Prefix) error
	// Addrs are the virtual addresses that the box has from a wish. They come
	// and go with tunnels: no tunnel begins at one.
	Addrs() []netip.Addr
	// Outside is the address that the box would send from to remote, were there
	// none of these routes. Errors: there is no way.
	Outside(remote netip.Addr) (netip.Addr, error)
}

// Wish is what one owner, an IKE session, wants the box to have.
type Wish struct {
	// Local and Peer are the tunnels' outer addresses: where virtual addresses
	// and routes go shows from the way between them.
	Local, Peer netip.Addr
	Addrs       []netip.Addr // virtual addresses
	Routes      []Route
}

// Empty reports whether nothing is wished.
func (w *Wish) Empty() bool { return len(w.Addrs)+len(w.Routes) == 0 }

// Route leads what the box itself sends to Dst into a tunnel: with a source
// address within Within, for which there are policies. Without such an address
// of the box there is no route.
type Route struct{ Dst, Within netip.Prefix }

func (r Route) String() string { return fmt.Sprintf("%s from %s", r.Dst, r.Within) }
