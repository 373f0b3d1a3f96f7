package sa

import "time"

// Live is what a session knows about its peer being there (RFC 7296 2.4).
type Live struct {
	LastIn time.Time // when the peer last proved that it lives
}

func (c *coder) live(l *Live) {
	instant(c, &l.LastIn)
}

// liveDeadline is when liveDue has something to do; zero: never.
func (m *Machine) liveDeadline() time.Time { return time.Time{} }

// liveDue does what liveness asks for by now.
func (m *Machine) liveDue(now time.Time) {}
