// Package route keeps the box's own virtual addresses and its routes into
// tunnels: what sessions wish, counted, so that what several wish goes with the
// last of them, and journalled, so that a crash leaves nothing for ever.
package route

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/host"
)

// Box is what a Keeper asks of the box and does to it.
type Box interface {
	host.Verbs
	WayTo(local, to netip.Addr) (host.Way, error)
	Addresses() ([]netip.Addr, error)
	HasRule(host.Rule) (bool, error)
	MainSource(to netip.Addr) (netip.Addr, error)
}

// Local is the box itself.
type Local struct{ host.Local }

// WayTo implements Box.
func (Local) WayTo(local, to netip.Addr) (host.Way, error) { return host.WayTo(local, to) }

// Addresses implements Box.
func (Local) Addresses() ([]netip.Addr, error) { return host.Addresses() }

// HasRule implements Box.
func (Local) HasRule(r host.Rule) (bool, error) { return host.HasRule(r) }

// MainSource implements Box.
func (Local) MainSource(to netip.Addr) (netip.Addr, error) { return host.MainSource(to) }

// Options say where things go.
type Options struct {
	Box        Box    // nil: Local
	JournalDir string // private to one daemon: dataplane/xfrm locks it
	VirtualIP  bool   // put virtual addresses on the box
	On         string // interface for them; empty: the one towards the peer
	// Routes stand in Table, which a rule of Priority looks up.
	Table, Priority uint32
	Log             zerolog.Logger
}

// Keeper is a dataplane.Network over the kernel's addresses, routes and rules.
//
// For each destination the youngest wish that the box has a source address for
// is the route that stands. Peers that a destination contains are thrown out of
// the table, so that what goes to them, IKE first of all, never depends on a
// tunnel to them.
type Keeper struct {
	o       Options
	mu      sync.Mutex
	journal *journal
	wishes  map[uint64]dataplane.Wish
	addrs   map[netip.Addr]*address
	routes  map[netip.Prefix][]*want    // of one destination, the youngest last
	stands  map[netip.Prefix]host.Route // what we have in the table
	peers   map[netip.Addr]int          // how many wishes throw a peer
	rules   map[bool]bool               // by family: looked after
	spared  []netip.Prefix
	fits    map[netip.Prefix]int // MSS of TCP to a destination
}

var _ dataplane.Network = (*Keeper)(nil)

type address struct {
	refs int
	put  *host.Address // nil: not put there by us
}

// want is one wished route.
type want struct {
	owner       uint64
	route       dataplane.Route
	local, peer netip.Addr
}

// Open reads the journal and removes what a former run left.
func Open(o Options) (*Keeper, error) {
	if o.Box == nil {
		o.Box = Local{}
	}
	j, left, err := openJournal(o.JournalDir)
	if err != nil {
		return nil, err
	}
	k := &Keeper{o: o, journal: j, wishes: map[uint64]dataplane.Wish{}, addrs: map[netip.Addr]*address{}, routes: map[netip.Prefix][]*want{},
		stands: map[netip.Prefix]host.Route{}, peers: map[netip.Addr]int{}, rules: map[bool]bool{}, fits: map[netip.Prefix]int{}}
	for _, x := range left {
		if err := k.undo(x); err != nil {
			o.Log.Warn().Err(err).Msg("what a former run left could not be removed")
		}
	}
	if len(left) > 0 {
		o.Log.Info().Int("removed", len(left)).Msg("virtual addresses and routes of a former run removed")
	}
	return k, nil
}

// undo removes one object and forgets it.
func (k *Keeper) undo(x object) error {
	var err error
	switch {
	case x.Route != nil:
		err = k.o.Box.RemoveRoute(*x.Route)
	case x.Address != nil:
		err = k.o.Box.RemoveAddress(*x.Address)
	case x.Rule != nil:
		err = k.o.Box.RemoveRule(*x.Rule)
	}
	if err != nil {
		return err
	}
	return k.journal.remove(x)
}

// Want implements dataplane.Network. The same wish again puts back what the
// kernel has lost meanwhile, and finds the way to the peer anew.
func (k *Keeper) Want(owner uint64, w dataplane.Wish) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.wishes[owner]
	if w.Empty() {
		delete(k.wishes, owner)
	} else {
		k.wishes[owner] = w
	}
	var errs []error
	do := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	// What comes stands before what goes is gone.
	for _, a := range w.Addrs {
		do(k.hold(a, &w))
	}
	touched := map[netip.Prefix]bool{}
	for _, r := range w.Routes {
		k.add(owner, &w, r, touched)
	}
	for _, r := range old.Routes {
		k.drop(owner, &old, r, touched)
	}
	dsts := make([]netip.Prefix, 0, len(touched))
	for dst := range touched {
		dsts = append(dsts, dst)
	}
	slices.SortFunc(dsts, netip.Prefix.Compare)
	for _, dst := range dsts {
		do(k.settle(dst))
	}
	for _, a := range old.Addrs {
		do(k.letGo(a))
	}
	return errors.Join(errs...)
}

