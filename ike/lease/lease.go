package lease

import (
	"container/list"
	"net/netip"
	"slices"
)

// maxOffline bounds the leases of identities that are gone which a pool
// remembers. Beyond it the oldest one's address is given away before an unused
// one is.
const maxOffline = 1 << 16

// Ask is what a session wants.
type Ask struct {
	Pools []string // where from, in order of preference
	// Key is who asks: the same key gets its address back. Identity is the same
	// for people.
	Key, Identity string
	V4, V6        bool         // which families
	Wished        []netip.Addr // preferred addresses
	// Takeover: the identity's other sessions are gone or going (INITIAL_CONTACT,
	// unique = replace), so an address that one of them holds is its own to have.
	Takeover bool
}

// Grant is the answer: at most one address a family. The same address is held
// as often as it was granted.
type Grant struct {
	Addrs []netip.Addr
	held  []*entry
}

// entry is one address that is, or was, leased.
type entry struct {
	pool          *pool
	addr          netip.Addr
	key, identity string
	refs          int           // sessions that hold it; 0: offline
	place         *list.Element // in pool.offline, while offline
}

// pool is a Pool with its leases. It holds memory for each lease, not for each
// address.
type pool struct {
	cfg     *Pool
	unused  uint64 // offset from which on addresses may never have been leased
	entries map[netip.Addr]*entry
	byKey   map[string][]*entry
	offline *list.List // of *entry, the longest gone first
}

// Pools are the pools in use. The zero value has none.
type Pools struct {
	order  []string
	byName map[string]*pool
}

// Set makes the pools those of the configuration. Leases survive as long as the
// pool of that name still has the address; one that it has no more but a
// session holds is only kept from being leased again, should it come back.
func (p *Pools) Set(cfg []*Pool) {
	old := p.byName
	p.order, p.byName = nil, make(map[string]*pool, len(cfg))
	for _, c := range cfg {
		n := &pool{cfg: c, entries: map[netip.Addr]*entry{}, byKey: map[string][]*entry{}, offline: list.New()}
		p.order = append(p.order, c.Name)
		p.byName[c.Name] = n
		if was := old[c.Name]; was != nil {
			n.inherit(was)
		}
	}
}

// inherit takes over the leases of the pool as it was, in a stable order.
func (n *pool) inherit(was *pool) {
	for el := was.offline.Front(); el != nil; el = el.Next() {
		n.adopt(el.Value.(*entry))
	}
	for _, e := range was.entries {
		if e.refs > 0 {
			n.adopt(e)
		}
	}
	for _, list := range n.byKey {
		slices.SortFunc(list, func(a, b *entry) int { return a.addr.Compare(b.addr) })
	}
}

func (n *pool) adopt(e *entry) {
	if e.refs == 0 && !n.cfg.Contains(e.addr) {
		return
	}
	e.pool = n
	n.add(e)
	if e.refs == 0 {
		e.place = n.offline.PushBack(e)
	}
}

func (n *pool) add(e *entry) {
	n.entries[e.addr] = e
	n.byKey[e.key] = append(n.byKey[e.key], e)
}

// Take leases what is asked for, as far as there is any. What is granted has to
// be given back with Release.
func (p *Pools) Take(a Ask) Grant {
	var g Grant
	for _, family := range []struct {
		wanted, v4 bool
	}{{a.V4, true}, {a.V6, false}} {
		if !family.wanted {
			continue
		}
		if e := p.take(&a, family.v4); e != nil {
			e.hold()
			g.held, g.Addrs = append(g.held, e), append(g.Addrs, e.addr)
		}
	}
	return g
}

