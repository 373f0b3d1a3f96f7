package sa

import "time"

// keepaliveRetry is how often a session behind a NAT looks whether keepalives
// have been switched on.
const keepaliveRetry = time.Hour

// keepaliveDeadline is when keepaliveDue has something to do; zero: never. Only
// who stands behind a NAT keeps its mapping alive (RFC 3948 4).
func (m *Machine) keepaliveDeadline() time.Time {
	switch {
	case !m.s.IKE.NATLocal:
		return time.Time{}
	case m.s.Live.KeepAt.IsZero():
		return m.s.Since
	}
	return m.s.Live.KeepAt
}

// keepaliveDue sends a keepalive when no message of ours went to the peer for
// long enough. ESP is not asked about: a question to the kernel costs more than
// the octet.
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
	case next.After(now):
		l.KeepAt = next
	default:
		l.KeepAt = now.Add(every)
		if k.Local.Port() != m.env.Settings.Port { // where no ESP goes, no mapping is needed
			m.act(Keepalive{k.Local, k.Remote})
		}
	}
}
