package sa

import (
	"slices"
	"time"

	"espalier/dataplane"
)

// Live is what a session knows about its peer being there (RFC 7296 2.4).
type Live struct {
	LastIn  time.Time // when the peer last proved that it lives
	LastOut time.Time // when we last sent it a message, repetitions of answers aside, or ESP, as far as we know
	KeepAt  time.Time // when a NAT keepalive is due
	CheckAt time.Time // when that is looked at next
	Asking  bool      // the use of the SAs is asked for to see whether the peer lives
}

func (c *coder) live(l *Live) {
	instant(c, &l.LastIn)
	instant(c, &l.LastOut)
	instant(c, &l.KeepAt)
	instant(c, &l.CheckAt)
	boolean(c, &l.Asking)
}

// The kinds of task and job that keep a session alive.
const (
	taskCheck TaskKind = 20 // an empty INFORMATIONAL, to which the peer must answer
	jobUse    JobKind  = 20 // when the CHILD SAs were last used
)

// liveDeadline is when liveDue has something to do; zero: never.
func (m *Machine) liveDeadline() time.Time {
	if m.s.Phase != Established {
		return time.Time{}
	}
	check, keep := m.checkDeadline(), m.keepaliveDeadline()
	if check.IsZero() || !keep.IsZero() && keep.Before(check) {
		return keep
	}
	return check
}

// liveDue does what liveness asks for by now.
func (m *Machine) liveDue(now time.Time) {
	if m.s.Phase == Established {
		m.checkDue(now)
		m.keepaliveDue(now)
		m.idleDue(now)
	}
}

// alive notes that the peer has just proved that it lives: an authentic message.
func (m *Machine) alive() { m.s.Live.LastIn = m.env.Now }

// checkDeadline is when the peer's silence may have lasted for dpd_delay.
func (m *Machine) checkDeadline() time.Time {
	if m.conn == nil || m.conn.DPDDelay <= 0 {
		return time.Time{}
	}
	if at := m.s.Live.CheckAt; !at.IsZero() {
		return at
	}
	return m.s.Since.Add(m.conn.DPDDelay)
}

// checkDue asks the peer for a sign of life when neither a message nor a packet
// of its came for dpd_delay. What came is looked at only now and then: a message
// moves no deadline.
func (m *Machine) checkDue(now time.Time) {
	l := &m.s.Live
	if at := m.checkDeadline(); at.IsZero() || now.Before(at) {
		return
	}
	delay := m.conn.DPDDelay
	m.persist = true
	if at := l.LastIn.Add(delay); at.After(now) {
		l.CheckAt = at
		return
	}
	l.CheckAt = now.Add(delay)
	switch {
	case m.s.IKE.Request != nil: // its repetitions are a check, too
	case len(m.useKeys()) > 0:
		if l.Asking = true; !m.hasJob(jobUse) {
			m.job(jobUse)
		}
	default:
		m.check()
	}
}

// check asks the peer whether it lives.
func (m *Machine) check() {
	if !slices.ContainsFunc(m.s.Tasks, func(t Task) bool { return t.Kind == taskCheck }) {
		m.queue(Task{Kind: taskCheck})
	}
}

// useKeys are the SAs whose use says something: both of each installed child.
func (m *Machine) useKeys() []dataplane.SAKey {
	var keys []dataplane.SAKey
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.Status == ChildInstalled {
			keys = append(keys, c.keyIn())
			if !c.InboundOnly {
				keys = append(keys, c.keyOut())
			}
		}
	}
	return keys
}

// used continues with when the SAs were last used.
func (m *Machine) used(uses []Use) {
	if m.s.Phase != Established {
		return
	}
	l, now := &m.s.Live, m.env.Now
	for _, u := range uses {
		for i := range m.s.Children {
			switch c := &m.s.Children[i]; {
			case c.keyIn() == u.Key && u.Last.After(l.LastIn):
				l.LastIn = u.Last // only the peer can have sent what passed the check
			case c.keyOut() == u.Key && u.Last.After(l.LastOut) && c.place() == m.s.IKE.place():
				l.LastOut = u.Last // it kept the mapping of a NAT, too
			}
		}
	}
	m.closeIdle(uses)
	delay := m.conn.DPDDelay
	if !l.Asking || delay <= 0 {
		return
	}
	l.Asking = false
	if at := l.LastIn.Add(delay); at.After(now) {
		l.CheckAt = at
		return
	}
	m.check()
}

func (m *Machine) hasJob(kind JobKind) bool {
	return slices.ContainsFunc(m.s.Jobs, func(j JobRef) bool { return j.Kind == kind })
}

// networkChanged checks the path to the peer at once: what we wait for is sent
// once more, or the peer is asked whether it hears us.
func (m *Machine) networkChanged(paths []Ends) {
	m.pathsChanged(paths)
	if m.s.Phase >= Cleaning {
		return
	}
	if m.hasTaskKind(taskUpdate) { // what says more than a check
		m.nextTask()
		m.pathChanged()
		return
	}
	m.pathChanged()
	waits := false
	for k := range m.ikes() {
		if k.Request != nil {
			waits = waits || k == &m.s.IKE
			m.send(k.Local, k.Remote, k.Request.Data)
		}
	}
	if !waits && m.s.Phase == Established {
		m.check()
	}
}
