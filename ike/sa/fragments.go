package sa

import "time"

// Fragments are those of one message that waits for the rest (RFC 7383 2.6).
type Fragments struct {
	Until time.Time // when they are dropped
}

func (c *coder) fragments(f *Fragments) {
	instant(c, &f.Until)
}

// fragmentsDeadline is when fragmentsDue has something to do; zero: never.
func (m *Machine) fragmentsDeadline() time.Time { return time.Time{} }

// fragmentsDue drops what has waited too long.
func (m *Machine) fragmentsDue(now time.Time) {}
