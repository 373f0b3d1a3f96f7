package simulator

import (
	"slices"

	"espalier/ike/sa"
)

// contact is a session in the registry, by the identities it connects.
type contact struct {
	sa.Contact
	x *session
}

// enter adds a session, or brings what is known of it up to date.
func (g *gateway) enter(c contact) {
	g.leave(c.x)
	g.contacts = append(g.contacts, c)
}

func (g *gateway) leave(x *session) {
	g.contacts = slices.DeleteFunc(g.contacts, func(o contact) bool { return o.x == x })
}

// others are the sessions between the same identities.
func (g *gateway) others(c sa.Contact) (out []contact) {
	for _, o := range g.contacts {
		if o.ID != c.ID && o.Local == c.Local && o.Remote == c.Remote {
			out = append(out, o)
		}
	}
	return out
}

// firstContact enters a session that is going to be and reports whether there
// is another one with the peer.
func (x *session) firstContact(c sa.Contact) bool {
	x.g.enter(contact{c, x})
	return len(x.g.others(c)) > 0
}

// admitContact says whether there may be one more IKE SA with a peer.
func (g *gateway) admitContact(c sa.Contact, policy sa.Uniqueness) bool {
	return policy != sa.UniquenessKeep || !slices.ContainsFunc(g.others(c), func(o contact) bool {
		o.Peer = o.x.m.Remote() // it may have moved
		return !o.Since.IsZero() && o.Refuses(c)
	})
}

// displace decides what becomes of the other IKE SAs with the peer of one that
// is now established.
func (x *session) displace(d sa.Displace) {
	g := x.g
	g.enter(contact{d.Contact, x})
	for _, o := range g.others(d.Contact) {
		if o.Since.IsZero() {
			continue
		}
		end, ev := o.x, sa.Displaced{}
		switch d.Against(o.Contact) {
		case sa.BothStay:
			continue
		case sa.OtherDies:
			ev.Dead = true
		case sa.NewOneEnds:
			end = x
		}
		g.s.res.Features["displaced"]++
		g.soon(end, ev)
	}
}

// recall makes the contact of a session that was read back.
func (x *session) recall() {
	st := x.m.State()
	if st.IKE.RemoteID.IsAny() || st.Phase > sa.Established {
		return
	}
	x.g.enter(contact{sa.Contact{ID: st.ID, Local: st.IKE.LocalID, Remote: st.IKE.RemoteID, Initiator: st.Began,
		SPIi: st.IKE.SPIi, Created: st.Created, Since: st.Since}, x})
}

// soon hands a session an event after the step under way.
func (g *gateway) soon(x *session, ev sa.Event) {
	g.s.after(0, func() { x.step(ev) })
}

// reauthenticate sets up a session in x's place, unless one is under way.
func (x *session) reauthenticate() {
	g := x.g
	g.s.after(0, func() {
		if x.gone || !g.up || x.life != g.life || !x.m.IsEstablished() {
			return
		}
		for _, y := range g.sessions {
			if y.m.Replaces() == x.m.ID() && y.m.Phase() <= sa.Established {
				return
			}
		}
		g.s.strict = g.s.probing
		g.s.res.Features["reauthentication"]++
		g.lastID++
		n := g.adopt(sa.NewReplacement(g.lastID, g.newSPI(), g.env.Conns.ByName(g.conn), x.m))
		n.step(sa.Start{})
	})
}

// supersede ends the session that x replaces, when x has all its children; or x
// ends, when the peer has done the same.
func (x *session) supersede(id uint32, spec sa.Supersede) {
	g := x.g
	g.s.after(0, func() {
		if x.gone || !g.up || x.life != g.life {
			return
		}
		twin := false
		var old *session
		for _, y := range g.sessions {
			twin = twin || spec.Twin.Is(y.m)
			if y.m.ID() == spec.Session {
				old = y
			}
		}
		var missing []string
		if !twin && old != nil {
			if missing = x.m.Missing(old.m); len(missing) == 0 {
				old.step(sa.Superseded{})
			}
		}
		x.step(sa.JobDone{ID: id, Result: missing})
		if twin {
			x.step(sa.Terminate{})
		}
	})
}
