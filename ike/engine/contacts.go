package engine

import (
	"net/netip"

	"espalier/ike/auth"
	"espalier/ike/sa"
)

// contacts are the sessions by the identities they connect, over all shards. It
// belongs to the registry, whose mutex guards it. Two identities may have many
// thousands of sessions: what a new one costs does not grow with them, unless it
// ends them all.
type contacts struct {
	peers map[pairOfIDs]*peer
	looks int // contacts that were looked at, for tests
}

// pairOfIDs are our and the peer's identity.
type pairOfIDs struct{ local, remote auth.ID }

// peer is what there is between two identities.
type peer struct {
	sessions int // those that are being set up, too
	// up are the established ones, the youngest first: those that we began and
	// those that the peer did.
	up [2]*contact
	// at is where the peer was with the first of them, elsewhere how many it has
	// from another address or port.
	at        netip.AddrPort
	elsewhere int
}

// contact is one session; its Since is zero until it is established.
type contact struct {
	sa.Contact
	shard      *shard
	peer       *peer    // nil: not entered
	prev, next *contact // in peer.up
}

func pairOf(c *sa.Contact) pairOfIDs { return pairOfIDs{c.Local, c.Remote} }

// side is the list of peer.up for sessions that we began, or did not.
func side(began bool) int {
	if began {
		return 0
	}
	return 1
}

// notAt is what an established session counts for p.elsewhere.
func notAt(c *contact, p *peer) int {
	if c.Peer == p.at {
		return 0
	}
	return 1
}

// enter adds a session, or brings what is known of it up to date.
func (cs *contacts) enter(c *contact, now sa.Contact) *peer {
	cs.leave(c)
	c.Contact = now
	p := cs.peers[pairOf(&now)]
	if p == nil {
		p = new(peer)
		cs.peers[pairOf(&now)] = p
	}
	c.peer = p
	p.sessions++
	if now.Since.IsZero() {
		return p
	}
	if p.up == [2]*contact{} {
		p.at, p.elsewhere = now.Peer, 0
	}
	p.elsewhere += notAt(c, p)
	// Another shard may have been faster by a step: then a few are younger.
	head := &p.up[side(now.Initiator)]
	for c.next = *head; c.next != nil && c.next.Since.After(now.Since); c.next = c.next.next {
		cs.looks++
		c.prev = c.next
	}
	if c.prev == nil {
		*head = c
	} else {
		c.prev.next = c
	}
	if c.next != nil {
		c.next.prev = c
	}
	return p
}

// leave takes a session out, if it is in.
func (cs *contacts) leave(c *contact) {
	p := c.peer
	if p == nil {
		return
	}
	if !c.Since.IsZero() {
		p.elsewhere -= notAt(c, p)
	}
	head := &p.up[side(c.Initiator)]
	switch {
	case c.prev != nil:
		c.prev.next = c.next
	case *head == c:
		*head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.peer, c.prev, c.next = nil, nil, nil
	if p.sessions--; p.sessions == 0 {
		delete(cs.peers, pairOf(&c.Contact))
	}
}

// firstContact enters a session that is going to be and reports whether there is
// another one with the peer.
func (r *registry) firstContact(c *contact, now sa.Contact) (other bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.contacts.enter(c, now).sessions > 1
}

// admitContact says whether there may be one more IKE SA with a peer. It looks
// no further than to the first that refuses the new one.
func (r *registry) admitContact(c sa.Contact, policy sa.Uniqueness) bool {
	if policy != sa.UniquenessKeep {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.contacts.peers[pairOf(&c)]
	if p == nil || p.elsewhere == 0 && p.at == c.Peer && c.Again() {
		return true // all of them may be reauthenticated
	}
	for _, o := range p.up {
		for ; o != nil; o = o.next {
			r.contacts.looks++
			if o.Refuses(c) {
				return false
			}
		}
	}
	return true
}

// fate is what becomes of a session for the sake of another one.
type fate struct {
	sa.Fate
	id    uint64
	shard *shard
}

// displaced enters an established session and says what it means for the other
// established ones between the same identities. All of them count only when
// they are to end; else it looks for those that cross the new one, which the
// other side began since the new one's set-up did.
func (r *registry) displaced(c *contact, d sa.Displace) (ends []fate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.contacts.enter(c, d.Contact)
	if !d.MayEnd() {
		return nil
	}
	all := d.EndsAll()
	for began, o := range p.up {
		if !all && began == side(d.Initiator) {
			continue
		}
		for ; o != nil && (all || !d.Created.After(o.Since)); o = o.next {
			r.contacts.looks++
			switch f := d.Against(o.Contact); f {
			case sa.BothStay:
			case sa.NewOneEnds:
				ends = append(ends, fate{f, c.ID, c.shard})
			default:
				ends = append(ends, fate{f, o.ID, o.shard})
			}
		}
	}
	return ends
}

// moveContact notes where the peer of a session is now.
func (r *registry) moveContact(c *contact, peer netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	listed := c.peer != nil && !c.Since.IsZero()
	if listed {
		c.peer.elsewhere -= notAt(c, c.peer)
	}
	c.Peer = peer
	if listed {
		c.peer.elsewhere += notAt(c, c.peer)
	}
}

// begunByPeer are the unique ids above after of a shard's established sessions
// between two identities, of those that the peer began.
func (r *registry) begunByPeer(p pairOfIDs, after uint64, s *shard) (ids []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := r.contacts.peers[p]
	if there == nil {
		return nil
	}
	for o := there.up[side(false)]; o != nil; o = o.next {
		r.contacts.looks++
		if o.ID > after && o.shard == s {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

func (r *registry) leaveContact(c *contact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.contacts.leave(c)
}

// contactOf is the session's contact, for the registry.
func (s *shard) contactOf(x *session) *contact {
	if x.contact == nil {
		x.contact = &contact{shard: s}
	}
	return x.contact
}

func (s *shard) leaveContact(x *session) {
	if x.contact != nil {
		s.e.reg.leaveContact(x.contact)
		x.contact = nil
	}
}

// displace decides what becomes of the other IKE SAs with the peer of one that
// is now established. Those of other shards are told through their inboxes.
func (s *shard) displace(x *session, d sa.Displace) {
	for _, f := range s.e.reg.displaced(s.contactOf(x), d) {
		s.e.counters.displaced.Add(1)
		f.shard.inbox.call(func(s *shard) {
			if y := s.byID[f.id]; y != nil {
				s.step(y, sa.Displaced{Dead: f.Fate == sa.OtherDies})
			}
		})
	}
}