// take finds an address: the identity's own, the wished one, one that was never
// leased, one that another identity had and left. Each is looked for in all
// pools before the next.
func (p *Pools) take(a *Ask, v4 bool) *entry {
	var wish netip.Addr
	for _, w := range a.Wished {
		if w.Is4() == v4 && !w.IsUnspecified() {
			wish = w
			break
		}
	}
	for _, way := range []func(*pool, *Ask, netip.Addr) *entry{(*pool).own, (*pool).wished, (*pool).fresh, (*pool).left} {
		for _, name := range a.Pools {
			n := p.byName[name]
			if n == nil || n.cfg.Start.Is4() != v4 {
				continue
			}
			if e := way(n, a, wish); e != nil {
				return e
			}
		}
	}
	return nil
}

// own is an address of the identity: one that it holds when it asks for that
// one, or has forgotten that it holds it; else one that it left.
func (n *pool) own(a *Ask, wish netip.Addr) *entry {
	var found *entry
	for _, e := range n.byKey[a.Key] {
		switch {
		case !n.cfg.Contains(e.addr):
		case e.addr == wish:
			return e
		case e.refs > 0 && !a.Takeover:
		case found == nil || found.refs == 0 && e.refs > 0:
			found = e
		}
	}
	return found
}

func (n *pool) wished(a *Ask, wish netip.Addr) *entry {
	if !n.cfg.Contains(wish) || n.entries[wish] != nil {
		return nil
	}
	return n.lease(a, wish)
}

func (n *pool) fresh(a *Ask, _ netip.Addr) *entry {
	if n.offline.Len() >= maxOffline {
		return nil
	}
	for size := n.cfg.Size(); n.unused < size; {
		addr := n.cfg.at(n.unused)
		n.unused++
		if n.entries[addr] == nil {
			return n.lease(a, addr)
		}
	}
	return nil
}

// left takes the address of the identity that is gone for the longest time.
func (n *pool) left(a *Ask, _ netip.Addr) *entry {
	el := n.offline.Front()
	if el == nil {
		return nil
	}
	e := el.Value.(*entry)
	n.offline.Remove(el)
	n.forget(e)
	return n.lease(a, e.addr)
}

func (n *pool) lease(a *Ask, addr netip.Addr) *entry {
	e := &entry{pool: n, addr: addr, key: a.Key, identity: a.Identity}
	n.add(e)
	return e
}

func (n *pool) forget(e *entry) {
	delete(n.entries, e.addr)
	rest := slices.DeleteFunc(n.byKey[e.key], func(x *entry) bool { return x == e })
	if len(rest) == 0 {
		delete(n.byKey, e.key)
		return
	}
	n.byKey[e.key] = rest
}

func (e *entry) hold() {
	if e.place != nil {
		e.pool.offline.Remove(e.place)
		e.place = nil
	}
	e.refs++
}

// Release gives a grant back. The addresses stay their identity's until another
// one needs them.
func (p *Pools) Release(g Grant) {
	for _, e := range g.held {
		if e.refs--; e.refs > 0 {
			continue
		}
		if e.pool.cfg.Contains(e.addr) {
			e.place = e.pool.offline.PushBack(e)
		} else {
			e.pool.forget(e) // a reload has taken the address out of the pool
		}
	}
}

// Status is what people may know of a pool.
type Status struct {
	Name            string
	Base            netip.Addr // the first address
	Size            uint64     // addresses, at most 2^62
	Online, Offline uint64
	Leases          []Lease // in the order of the addresses
}

// Lease is one address that somebody has, or had.
type Lease struct {
	Addr     netip.Addr
	Identity string
	Online   bool
}

// List describes the pools in the order of the configuration.
func (p *Pools) List() []Status {
	out := make([]Status, 0, len(p.order))
	for _, name := range p.order {
		n := p.byName[name]
		s := Status{Name: name, Base: n.cfg.Start, Size: n.cfg.Size(), Offline: uint64(n.offline.Len())}
		for _, e := range n.entries {
			if n.cfg.Contains(e.addr) {
				s.Leases = append(s.Leases, Lease{e.addr, e.identity, e.refs > 0})
			}
		}
		s.Online = uint64(len(s.Leases)) - s.Offline
		slices.SortFunc(s.Leases, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
		out = append(out, s)
	}
	return out
}
