package engine

import (
	"slices"

	"espalier/ike/auth"
	"espalier/ike/sa"
)

// contacts are the sessions by the identities they connect, over all shards. It
// belongs to the registry, whose mutex guards it.
type contacts map[pairOfIDs][]contact

// pairOfIDs are our and the peer's identity.
type pairOfIDs struct{ local, remote auth.ID }

// contact is one session; its Since is zero until it is established.
type contact struct {
	sa.Contact
	shard *shard
}

func pairOf(c sa.Contact) pairOfIDs { return pairOfIDs{c.Local, c.Remote} }

// enter adds a session, or brings what is known of it up to date.
func (cs contacts) enter(c contact) {
	p := pairOf(c.Contact)
	for i := range cs[p] {
		if cs[p][i].ID == c.ID {
			cs[p][i] = c
			return
		}
	}
	cs[p] = append(cs[p], c)
}

func (cs contacts) leave(p pairOfIDs, id uint64) {
	list := slices.DeleteFunc(cs[p], func(c contact) bool { return c.ID == id })
	if len(list) == 0 {
		delete(cs, p)
		return
	}
	cs[p] = list
}

// firstContact enters a session that is going to be and reports whether there is
// another one with the peer.
func (r *registry) firstContact(c contact) (other bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.contacts.enter(c)
	return len(r.contacts[pairOf(c.Contact)]) > 1
}

// admitContact says whether there may be one more IKE SA with a peer.
func (r *registry) admitContact(c sa.Contact, policy sa.Uniqueness) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return policy != sa.UniquenessKeep || c.Replacement || !slices.ContainsFunc(r.contacts[pairOf(c)], func(o contact) bool {
		return o.ID != c.ID && !o.Since.IsZero() && !c.Crosses(o.Contact) // of those that cross one ends later
	})
}

// displaced enters an established session and lists the other established ones
// between the same identities.
func (r *registry) displaced(c contact) (others []contact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.contacts.enter(c)
	for _, o := range r.contacts[pairOf(c.Contact)] {
		if o.ID != c.ID && !o.Since.IsZero() {
			others = append(others, o)
		}
	}
	return others
}

func (r *registry) leaveContact(p pairOfIDs, id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.contacts.leave(p, id)
}

// enterContact is firstContact for a session of the shard, which leaves when it
// ends.
func (s *shard) enterContact(x *session, c sa.Contact) (other bool) {
	s.leaveContact(x)
	x.contact = pairOf(c)
	return s.e.reg.firstContact(contact{c, s})
}

func (s *shard) leaveContact(x *session) {
	if x.contact != (pairOfIDs{}) {
		s.e.reg.leaveContact(x.contact, x.m.ID())
		x.contact = pairOfIDs{}
	}
}

// displace decides what becomes of the other IKE SAs with the peer of one that
// is now established. Those of other shards are told through their inboxes.
func (s *shard) displace(x *session, d sa.Displace) {
	if p := pairOf(d.Contact); p != x.contact { // the peer is another than the configuration's
		s.leaveContact(x)
		x.contact = p
	}
	for _, o := range s.e.reg.displaced(contact{d.Contact, s}) {
		end := o
		var ev sa.Displaced
		switch d.Against(o.Contact) {
		case sa.BothStay:
			continue
		case sa.OtherDies:
			ev.Dead = true
		case sa.NewOneEnds:
			end = contact{d.Contact, s}
		}
		s.e.counters.displaced.Add(1)
		end.shard.inbox.call(func(s *shard) {
			if y := s.byID[end.ID]; y != nil {
				s.step(y, ev)
			}
		})
	}
}
