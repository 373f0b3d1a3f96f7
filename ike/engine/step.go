package engine

import (
	"slices"

	"espalier/ike/sa"
	"espalier/internal/event"
)

// step gives the machine an event and performs its actions, and so on with the
// results of jobs that ran at once.
func (s *shard) step(x *session, ev sa.Event) {
	if x.gone {
		return
	}
	s.handle(x, ev)
	for i := 0; i < len(s.inline); i++ {
		r := s.inline[i]
		s.inline[i] = result{}
		s.arrived(&r)
		if !r.sess.gone {
			s.handle(r.sess, sa.JobDone{ID: r.id, Result: r.value, Err: r.err})
		}
	}
	s.inline = s.inline[:0]
	s.after(x)
}

// deliver is step for a result that comes from outside.
func (s *shard) deliver(r result) {
	s.arrived(&r)
	s.step(r.sess, sa.JobDone{ID: r.id, Result: r.value, Err: r.err})
	if r.count {
		s.e.settled()
	}
}

func (s *shard) handle(x *session, ev sa.Event) {
	c := s.e.config.Load()
	s.env.Now, s.env.Conns, s.env.Creds, s.env.Settings = s.e.now(), c.set, c.creds, &c.settings.Settings
	s.env.Lacks = s.e.lacks
	if addrs := s.e.addrs.Load(); addrs != nil {
		s.env.Addrs = *addrs
	}
	acts := x.m.Handle(&s.env, ev)
	if s.env.Traffic != (sa.Traffic{}) {
		s.e.tallies.add(x.m.ConnName(), &s.env.Traffic)
		s.env.Traffic = sa.Traffic{}
	}
	for _, a := range acts {
		s.perform(x, a)
	}
	clear(acts)
	s.env.Room = acts
}

// perform executes one action.
func (s *shard) perform(x *session, a sa.Action) {
	switch a := a.(type) {
	case sa.Persist:
		if st := s.e.opts.Store; st != nil {
			s.encoded = x.m.Encode(s.encoded[:0])
			st.Save(x.m.ID(), s.encoded)
		}
	case sa.Send:
		if a.DF {
			s.e.sent(a.Local, a.Remote, s.e.transport.SendWhole(a.Local, a.Remote, a.Data, x.m.DSCP()))
			return
		}
		s.e.sendDSCP(a.Local, a.Remote, a.Data, x.m.DSCP())
	case sa.Job:
		s.job(x, a)
	case sa.Publish:
		s.observe(x, a.Event)
		s.e.bus.Publish(s.env.Now, a.Event)
		s.sighted(x, a)
		s.updown(x, a.Event)
	case sa.Authenticated:
		s.e.counters.established.Add(1)
		s.settle(x)
		if s.halfOpen[x.key] == x {
			delete(s.halfOpen, x.key)
		}
	case sa.Own:
		s.own(a.SPI, x)
	case sa.Disown:
		s.disown(a.SPI)
	case sa.Keepalive:
		s.e.keepalive(a)
	case sa.Displace:
		s.displace(x, a)
	case sa.PutTrap:
		s.e.trap(ChildName{a.Conn, a.Child})
	case sa.Restart:
		s.e.start(ChildName{a.Conn, a.Child}, true)
	case sa.Redirected:
		s.follow(x, a)
	case sa.Reauthenticate:
		s.reauthenticate(x)
	case sa.Gone:
		s.forget(x)
	}
}

// sighted publishes what happened to an SA together with its session, to those who
// want that.
func (s *shard) sighted(x *session, p sa.Publish) {
	bus := s.e.opts.Sightings
	if bus == nil || !bus.Watched() {
		return
	}
	switch p.Event.(type) {
	case event.ChildUp:
		if p.Child != nil {
			s.e.childUsage(p.Child) // it is in the kernel still
		}
	case event.ChildDown:
		p.Child.In, p.Child.Out = s.e.lastUse.take(p.Child)
	case event.IKEUp, event.IKEDown, event.IKERekeyed, event.IKEMoved, event.Failed:
	default:
		return
	}
	bus.Publish(s.env.Now, sa.Sighting{Event: p.Event, Info: x.m.Info(), Child: p.Child})
}

