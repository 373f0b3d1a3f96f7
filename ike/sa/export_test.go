package sa

// TestState is the machine's state, for tests that play the peer with the
// session's own keys.
func (m *Machine) TestState() *State { return &m.s }
