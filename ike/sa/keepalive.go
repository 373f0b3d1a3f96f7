package sa

import (
	"slices"
	"time"
)

// Who stands behind a NAT keeps its mapping alive (RFC 3948 4). The kernel does
// where it can (Linux 6.11), for it knows best whether ESP was sent: one outbound SA
// of the session carries the keepalives, and what replaces its child carries them
// on. More than one would each send its own. While none stands, the machine sends
// them: before the first CHILD SA and after the last, while that one is being moved,
// or when the one that carried them has ended before the others.

// keepaliveRetry is how often a session behind a NAT looks whether keepalives
// have been switched on.
const keepaliveRetry = time.Hour

// keepNAT decides whether a child that is about to be installed at a place, or moved
// there, carries the session's keepalives.
func (m *Machine) keepNAT(c *Child, at Place) {
	c.Options &^= ChildKeepsNAT
	if at.Encap && m.s.IKE.NATLocal && m.kernelCanKeep() && !m.keptByOther(c) {
		c.Options |= ChildKeepsNAT
	}
}

// kernelCanKeep: it counts whole seconds.
func (m *Machine) kernelCanKeep() bool {
	set := m.env.Settings
	return set.KernelKeepAlive && set.KeepAlive >= time.Second && !m.env.Lacks.NATKeepalive
}

// keptByOther reports whether a child of another configuration, so that it is
// neither replaced by this one nor replaces it, carries keepalives.
func (m *Machine) keptByOther(c *Child) bool {
	return slices.ContainsFunc(m.s.Children, func(o Child) bool {
		return o.Name != c.Name && o.Options&ChildKeepsNAT != 0 && (o.Status == ChildNegotiated || o.sends())
	})
}

// sends reports whether the child's outbound SA is in the kernel.
func (c *Child) sends() bool {
	return c.Status == ChildInstalled && !c.InboundOnly && !c.OutboundDue && c.Stop == StopNot
}

// kernelKeeps reports whether the kernel sends the session's keepalives now.
func (m *Machine) kernelKeeps() bool {
	at := m.s.IKE.place()
	return slices.ContainsFunc(m.s.Children, func(c Child) bool {
		return c.Options&ChildKeepsNAT != 0 && c.sends() && c.Moving == nil && c.place() == at
	})
}

// keepaliveDeadline is when keepaliveDue has something to do; zero: never.
func (m *Machine) keepaliveDeadline() time.Time {
	switch {
	case !m.s.IKE.NATLocal:
		return time.Time{}
	case m.s.Live.KeepAt.IsZero():
		return m.s.Since
	}
	return m.s.Live.KeepAt
}

// keepaliveDue sends a keepalive when the kernel does not, and nothing of ours went
// to the peer for long enough. The kernel is not asked for ESP because of that: a
// question costs more than the octet. What liveness learns of it counts.
func (m *Machine) keepaliveDue(now time.Time) {
	at := m.keepaliveDeadline()
	if at.IsZero() || now.Before(at) {
		return
	}
	l, k, every := &m.s.Live, &m.s.IKE, m.env.Settings.KeepAlive
	m.persist = true
	switch next := l.LastOut.Add(every); {
	case every <= 0:
		l.KeepAt = now.Add(keepaliveRetry)
	case m.kernelKeeps():
		l.KeepAt = now.Add(every)
	case next.After(now):
		l.KeepAt = next
	default:
		l.KeepAt = now.Add(every)
		if k.Local.Port() != m.env.Settings.Port { // where no ESP goes, no mapping is needed
			m.act(Keepalive{k.Local, k.Remote})
		}
	}
}
