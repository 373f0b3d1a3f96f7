package sa

import (
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/internal/event"
)

// Lifetimes: the machine watches time, the kernel bytes and packets, and the
// hard limit of all three, after which an SA carries nothing more.

const (
	notRekeyed = "not rekeyed in time"
	inactive   = "no traffic"
)

// limits are what ends the kernel's SAs of a child. The two sides, and many
// tunnels, should not rekey at once: each takes a part of the margin off, which
// hangs on the child's own SPI, so that the same child always has the same.
func (c *Child) limits(cfg *ChildConfig) dataplane.Limits {
	part := float64(c.SPIIn*2654435761) / (1 << 32) // Knuth's multiplicative hash: from 0 to below 1
	soft := func(at, margin uint64) uint64 {
		if at == 0 {
			return 0
		}
		return max(at-uint64(part*float64(min(margin, at))), 1)
	}
	return dataplane.Limits{
		SoftBytes: soft(cfg.RekeyBytes, cfg.RandBytes), HardBytes: cfg.LifeBytes,
		SoftPackets: soft(cfg.RekeyPackets, cfg.RandPackets), HardPackets: cfg.LifePackets,
		HardTime: cfg.LifeTime,
	}
}

// expired handles a limit of one of a child's SAs. After the hard one the kernel
// has that SA no more: the child goes, the peer is told, and close_action
// follows.
func (m *Machine) expired(e Expired) {
	c := m.child(e.ChildID)
	if c == nil || m.s.Phase != Established {
		return
	}
	if !e.Hard {
		if c.Status == ChildInstalled && c.PeerNew == 0 && c.OwnNew == 0 {
			c.RekeyAt = m.env.Now // or, as long as it can't be, soon
			m.rekeyDue(m.env.Now)
			m.nextTask()
		}
		return
	}
	if c.Status != ChildInstalled {
		return
	}
	m.followChild(c, func(cfg *ChildConfig) FollowUp { return cfg.CloseAction })
	c.Status, c.EndReason = ChildDeleting, "its hard limit was reached"
	m.queue(Task{Kind: taskDeleteChild, Child: c.UniqueID})
}

// scheduleIKE sets when the current IKE SA is rekeyed, and when it ends unless
// that has succeeded.
func (m *Machine) scheduleIKE() {
	k := &m.s.IKE
	k.RekeyAt, k.EndsAt = m.schedule(m.conn.RekeyTime, m.conn.RandTime), time.Time{}
	if m.conn.RekeyTime > 0 && m.conn.OverTime > 0 {
		k.EndsAt = m.env.Now.Add(m.conn.RekeyTime + m.conn.OverTime)
	}
}

// overdue deletes an IKE SA that could not be rekeyed in time.
func (m *Machine) overdue(now time.Time) {
	k := &m.s.IKE
	if m.s.Phase != Established || k.EndsAt.IsZero() || now.Before(k.EndsAt) {
		return
	}
	k.EndsAt = time.Time{}
	if slices.Contains(m.s.Tasks, Task{Kind: taskDeleteIKE}) {
		return
	}
	m.failed(event.Overdue, false, "", "see why the rekeyings before have failed", event.Fact{Name: "limit", Value: (m.conn.RekeyTime + m.conn.OverTime).String()})
	m.followClosed()
	m.s.EndReason = notRekeyed
	m.s.Tasks = append([]Task{{Kind: taskDeleteIKE}}, m.s.Tasks...)
	m.persist = true
}

// scheduleIdle sets when it is looked whether a child has had traffic.
func (m *Machine) scheduleIdle(c *Child, cfg *ChildConfig) {
	if d := m.inactivity(c, cfg); d > 0 {
		c.IdleAt = m.env.Now.Add(d)
	}
}

// idleDue asks for the use of the children that may have been idle for too long.
func (m *Machine) idleDue(now time.Time) {
	ask := false
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.Status != ChildInstalled || c.IdleAt.IsZero() || now.Before(c.IdleAt) {
			continue
		}
		ask = true
		if d := m.inactivity(c, m.conn.Child(c.Name)); d <= 0 {
			c.IdleAt = time.Time{} // no longer configured
		} else {
			c.IdleAt = now.Add(d) // should there be no answer
		}
	}
	if ask && !m.hasJob(jobUse) {
		m.job(jobUse)
	}
}

// closeIdle ends the children that have had no traffic for too long.
func (m *Machine) closeIdle(uses []Use) {
	now := m.env.Now
	for i := range m.s.Children {
		c := &m.s.Children[i]
		limit := m.inactivity(c, m.conn.Child(c.Name))
		if c.Status != ChildInstalled || c.IdleAt.IsZero() || limit <= 0 {
			continue
		}
		last, known := c.InstalledAt, false
		for _, u := range uses {
			if u.Key == c.keyIn() || u.Key == c.keyOut() {
				known = true
				if u.Last.After(last) {
					last = u.Last
				}
			}
		}
		switch end := last.Add(limit); {
		case !known: // asked for before it was there
		case now.Before(end):
			c.IdleAt = end
		case c.bound():
			m.release(c, inactive)
		case m.hasBound(c): // which need it, and carry the traffic
			c.IdleAt = now.Add(limit)
		default:
			c.Status, c.EndReason, c.IdleAt = ChildDeleting, inactive, time.Time{}
			m.queue(Task{Kind: taskDeleteChild, Child: c.UniqueID})
		}
	}
	m.sweep()
}