// Spare implements dataplane.Network.
func (k *Keeper) Spare(nets []netip.Prefix) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.spared
	k.spared = make([]netip.Prefix, 0, len(nets))
	for _, p := range nets {
		k.spared = append(k.spared, p.Masked())
	}
	var errs []error
	for _, dst := range k.spared {
		if !slices.Contains(old, dst) {
			errs = append(errs, k.settle(dst))
		}
	}
	for _, dst := range old {
		if !slices.Contains(k.spared, dst) {
			errs = append(errs, k.settle(dst))
		}
	}
	return errors.Join(errs...)
}

// Fit says how large a TCP segment to a destination may be, 0: as the kernel
// finds. A route that leads there has it from now on, with the MTU that goes with
// it: the box's own packets through a tunnel whose path lets less pass than the
// kernel knows. Errors: the kernel's.
func (k *Keeper) Fit(dst netip.Prefix, mss int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fits[dst] == mss {
		return nil
	}
	if mss == 0 {
		delete(k.fits, dst)
	} else {
		k.fits[dst] = mss
	}
	if _, stands := k.stands[dst]; !stands {
		return nil
	}
	return k.settle(dst)
}

// Headers that stand before a TCP segment without options, and the least MTU of
// IPv6 (RFC 8200 5), below which no route may ask for less.
const (
	headers4, headers6 = 20 + 20, 40 + 20
	minMTU6            = 1280
)

// fit gives the route the size of what it leads to.
func (k *Keeper) fit(r *host.Route) {
	mss := k.fits[r.Dst]
	if mss == 0 {
		return
	}
	r.MSS, r.MTU = mss, mss+headers4
	if r.Dst.Addr().Is6() {
		r.MTU = max(mss+headers6, minMTU6)
	}
}

// hold counts one more wish for an address and puts it on the box.
func (k *Keeper) hold(a netip.Addr, w *dataplane.Wish) error {
	x := k.addrs[a]
	if x == nil {
		x = &address{}
		k.addrs[a] = x
	}
	x.refs++
	if !k.o.VirtualIP {
		return nil
	}
	if there, err := k.o.Box.Addresses(); err != nil || slices.Contains(there, a) {
		return err // ours, or somebody else's, who takes it off, too
	}
	if x.put != nil { // its interface has gone, and it with that
		if err := k.journal.remove(object{Address: x.put}); err != nil {
			return err
		}
		x.put = nil
	}
	put := host.Address{Addr: a, Link: k.o.On}
	if put.Link == "" {
		way, err := k.o.Box.WayTo(w.Local, w.Peer)
		if err != nil {
			return fmt.Errorf("virtual address %s: %w", a, err)
		}
		put.Link = way.Link
	}
	if err := k.journal.add(object{Address: &put}); err != nil {
		return err
	}
	if err := k.o.Box.AddAddress(put); err != nil {
		return errors.Join(err, k.journal.remove(object{Address: &put}))
	}
	x.put = &put
	return nil
}

// letGo takes a wish for an address back.
func (k *Keeper) letGo(a netip.Addr) error {
	x := k.addrs[a]
	if x == nil {
		return nil
	}
	if x.refs--; x.refs > 0 {
		return nil
	}
	delete(k.addrs, a)
	if x.put == nil {
		return nil
	}
	return k.undo(object{Address: x.put})
}

