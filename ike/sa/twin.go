package sa

// Two CHILD SAs with one identity, name, selectors and CPU or none, are a duplicate, be it
// that both sides have asked for it at once. As with rekeyings (RFC 7296 2.8.1)
// one of them goes, and who has made it deletes it: the one with the lower SPIs,
// which both sides know.

// dropTwin looks for a duplicate of a child that has just been installed, or has
// just got rid of the one that it replaces.
func (m *Machine) dropTwin(c *Child) {
	if c.Status != ChildInstalled || c.bound() { // several of a CPU are what a peer with more CPUs makes
		return
	}
	for i := range m.s.Children {
		o := &m.s.Children[i]
		if o.UniqueID == c.UniqueID || o.Status != ChildInstalled || m.unproven(o) || m.unproven(c) || !sameIdentity(o, c) || o.replaces(c) || c.replaces(o) || m.rivals(o, c) {
			continue
		}
		loser := c
		if o.lowerSPIs(c) {
			loser = o
		}
		if loser.Initiator {
			m.deleteTwin(loser.UniqueID)
		}
	}
}

func (m *Machine) deleteTwin(id uint64) {
	if c := m.child(id); c != nil && c.Status == ChildInstalled {
		c.Status, c.EndReason, c.Stop = ChildDeleting, "a duplicate", StopDue
		m.sweep()
	}
}

func sameIdentity(a, b *Child) bool {
	return inGroup(a, b) && a.bound() == b.bound() && a.CPU == b.CPU
}

// replaces reports whether n was made in the place of old.
func (c *Child) replaces(old *Child) bool {
	return old.OwnNew == c.UniqueID || old.PeerNew == c.UniqueID
}

// rivals reports whether both were made in the place of a third one: nonces
// decide.
func (m *Machine) rivals(a, b *Child) bool {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; a.replaces(c) && b.replaces(c) {
			return true
		}
	}
	return false
}

// lowerSPIs compares the pairs of SPIs, in an order that is the same on both
// sides.
func (c *Child) lowerSPIs(o *Child) bool {
	a, b := min(c.SPIIn, c.SPIOut), min(o.SPIIn, o.SPIOut)
	if a == b {
		a, b = max(c.SPIIn, c.SPIOut), max(o.SPIIn, o.SPIOut)
	}
	return a < b
}
