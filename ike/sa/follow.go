package sa

import "slices"

// FollowUp is what follows a CHILD SA that is gone although nobody of ours asked
// for that: dpd_action and close_action, as a bitmask.
type FollowUp uint8

// The follow-ups; their numbers are part of the encoding.
const (
	FollowTrap  FollowUp = 1 // a trap policy takes its place
	FollowStart FollowUp = 2 // it is set up again
)

// followDead notes what follows the children when the peer is dead.
func (m *Machine) followDead() {
	m.follow(func(c *ChildConfig) FollowUp { return c.DPDAction })
}

// followClosed notes what follows them when the peer, or a failure, ends the IKE
// SA.
func (m *Machine) followClosed() {
	m.follow(func(c *ChildConfig) FollowUp { return c.CloseAction })
}

func (m *Machine) follow(action func(*ChildConfig) FollowUp) {
	if m.s.Phase != Established || slices.Contains(m.s.Tasks, Task{Kind: taskDeleteIKE}) {
		return // not up yet, or ended by us
	}
	for i := range m.s.Children {
		m.followChild(&m.s.Children[i], action)
	}
}

// followChild notes what follows one child, and asks for its trap at once, so
// that no packet finds neither of them.
func (m *Machine) followChild(c *Child, action func(*ChildConfig) FollowUp) {
	cfg := m.conn.Child(c.Name)
	if cfg == nil || c.bound() || c.Status != ChildInstalled || m.child(c.OwnNew) != nil || m.child(c.PeerNew) != nil {
		return // we are deleting it, or another has its place already
	}
	c.Then = action(cfg)
	if c.Then&FollowTrap != 0 {
		m.act(PutTrap{m.s.Conn, c.Name})
	}
}

// followed sets off what was to follow a child, now that it is gone.
func (m *Machine) followed(c *Child) {
	if c.Then&FollowStart != 0 {
		m.act(Restart{m.s.Conn, c.Name})
	}
}
