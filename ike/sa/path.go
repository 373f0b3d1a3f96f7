package sa

import "time"

// Path is where the peer can be reached and what fits through: addresses
// (RFC 4555), and the path MTU that was found.
type Path struct {
	MTU uint16 // octets of the outer IP packet; 0: not known
}

func (c *coder) path(p *Path) {
	num(c, &p.MTU)
}

// pathDeadline is when pathDue has something to do; zero: never.
func (m *Machine) pathDeadline() time.Time { return time.Time{} }

// pathDue does what the path asks for by now.
func (m *Machine) pathDue(now time.Time) {}