// thrown reports whether a route's wish throws the peer out of the table.
func thrown(r dataplane.Route, peer netip.Addr) bool {
	return r.Dst.Contains(peer) && !r.Dst.IsSingleIP()
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (k *Keeper) add(owner uint64, w *dataplane.Wish, r dataplane.Route, touched map[netip.Prefix]bool) {
	k.routes[r.Dst] = append(k.routes[r.Dst], &want{owner, r, w.Local, w.Peer})
	touched[r.Dst] = true
	if thrown(r, w.Peer) {
		k.peers[w.Peer]++
		touched[single(w.Peer)] = true
	}
}

func (k *Keeper) drop(owner uint64, w *dataplane.Wish, r dataplane.Route, touched map[netip.Prefix]bool) {
	list := k.routes[r.Dst]
	if i := slices.IndexFunc(list, func(x *want) bool { return x.owner == owner && x.route == r }); i >= 0 {
		list = slices.Delete(list, i, i+1) // the older one of two
	}
	if k.routes[r.Dst] = list; len(list) == 0 {
		delete(k.routes, r.Dst)
	}
	touched[r.Dst] = true
	if thrown(r, w.Peer) {
		if k.peers[w.Peer]--; k.peers[w.Peer] == 0 {
			delete(k.peers, w.Peer)
		}
		touched[single(w.Peer)] = true
	}
}

// settle makes the route of one destination what the wishes say.
func (k *Keeper) settle(dst netip.Prefix) error {
	var errs []error
	next, found := host.Route{Table: k.o.Table, Dst: dst, Throw: true}, dst.IsSingleIP() && k.peers[dst.Addr()] > 0 || slices.Contains(k.spared, dst)
	list := k.routes[dst]
	for i := len(list) - 1; i >= 0 && !found; i-- {
		r, ok, err := k.route(list[i])
		if err != nil {
			errs = append(errs, err)
		}
		if ok {
			next, found = r, true
		}
	}
	was, stood := k.stands[dst]
	switch {
	case !found && !stood:
	case found && stood && was == next:
		// The kernel drops routes without a word when an interface goes down.
		errs = append(errs, k.o.Box.AddRoute(next))
	case !found:
		delete(k.stands, dst)
		errs = append(errs, k.undo(object{Route: &was}))
	default:
		errs = append(errs, k.put(dst, next))
	}
	return errors.Join(errs...)
}

func (k *Keeper) put(dst netip.Prefix, r host.Route) error {
	if err := k.rule(dst.Addr().Is6()); err != nil {
		return err
	}
	if err := k.journal.add(object{Route: &r}); err != nil {
		return err
	}
	if err := k.o.Box.AddRoute(r); err != nil {
		return errors.Join(err, k.journal.remove(object{Route: &r}))
	}
	if was, ok := k.stands[dst]; ok {
		// Replaced in the kernel.
		if err := k.journal.remove(object{Route: &was}); err != nil {
			return err
		}
	}
	k.stands[dst] = r
	return nil
}

// route is how a wished route would stand; false when the box has no source
// address for it.
func (k *Keeper) route(w *want) (host.Route, bool, error) {
	r := host.Route{Table: k.o.Table, Dst: w.route.Dst}
	if w.route.Dst == single(w.peer) {
		return r, false, nil // the tunnel's own packets go there
	}
	src, err := k.source(w)
	if err != nil || !src.IsValid() {
		return r, false, err
	}
	way, err := k.o.Box.WayTo(w.local, w.peer)
	if err != nil {
		return r, false, fmt.Errorf("route to %s: %w", r.Dst, err)
	}
	r.Link, r.Src = way.Link, src
	// A peer on the link is the next hop itself: nobody asks for the neighbour
	// Dst there, whether a packet is protected or not.
	next := way.Gateway
	if !next.IsValid() {
		next = w.peer
	}
	if next.Is4() == r.Dst.Addr().Is4() {
		r.Gateway = next
	}
	k.fit(&r)
	return r, true, nil
}

// source is an address of the box that the route's tunnel protects: a virtual
// one if there is one, then the tunnel's own, then the first.
func (k *Keeper) source(w *want) (netip.Addr, error) {
	if a := w.route.Within.Addr(); w.route.Within.IsSingleIP() && k.addrs[a] != nil && k.addrs[a].put != nil {
		return a, nil
	}
	there, err := k.o.Box.Addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	var best netip.Addr
	for _, a := range there {
		if w.route.Within.Contains(a) && (!best.IsValid() || a == w.local) {
			best = a
		}
	}
	return best, nil
}

// rule looks after the rule of a family, once.
func (k *Keeper) rule(v6 bool) error {
	if k.rules[v6] {
		return nil
	}
	r := host.Rule{Table: k.o.Table, Priority: k.o.Priority, V6: v6}
	there, err := k.o.Box.HasRule(r)
	if err != nil {
		return err
	}
	if !there {
		if err := k.journal.add(object{Rule: &r}); err != nil {
			return err
		}
		if err := k.o.Box.AddRule(r); err != nil {
			return errors.Join(err, k.journal.remove(object{Rule: &r}))
		}
	}
	k.rules[v6] = true
	return nil
}

// Addrs implements dataplane.Network.
func (k *Keeper) Addrs() []netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []netip.Addr
	for a, x := range k.addrs {
		if x.put != nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// Outside implements dataplane.Network: what the main table says.
func (k *Keeper) Outside(remote netip.Addr) (netip.Addr, error) { return k.o.Box.MainSource(remote) }

// Close removes everything that is still there.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, x := range k.journal.live() {
		errs = append(errs, k.undo(x))
	}
	return errors.Join(append(errs, k.journal.close())...)
}
