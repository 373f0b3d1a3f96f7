package engine

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"espalier/ike/sa"
)

// registry is what the shards share. Counters are atomic; the rest stands under
// a mutex that is held for a few map operations and never while anything else
// is done. Request ids are asked for by kernel queues, not by shards.
type registry struct {
	ikeIDs, childIDs atomic.Uint64
	halfOpen         atomic.Int64

	mu       sync.Mutex
	prefixes map[netip.Prefix]int // half-open sessions by the peer's prefix
	reqids   map[identity]*reqid
	byID     map[uint32]*reqid
	fixed    map[uint32]bool // request ids that the configuration claims
	last     uint32
	free     []uint32
	contacts contacts

	leases leases
}

// identity is what CHILD SAs with the same request id have in common: the
// policies are the same, so the kernel must take either's SAs.
type identity struct {
	conn, child     string
	remote          netip.Addr
	localTS, peerTS string
}

type reqid struct {
	key  identity // of the first that got it
	id   uint32
	refs int
	sas  int // of them CHILD SAs
}

// grant is the registry's answer to AskChild with what it takes to give the
// request id back.
type grant struct {
	ids  sa.ChildIDs
	held *reqid // nil for a fixed request id
	sa   bool   // a CHILD SA holds it
}

func newRegistry() *registry {
	return &registry{prefixes: map[netip.Prefix]int{}, reqids: map[identity]*reqid{}, byID: map[uint32]*reqid{}, contacts: contacts{peers: map[pairOfIDs]*peer{}}, fixed: map[uint32]bool{}}
}

// prefixOf is the unit in which half-open sessions are counted.
func (s *Settings) prefixOf(a netip.Addr) netip.Prefix {
	bits := s.HalfOpenPrefix4
	if a.Is6() {
		bits = s.HalfOpenPrefix6
	}
	p, _ := a.WithZone("").Prefix(min(max(bits, 0), a.BitLen())) // cannot fail: bits fit the family
	return p
}

// admit counts one more half-open session unless that passes a limit.
func (r *registry) admit(p netip.Prefix, total, perPrefix int) (drop Drop, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.halfOpen.Load() >= int64(total):
		return DropHalfOpenLimit, false
	case r.prefixes[p] >= perPrefix:
		return DropPrefixLimit, false
	}
	r.prefixes[p]++
	r.halfOpen.Add(1)
	return 0, true
}

// settle takes back what admit counted.
func (r *registry) settle(p netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.prefixes[p]--; r.prefixes[p] <= 0 {
		delete(r.prefixes, p)
	}
	r.halfOpen.Add(-1)
}

// claim sets the request ids that the configuration fixes: they are never
// given to another CHILD SA.
func (r *registry) claim(conns []*sa.Connection) {
	fixed := map[uint32]bool{}
	for _, c := range conns {
		for _, ch := range c.Children {
			if ch.ReqID != 0 {
				fixed[ch.ReqID] = true
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fixed = fixed
}

// child gives a CHILD SA its ids. Request ids count from 1 and return to use
// when the last CHILD SA of an identity, and the last that took the place of one,
// is gone.
func (r *registry) child(ask sa.AskChild) grant {
	g := grant{ids: sa.ChildIDs{UniqueID: r.childIDs.Add(1), ReqID: ask.ReqID}}
	if ask.ReqID != 0 {
		return g
	}
	key := identity{ask.Conn, ask.Child, ask.Remote, ask.LocalTS, ask.PeerTS}
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.byID[ask.Keep]
	if q == nil || q.key.conn != key.conn || q.key.child != key.child { // it may be another's by now
		q = r.reqids[key]
	}
	if q == nil {
		q = &reqid{key: key, id: r.nextReqID()}
		r.reqids[key], r.byID[q.id] = q, q
	}
	q.refs++
	g.held, g.ids.ReqID = q, q.id
	return g
}

func (r *registry) nextReqID() uint32 {
	for n := len(r.free); n > 0; n = len(r.free) {
		id := r.free[n-1]
		r.free = r.free[:n-1]
		if !r.fixed[id] {
			return id
		}
	}
	for r.last++; r.fixed[r.last]; r.last++ {
	}
	return r.last
}

// counted notes that a CHILD SA holds the grant, not a trap, and whether it is not
// the only one.
func (r *registry) counted(g grant) grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q := g.held; q != nil {
		q.sas++
		g.sa, g.ids.Shared = true, q.sas > 1
	}
	return g
}

// release gives back a CHILD SA's request id, and reports whether another CHILD SA
// has the same identity.
func (r *registry) release(g grant) (others bool) {
	q := g.held
	if q == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[q.id] != q {
		return false
	}
	if g.sa {
		q.sas--
	}
	if q.refs--; q.refs == 0 {
		delete(r.reqids, q.key)
		delete(r.byID, q.id)
		r.free = append(r.free, q.id)
	}
	return q.sas > 0
}

// held is the number of request ids in use.
func (r *registry) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.reqids)
}