// updown tells who runs scripts what happened.
func (s *shard) updown(x *session, ev event.Event) {
	u := s.e.opts.Updown
	if u == nil {
		return
	}
	switch ev := ev.(type) {
	case event.ChildUp:
		conn := s.env.Conns.ByName(ev.Conn)
		if conn == nil {
			return
		}
		if cfg := conn.Child(ev.Child.Name); cfg != nil && u.Wants(cfg) {
			info := x.m.Info()
			u.ChildUp(cfg, ev.Child, &info)
		}
	case event.ChildDown:
		u.ChildDown(ev.Child.UniqueID)
	case event.VirtualAddresses:
		if !ev.Given {
			u.NameServers(ev.UniqueID, ev.DNS)
		}
	case event.IKEDown:
		u.IKEDown(ev.UniqueID)
	}
}

// observe takes from a machine's event what the shell has to know.
func (s *shard) observe(x *session, ev event.Event) {
	switch ev := ev.(type) {
	case event.ChildUp:
		p := spiPair{ev.Child.SPIIn, ev.Child.SPIOut}
		s.children[p.in] = childRef{x, ev.Child.UniqueID}
		s.outbound.add(p)
		x.spis = append(x.spis, p)
		s.e.perCPU.up(x, &ev.Child)
	case event.ChildDown:
		p := spiPair{ev.Child.SPIIn, ev.Child.SPIOut}
		s.dropChild(x, p)
		x.spis = slices.DeleteFunc(x.spis, func(o spiPair) bool { return o == p })
		x.downSeen = true
		s.e.perCPU.down(&ev.Child)
	case event.Discarded:
		s.e.counters.discarded.Add(1)
		if ev.Reason == sa.WrongToken {
			s.e.counters.wrongTokens.Add(1)
		}
	case event.Failed:
		x.failure, x.failedChild = explain(ev), ev.ChildName
		x.failures++
		if ev.Cause == event.PeerLostIKE {
			s.e.counters.crashes.Add(1)
		}
		x.downSeen = true
	}
}

// after brings the shell's view up to date with the machine's new state.
func (s *shard) after(x *session) {
	if !x.gone {
		s.timers.set(x, x.m.Deadline())
		s.byConn.list(x, x.m.ConnName()) // a responder's is chosen late
		s.replaces(x, x.m.Replaces())
		switch {
		case x.m.Phase() > sa.Established:
			s.leaveContact(x)
		case x.contact != nil && x.contact.Peer != x.m.Remote(): // nobody else writes it
			s.e.reg.moveContact(x.contact, x.m.Remote())
		}
		if x.m.Phase() >= sa.Lingering {
			s.calm(x)
			s.releaseLease(x)
		}
	}
	if x.downSeen && len(x.grants) > 0 {
		s.releaseGrants(x)
	}
	x.downSeen = false
	if len(x.waits) > 0 {
		s.answerWaits(x)
	}
	holds := !x.gone && x.m.Holds()
	if holds {
		s.holding[x] = true
	} else if s.holding[x] {
		delete(s.holding, x)
	}
	if len(x.heirs) > 0 && !holds {
		done := x.heirs
		x.heirs = nil
		for _, f := range done {
			f()
		}
	}
}

// releaseGrants gives back the request ids of CHILD SAs that the machine no
// longer has, whether they were ever installed or not.
func (s *shard) releaseGrants(x *session) {
	var live []uint64
	if !x.gone {
		live = x.m.ChildIDs() // those that are being made, too
	}
	kept, others := x.grants[:0], false
	for _, g := range x.grants {
		if slices.Contains(live, g.ids.UniqueID) {
			kept = append(kept, g)
		} else {
			others = s.e.reg.release(g) || others
		}
	}
	clear(x.grants[len(kept):])
	x.grants = kept
	if others && x.m.Phase() > sa.Established {
		s.handOver(x.m.Heir(), func() {})
	}
}
