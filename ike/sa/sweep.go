package sa

import (
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/wire"
)

// What is to leave the kernel while the session lives (children with the status
// ChildRemoving, orphaned SPIs) and the outbound SAs that take over from it go by
// one jobRemove at a time. The job covers what bears its mark, and its answer
// settles that and nothing else: what comes due meanwhile goes with the next, so
// nothing is done twice and nothing counts as done that was not. The outbound SA of
// a child goes the same way where it has to be gone before the delete is sent, or
// outlasts the child for a moment (Stop).

// sweep begins to take out what is due, unless that is under way already or a
// child is being moved, whose SAs have other keys in a moment.
func (m *Machine) sweep() {
	if m.s.Phase < Cleaning && !m.hasJob(jobRemove) && !m.hasJob(jobMove) && m.markDue() {
		m.job(jobRemove)
	}
}

// markDue marks what the next jobRemove covers, and reports whether there is
// anything.
func (m *Machine) markDue() (some bool) {
	for i := range m.s.Children {
		c := &m.s.Children[i]
		c.OutboundGoes, c.Goes = c.OutboundDue, c.Status == ChildRemoving
		if c.Stop == StopDue {
			c.Stop = StopGoes
		}
		some = some || c.OutboundGoes || c.Goes || c.Stop == StopGoes
	}
	for i := range m.s.Orphans {
		m.s.Orphans[i].Goes, some = true, true
	}
	return some
}

// sweepOps are what jobRemove does: first what takes over, then what goes.
func (m *Machine) sweepOps() []dataplane.Op {
	var ops []dataplane.Op
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.OutboundGoes {
			if cfg := m.conn.Child(c.Name); cfg != nil {
				_, out := m.pairOf(c, cfg)
				ops = c.appendInstall(ops, out)
			}
		}
	}
	for i := range m.s.Children {
		switch c := &m.s.Children[i]; {
		case c.Goes && c.Fade && m.outlasts(c):
			ops = appendPolicies(ops, c, nil, false) // its outbound SA goes a moment later
		case c.Goes:
			ops = c.appendRemove(ops)
		case c.Stop == StopGoes:
			ops = c.appendDeleteOut(ops)
		}
	}
	for _, o := range m.s.Orphans {
		if o.Goes {
			ops = append(ops, dataplane.DeleteSA{Key: o.key()})
		}
	}
	return ops
}

// removed follows when the kernel has done a jobRemove.
func (m *Machine) removed() {
	m.s.Orphans = slices.DeleteFunc(m.s.Orphans, func(o Orphan) bool { return o.Goes })
	var look []uint64 // children that may be duplicates now
	var gone []Child
	kept := m.s.Children[:0]
	for i := range m.s.Children {
		c := m.s.Children[i]
		if c.OutboundGoes {
			if !c.TakeOverAt.IsZero() {
				look = append(look, c.UniqueID) // for another session's, or for one that we asked for at the same time
			}
			c.OutboundGoes, c.OutboundDue, c.TakeOverAt, c.MovedAt = false, false, time.Time{}, m.env.Now
			c.Keys.Wipe()
		}
		if c.Stop == StopGoes {
			c.Stop = StopDone
			if c.Status == ChildDeleting {
				m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteChild, Child: c.UniqueID})
			}
		}
		if c.Goes {
			c.Goes = false
			if !c.Fade {
				c.Keys.Wipe()
				m.childDown(&c, c.EndReason)
				gone = append(gone, c)
				look = append(look, c.OwnNew, c.PeerNew)
				continue
			}
			if c.RekeyAt = noTime; m.outlasts(&c) {
				c.Stop, c.RekeyAt = StopWait, m.env.Now.Add(stopPause)
			}
			c.Status, c.Fade, c.FadeAt = ChildFading, false, m.env.Now.Add(fadeTime)
		}
		kept = append(kept, c)
	}
	clear(m.s.Children[len(kept):])
	m.s.Children = kept
	m.persist = true
	for i := range gone {
		m.ungroup(&gone[i])
	}
	for _, id := range look {
		if c := m.child(id); c != nil {
			m.dropTwin(c)
		}
	}
	m.sweep()
	if !m.hasJob(jobRemove) {
		m.moveChildren() // those that waited
		m.network()
		m.answerPending()
	}
	m.nextTask()
}

// answerPending answers the peer's deletes: all that they name is gone.
func (m *Machine) answerPending() {
	p := m.s.Pending
	if p == nil || p.IKE {
		return
	}
	m.s.Pending = nil
	var ps []wire.Payload
	if len(p.SPIs) > 0 {
		ps = append(ps, wire.NewDelete(wire.ProtoESP, p.SPIs...))
	}
	if k := m.ikeBySPI(p.On); k != nil {
		m.respond(k, wire.ExchangeInformational, p.MessageID, ps...)
	}
}
